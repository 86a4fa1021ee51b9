import numpy as np
import pytest
import torch
from torch import Tensor

from kvpred.caches.packing import pack, unpack

WIDTHS = range(2, 9)


def draw(bits: int, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(2**bits, (2, 3, n), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 64, 65])
@pytest.mark.parametrize("bits", WIDTHS)
def test_codes_come_back_from_the_fewest_bytes(bits: int, n: int) -> None:
    codes = draw(bits, n)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (2, 3, -(-n * bits // 8))
    assert torch.equal(unpack(packed, bits, n), codes)


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("bits", WIDTHS)
def test_codes_form_a_little_endian_stream_of_bits(bits: int, n: int) -> None:
    codes = draw(bits, n)
    stream = np.unpackbits(codes.numpy()[..., None], axis=-1, bitorder="little")[..., :bits].reshape(2, 3, -1)
    assert np.array_equal(pack(codes, bits).numpy(), np.packbits(stream, axis=-1, bitorder="little"))


@pytest.mark.parametrize("bits", WIDTHS)
def test_strides_do_not_matter(bits: int) -> None:
    codes = draw(bits, 24).transpose(0, 2)
    packed = pack(codes, bits)
    assert torch.equal(packed, pack(codes.contiguous(), bits))
    strided = packed.transpose(0, 2).contiguous().transpose(0, 2)
    assert torch.equal(unpack(strided, bits, codes.shape[2]), codes)


def test_whole_bytes_are_not_copied() -> None:
    codes = draw(8, 16)
    assert pack(codes, 8) is codes
    assert unpack(codes, 8, 16) is codes

"""Codes of 2 to 8 bits, packed without gaps into bytes and unpacked again."""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import pad


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes along the last axis into a little-endian stream of bits.

    Parameters
    ----------
    codes : Tensor, uint8, shape (..., n)
        Each below 2^bits.
    bits : int
        Width of a code, 2 to 8.

    Returns
    -------
    Tensor
        uint8, shape (..., ceil(n · bits / 8)); `codes` itself if `bits` is 8.

    Examples
    --------
    >>> pack(torch.tensor([1, 2, 3], dtype=torch.uint8), 4)
    tensor([33,  3], dtype=torch.uint8)
    """
    if bits == 8:
        return codes
    n = codes.shape[-1]
    n_codes, n_bytes = _run(bits)
    columns = _columns(codes, n_codes)
    packed = codes.new_empty(*columns[0].shape, n_bytes)
    for byte in range(n_bytes):
        shifts = [(code, code * bits - 8 * byte) for code in range(n_codes)]
        here = [_shifted(columns[code], shift) for code, shift in shifts if -bits < shift < 8]
        packed[..., byte] = reduce(torch.bitwise_or, here)
    return packed.flatten(-2)[..., : -(-n * bits // 8)]


def unpack(packed: Tensor, bits: int, n: int) -> Tensor:
    """Return the `n` codes along the last axis that `pack` packed.

    Parameters
    ----------
    packed : Tensor, uint8, shape (..., ceil(n · bits / 8))
    bits : int
        Width of a code, 2 to 8.
    n : int
        Codes along the last axis.

    Returns
    -------
    Tensor
        uint8, shape (..., n); `packed` itself if `bits` is 8.

    Examples
    --------
    >>> unpack(torch.tensor([33, 3], dtype=torch.uint8), 4, 3)
    tensor([1, 2, 3], dtype=torch.uint8)
    """
    if bits == 8:
        return packed
    if bits in (2, 4):
        return _halved(packed, bits)[..., :n]
    n_codes, n_bytes = _run(bits)
    columns = _columns(packed, n_bytes)
    codes = packed.new_empty(*columns[0].shape, n_codes)
    for code in range(n_codes):
        byte, shift = divmod(code * bits, 8)
        here = columns[byte] >> shift
        if shift + bits > 8:
            here |= columns[byte + 1] << (8 - shift)
        codes[..., code] = here.bitwise_and_(2**bits - 1)
    return codes.flatten(-2)[..., :n]


def _halved(packed: Tensor, bits: int) -> Tensor:
    """Spread each byte over two until a byte holds one code; 16-bit words keep every access contiguous."""
    for half in (4, 2)[: 4 // bits]:
        words = packed.to(torch.int16, memory_format=torch.contiguous_format)
        words = (words | words << (8 - half)).bitwise_and_((2**half - 1) * 0x0101)
        packed = words.view(torch.uint8)
    return packed


def _run(bits: int) -> tuple[int, int]:
    """Return the shortest run of codes that fills whole bytes: its codes, its bytes."""
    whole = math.lcm(bits, 8)
    return whole // bits, whole // 8


def _columns(entries: Tensor, length: int) -> list[Tensor]:
    """Cut the last axis into runs of this length; gather each place of a run, as arithmetic likes it."""
    runs = pad(entries, (0, -entries.shape[-1] % length)).unflatten(-1, (-1, length))
    return [column.contiguous() for column in runs.unbind(-1)]


def _shifted(codes: Tensor, shift: int) -> Tensor:
    return codes << shift if shift >= 0 else codes >> -shift

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from kvpred.caches import CacheLayer, make_layer
from kvpred.caches.attention import decode_attention
from kvpred.methods import get_method
from kvpred.methods.kv_fp8 import KvFp8

Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]

LARGEST = 448
"""Largest number of e4m3 (Micikevicius et al., 2022, table 1)."""

SMALLEST_NORMAL = 2**-6
SMALLEST = 2**-9

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
"""Of outputs below 1."""


def filled(key: Tensor, value: Tensor, mask: Tensor | None = None) -> CacheLayer[KvFp8]:
    layer = make_layer(get_method("kv-fp8"))
    layer.step(key, key, value, 0.125, mask)
    return layer


def test_scales_bring_each_heads_largest_entry_to_the_largest_number(entries: Draw) -> None:
    _, key, value = entries(2, 50)
    layer = filled(key, value)
    assert layer.shared["scales/keys"].dtype == torch.float32
    assert_close(layer.shared["scales/keys"].flatten(), key.abs().amax(dim=(0, 2, 3)) / LARGEST)
    assert_close(layer.shared["scales/values"].flatten(), value.abs().amax(dim=(0, 2, 3)) / LARGEST)


def test_padding_does_not_set_the_scales(entries: Draw) -> None:
    _, key, value = entries(2, 50)
    mask = torch.arange(50) >= torch.tensor([[0], [9]])
    expected = filled(key * mask[:, None, :, None], value).shared["scales/keys"]
    key[1, :, :9] = 1000
    assert_close(filled(key, value, mask).shared["scales/keys"], expected)


def test_the_round_trip_keeps_four_significant_bits(entries: Draw) -> None:
    _, key, value = entries(2, 500)
    layer = filled(key, value)
    for exact, found, scale in zip((key, value), layer.materialise(), layer.shared.values(), strict=True):
        # Three bits of mantissa: off by at most half a unit in the last place, a 16th of the number.
        bound = torch.maximum(exact.abs() / 16, scale * SMALLEST / 2)
        assert ((found - exact).abs() <= 1.001 * bound).all()
        normal = exact.abs() > scale * SMALLEST_NORMAL
        worst = ((found - exact).abs() / exact.abs())[normal].max()
        assert 0.9 / 17 < worst <= 1.001 / 16


def test_later_tokens_are_clamped_to_what_the_prompt_reached(entries: Draw) -> None:
    _, key, value = entries(1, 50)
    layer = filled(key, value)
    scale = layer.shared["scales/keys"].clone()
    layer.append(1000 * key[:, :, :1], value[:, :, :1])
    keys, _ = layer.materialise()
    assert torch.equal(layer.shared["scales/keys"], scale)
    assert_close(keys[:, :, -1:], 1000 * scale * LARGEST / 1000 * key[:, :, :1].sign())


def test_a_head_of_zeros_stays_one(entries: Draw) -> None:
    query, key, value = entries(1, 50)
    key[:, 1] = value[:, 1] = 0
    layer = filled(key, value)
    assert all((part[:, 1] == 0).all() for part in layer.materialise())
    assert layer.attend(query[:, :, :1], 0.125).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_attention_to_codes_is_attention_to_what_they_stand_for(dtype: torch.dtype, entries: Draw) -> None:
    query, key, value = entries(2, 60, dtype=dtype)
    layer = filled(key, value, torch.arange(60) >= torch.tensor([[0], [9]]))
    layer.append(key[:, :, :1], value[:, :, :1])
    found = layer.attend(query[:, :, :1], 0.125)
    keys, values = (part.float() for part in layer.materialise())
    expected = decode_attention(query[:, :, :1].float(), keys, values, 0.125, mask=layer._mask(61))
    assert found.dtype == dtype
    assert_close(found.float(), expected, atol=TOLERANCE[dtype], rtol=0)


def test_codes_take_a_byte_each_and_scales_four(entries: Draw) -> None:
    _, key, value = entries(2, 50)
    assert filled(key, value).parts() == {"codes": 2 * 50 * 2 * 3 * 64, "scales": 2 * 3 * 4}

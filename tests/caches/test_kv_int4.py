from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kvpred.caches import CacheLayer, make_layer
from kvpred.methods import get_method
from kvpred.methods.quantisation import PerTokenInteger
from kvpred.models import get_model

Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]


def filled(spec: str, key: Tensor, value: Tensor) -> CacheLayer[PerTokenInteger]:
    """Take entries into a new layer."""
    layer = make_layer(get_method(spec))
    layer.update(key, value)
    return layer


def test_entries_come_back_within_half_a_step_of_their_token(entries: Draw) -> None:
    _, key, value = entries(2, 50)
    for entry, kept in zip((key, value), filled("kv-int4", key, value).materialise(), strict=True):
        low, high = entry.aminmax(dim=3, keepdim=True)
        assert ((kept - entry).abs() <= 1.02 * (high - low) / 15 / 2).all()


def test_attention_errs_more_than_at_8_bits(entries: Draw) -> None:
    query, key, value = entries(2, 600)
    query = query[:, :, -1:]
    full = scaled_dot_product_attention(query, key, value, enable_gqa=True)
    four, eight = (
        (filled(spec, key, value).attend(query, 0.125) - full).norm() for spec in ("kv-int4", "kv-int8")
    )
    assert 4 * eight < four < 0.2 * full.norm()


@pytest.mark.parametrize("dim", [64, 65])
def test_two_codes_share_a_byte(dim: int, entries: Draw) -> None:
    _, key, value = entries(2, 10, dim=dim, dtype=torch.bfloat16)
    layer = filled("kv-int4", key, value)
    model = replace(get_model("smollm2-135m"), n_layers=1, head_dim=dim)
    assert layer.parts() == layer.method.cache_parts(model, bsz=2, kv_len=10)
    assert layer.materialise()[0].shape == key.shape

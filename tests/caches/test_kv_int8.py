from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kvpred.caches import make_layer
from kvpred.methods import get_method

Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]


def kept(spec: str, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Take entries into a new layer, and return what comes back."""
    layer = make_layer(get_method(spec))
    layer.update(key, value)
    return layer.materialise()


@pytest.mark.parametrize(
    ("dtype", "slack"), [(torch.float32, 1.1), (torch.float16, 1.3), (torch.bfloat16, 2.1)]
)
def test_entries_come_back_within_half_a_step_of_their_token(
    dtype: torch.dtype, slack: float, entries: Draw
) -> None:
    _, key, value = entries(2, 50, dtype=dtype)
    for entry, other in zip((key, value), kept("kv-int8", key, value), strict=True):
        assert other.dtype == dtype
        low, high = entry.float().aminmax(dim=3, keepdim=True)
        # Numbers in 16 bit are themselves rounded, those in bfloat16 by up to half a step.
        assert ((other.float() - entry.float()).abs() <= slack * (high - low) / 255 / 2).all()


def test_each_token_and_head_has_its_own_scale(entries: Draw) -> None:
    _, key, value = entries(2, 50)
    sizes = torch.logspace(-2, 2, 2 * 3 * 50).reshape(2, 3, 50, 1)
    for entry, other in zip((key, value), kept("kv-int8", key * sizes, value * sizes), strict=True):
        assert (other / sizes - entry).abs().max() < 0.02


def test_a_token_of_equal_entries_comes_back_as_it_is() -> None:
    equal = torch.tensor([0.0, 1.5, -300.0])[:, None].expand(1, 2, 3, 64)
    for other in kept("kv-int8", equal, equal):
        assert torch.equal(other, equal)


def test_single_steps_leave_what_a_prompt_would(entries: Draw) -> None:
    _, key, value = entries(2, 30)
    layer = make_layer(get_method("kv-int8"))
    layer.update(key[:, :, :10], value[:, :, :10])
    for token in range(10, 30):
        layer.append(key[:, :, token : token + 1], value[:, :, token : token + 1])
    for stepwise, at_once in zip(layer.materialise(), kept("kv-int8", key, value), strict=True):
        assert torch.equal(stepwise, at_once)


def test_attention_is_within_a_percent_of_full_attention(entries: Draw) -> None:
    query, key, value = entries(2, 600)
    query = query[:, :, -1:]
    layer = make_layer(get_method("kv-int8"))
    layer.update(key, value)
    full = scaled_dot_product_attention(query, key, value, enable_gqa=True)
    assert (layer.attend(query, 0.125) - full).norm() < 0.01 * full.norm()

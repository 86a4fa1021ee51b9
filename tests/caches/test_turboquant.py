from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor
from torch.testing import assert_close

from kvpred.caches import CacheLayer, make_layer
from kvpred.caches.attention import decode_attention
from kvpred.caches.turboquant import Codebook, optimal_levels, rotation
from kvpred.methods import get_method
from kvpred.methods.turboquant import TurboQuant

Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]

# Max, "Quantizing for minimum distortion" (1960), table I: least mean squared error of 2^bits levels for a
# Gaussian of variance 1. TurboQuant's theorem 1 rounds them to 0.36, 0.117, 0.03, 0.009.
GAUSSIAN = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497, 5: 0.002499}

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
"""Of outputs below 1."""


def filled(spec: str, key: Tensor, value: Tensor, mask: Tensor | None = None) -> CacheLayer[TurboQuant]:
    layer = make_layer(get_method(spec))
    layer.step(key, key, value, 0.125, mask)
    return layer


def error(found: Tensor, exact: Tensor) -> float:
    """Mean squared error of a vector, as a share of its squared norm."""
    return float(((found - exact).square().sum(-1) / exact.square().sum(-1)).mean())


def least_error(bits: int, head_dim: int) -> float:
    """Mean squared error of a unit vector under the codebook, by integrating over the density."""
    levels = optimal_levels(bits, head_dim).double().numpy()
    bounds = [-1, *(levels[1:] + levels[:-1]) / 2, 1]

    def density(x: float) -> float:
        return (1 - x * x) ** ((head_dim - 3) / 2)

    cells = [
        quad(lambda x, level=level: (x - level) ** 2 * density(x), low, high)[0]
        for level, low, high in zip(levels, bounds[:-1], bounds[1:], strict=True)
    ]
    return head_dim * sum(cells) / quad(density, -1, 1)[0]


@pytest.mark.parametrize("bits", GAUSSIAN)
def test_codebooks_reach_the_least_error_known_for_gaussians(bits: int) -> None:
    # In 1,024 dimensions a coordinate is Gaussian but for a thousandth; in 64 its tails are lighter.
    assert least_error(bits, 1024) == pytest.approx(GAUSSIAN[bits], rel=0.01)
    assert 0.95 * GAUSSIAN[bits] < least_error(bits, 64) < GAUSSIAN[bits]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_level_is_the_mean_of_what_it_stands_for(bits: int) -> None:
    levels = optimal_levels(bits, 64)
    torch.manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(20_000, 64), dim=1).flatten()
    cells = torch.bucketize(x, (levels[1:] + levels[:-1]) / 2)
    for cell, level in enumerate(levels):
        inside = x[cells == cell]
        if len(inside) > 1000:
            assert abs(inside.mean() - level) < 5 * inside.std() / len(inside) ** 0.5
    assert len(x[cells == 2 ** (bits - 1)]) > 1000


def test_codebooks_are_symmetric_and_ascend() -> None:
    levels = optimal_levels(4, 64)
    assert (levels.diff() > 0).all()
    assert_close(levels, -levels.flip(0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("head_dim", [32, 64, 80, 128])
def test_the_rotation_is_orthogonal_and_always_the_same(head_dim: int) -> None:
    first = rotation(head_dim).clone()
    rotation.cache_clear()
    assert torch.equal(first, rotation(head_dim))
    assert_close(first @ first.T, torch.eye(head_dim), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("bits", "expected"), [(2, 0.1145), (3, 0.03339), (4, 0.009132), (8, 3.92e-5)])
def test_the_error_of_a_vector_is_the_codebooks(bits: int, expected: float, entries: Draw) -> None:
    assert least_error(bits, 64) == pytest.approx(expected, rel=0.005)
    _, key, value = entries(2, 1000)
    keys, values = filled(f"turboquant:bits={bits}", key, value).materialise()
    assert error(keys, key) == pytest.approx(expected, rel=0.05)
    assert error(values, value) == pytest.approx(expected, rel=0.05)


def test_outliers_in_one_channel_do_not_matter(entries: Draw) -> None:
    _, key, value = entries(1, 500)
    key[..., 5] *= 50
    keys, _ = filled("turboquant", key, value).materialise()
    assert error(keys, key) == pytest.approx(0.0091, rel=0.25)


def test_keys_may_be_wider_than_values(entries: Draw) -> None:
    _, key, value = entries(1, 500)
    keys, values = filled("turboquant:bits=k8v4", key, value).materialise()
    assert error(keys, key) == pytest.approx(3.92e-5, rel=0.05)
    assert error(values, value) == pytest.approx(0.009132, rel=0.05)


def test_norms_are_kept_in_fp16(entries: Draw) -> None:
    _, key, value = entries(2, 50)
    layer = filled("turboquant", 100 * key, value)
    norms = torch.cat([100 * key, value], dim=1).norm(dim=-1, keepdim=True)
    assert torch.equal(layer._tokens("norms").view, norms.half())


def test_a_vector_of_zeros_stays_one(entries: Draw) -> None:
    query, key, value = entries(1, 20)
    key[:, :, 3] = value[:, :, 3] = 0
    layer = filled("turboquant", key, value)
    assert all((part[:, :, 3] == 0).all() for part in layer.materialise())
    assert layer.attend(query[:, :, :1], 0.125).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", ["2", "3", "4", "5", "6", "7", "8", "k8v4"])
def test_attention_to_codes_is_attention_to_what_they_stand_for(
    bits: str, dtype: torch.dtype, entries: Draw
) -> None:
    query, key, value = entries(2, 60, dtype=dtype)
    mask = torch.arange(60) >= torch.tensor([[0], [9]])
    layer = filled(f"turboquant:bits={bits}", key, value, mask)
    layer.append(key[:, :, :1], value[:, :, :1])
    found = layer.attend(query[:, :, :1], 0.125)
    keys, values = (part.float() for part in layer.materialise())
    expected = decode_attention(query[:, :, :1].float(), keys, values, 0.125, mask=layer._mask(61))
    assert found.dtype == dtype
    assert_close(found.float(), expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("head_dim", [20, 64, 80])
@pytest.mark.parametrize("bits", range(2, 9))
def test_decoding_finds_the_nearest_levels(bits: int, head_dim: int) -> None:
    levels = optimal_levels(bits, 64)
    book = Codebook(levels, bits, torch.float32)
    numbers = torch.linspace(-0.6, 0.6, 3 * 5 * head_dim).view(3, 5, head_dim)
    nearest = levels[(numbers[..., None] - levels).abs().argmin(-1)]
    packed = book.encode(numbers)
    assert packed.shape[-1] == int(np.ceil(bits * head_dim / 8))
    assert_close(book.decode(packed, head_dim), nearest, atol=1e-6, rtol=0)


def test_the_prompt_is_attended_to_in_16_bit(entries: Draw) -> None:
    query, key, value = entries(1, 30)
    plain, coarse = (make_layer(get_method(spec)) for spec in ("fp16", "turboquant:bits=2"))
    assert torch.equal(
        plain.step(query, key, value, 0.125, None), coarse.step(query, key, value, 0.125, None)
    )

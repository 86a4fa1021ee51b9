from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from kvpred.caches import CacheLayer, make_layer
from kvpred.caches.gear import GearLayer, principal_basis
from kvpred.methods import get_method
from kvpred.methods.gear import Gear

SMALL = "group_size=8,residual_length=16"

Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]


def filled(spec: str, key: Tensor, value: Tensor, *, prompt_len: int | None = None) -> CacheLayer[Gear]:
    """Take entries into a new layer: the prompt at once, the others one by one."""
    layer = make_layer(get_method(spec))
    prompt_len = key.shape[2] if prompt_len is None else prompt_len
    layer.update(key[:, :, :prompt_len], value[:, :, :prompt_len])
    for token in range(prompt_len, key.shape[2]):
        layer.append(key[:, :, token : token + 1], value[:, :, token : token + 1])
    return layer


def lifelike(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and stretch a few channels of the keys, and stretch a few entries of both, as in real models."""
    channels = torch.linspace(-1, 1, key.shape[3]) ** 9 * 20
    rare = torch.rand(key.shape, generator=torch.Generator().manual_seed(1)) < 0.005
    return (key * (1 + channels.abs() / 5) + channels) * (1 + 3 * rare), value * (1 + 7 * rare)


@pytest.mark.parametrize("data", [lifelike, lambda key, value: (key, value)], ids=["lifelike", "normal"])
@pytest.mark.parametrize("prompt_len", [300, 1])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_error_is_below_kivis(
    bits: int, prompt_len: int, data: Callable[..., tuple[Tensor, Tensor]], entries: Draw
) -> None:
    key, value = data(*entries(2, 300)[1:])
    gear = filled(f"gear:bits={bits}", key, value, prompt_len=prompt_len).materialise()
    kivi = filled(f"kivi:bits={bits}", key, value, prompt_len=prompt_len).materialise()
    for entry, mended, plain in zip((key, value), gear, kivi, strict=True):
        assert (mended - entry).norm() < 0.95 * (plain - entry).norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_outliers_come_back_exact_up_to_fp16(dtype: torch.dtype, entries: Draw) -> None:
    _, key, value = entries(2, 160, dtype=dtype)
    key[0, 1, 5, 7], key[1, 2, 40, 0], value[1, 0, 9, 63], value[0, 2, 31, 1] = 90.1, -80.2, 70.3, -60.4
    keys, values = filled("gear", key, value).materialise()
    for kept, entry in ((keys, key), (values, value)):
        large = entry.abs() > 50
        assert large.sum() == 2
        assert torch.equal(kept[large], entry[large].half().to(dtype))


def test_an_outlier_does_not_coarsen_its_group(entries: Draw) -> None:
    _, key, value = entries(1, 160)
    key[0, 0, 5, 7] = value[0, 0, 5, 7] = 1000.0
    keys, values = filled("gear:bits=8", key, value).materialise()
    assert (keys - key).abs().max() < 0.03
    assert (values - value).abs().max() < 0.03


def test_without_outliers_and_rank_it_is_kivi(entries: Draw) -> None:
    _, key, value = entries(2, 200)
    gear = filled("gear:outlier=0,rank=0", key, value, prompt_len=140).materialise()
    for kept, expected in zip(gear, filled("kivi", key, value, prompt_len=140).materialise(), strict=True):
        assert torch.equal(kept, expected)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_higher_rank_mends_more(share: float, entries: Draw) -> None:
    _, key, value = entries(2, 256)
    low, high = (
        filled(f"gear:bits=2,outlier=0,rank={rank}", key, value).materialise() for rank in (0.02, share)
    )
    for entry, little, much in zip((key, value), low, high, strict=True):
        assert (much - entry).norm() < 0.8 * (little - entry).norm()
    if share == 1:
        assert (high[0] - key).abs().max() < 0.01  # the factors hold the whole error


def test_whole_groups_of_outliers_are_served(entries: Draw) -> None:
    _, key, value = entries(1, 64)
    keys, values = filled(f"gear:bits=2,outlier=0.99,{SMALL}", key, value).materialise()
    assert_close(keys, key, atol=1e-3, rtol=1e-3)
    assert_close(values, value, atol=1e-3, rtol=1e-3)


def test_later_tokens_are_projected_on_the_prompts_basis(entries: Draw) -> None:
    _, key, value = entries(2, 80)
    layer = filled(f"gear:{SMALL}", key[:, :, :48], value[:, :, :48])
    assert isinstance(layer, GearLayer)
    bases = {name: layer.sequences[f"low_rank/{name}/basis"].view.clone() for name in ("keys", "values")}
    for token in range(48, 80):
        layer.update(key[:, :, token : token + 1], value[:, :, token : token + 1])
    for name, basis in bases.items():
        assert torch.equal(layer.sequences[f"low_rank/{name}/basis"].view, basis)
    assert len(layer.sequences["low_rank/keys/rows"]) == 80
    assert len(layer.sequences["low_rank/values/rows"]) == 64


def test_power_iteration_finds_what_errors_lean_to() -> None:
    generator = torch.Generator().manual_seed(0)
    leaning = torch.randn(2, 3, 100, 2, generator=generator) @ torch.randn(2, 3, 2, 64, generator=generator)
    errors = leaning + 0.1 * torch.randn(2, 3, 100, 64, generator=generator)
    basis = principal_basis(errors, 2)
    assert_close(basis.mT @ basis, torch.eye(2).expand(2, 3, 2, 2))
    assert_close(errors @ basis @ basis.mT, leaning, atol=0.35, rtol=0)
    best = torch.linalg.svdvals(errors)[..., 2:].square().sum(dim=2)
    assert_close((errors - errors @ basis @ basis.mT).square().sum(dim=(2, 3)), best, rtol=1e-3, atol=0)

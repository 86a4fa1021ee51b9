"""What a point is expected to need grows with what it asks for, and shrinks with what a method drops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.methods import get_method, list_methods
from kvpred.models import ModelSpec, get_model
from kvpred.profiling.expectation import expected_s, needed_bytes
from kvpred.profiling.grid import STAGES, Grid, Site, StageGrid

MODEL = get_model("smollm2-135m")
ROOFLINE = {"bytes_s": 1e10, "flops_s": 1e11}
METHODS = [method.name for method in list_methods()]
EVICTING = ["h2o", "streamingllm", "snapkv"]
batches, lengths = st.integers(1, 64), st.integers(1, 16384)


def _needed(method: str, site: Site, *, model: ModelSpec = MODEL, n_layers: int = 30) -> int:
    return needed_bytes(get_method(method), model, site, n_layers=n_layers)


def _expected(method: str, site: Site, *, repeats: int = 4, n_layers: int = 30) -> float:
    grid = Grid(decode=StageGrid(bsz=[1], length=[1]), repeats=repeats)
    return expected_s(get_method(method), MODEL, site, n_layers=n_layers, grid=grid, roofline=ROOFLINE)


@pytest.mark.parametrize("stage", STAGES)
@given(method=st.sampled_from(METHODS), bsz=batches, length=lengths, more=st.integers(1, 32))
def test_longer_and_larger_points_never_need_less(
    stage: str, method: str, bsz: int, length: int, more: int
) -> None:
    """Longer by whole windows of 128 tokens: where one fills, a quantiser's cache shrinks."""
    needed = _needed(method, Site(stage, bsz, length))
    assert _needed(method, Site(stage, bsz + 1, length)) > needed
    assert _needed(method, Site(stage, bsz, length + 128 * more)) >= needed


@pytest.mark.parametrize("stage", STAGES)
def test_more_layers_need_more(stage: str) -> None:
    site = Site(stage, 2, 512)
    assert _needed("fp16", site, n_layers=2) < _needed("fp16", site, n_layers=3)


@pytest.mark.parametrize("method", EVICTING)
def test_evicting_methods_need_less_to_decode_and_no_less_for_a_prompt(method: str) -> None:
    assert _needed(method, Site("decode", 8, 4096)) < _needed("fp16", Site("decode", 8, 4096))
    assert _needed(method, Site("prefill", 8, 4096)) >= _needed("fp16", Site("prefill", 8, 4096))


def test_a_decode_point_of_fp16_holds_weights_cache_one_layers_entries_and_logits() -> None:
    """By hand: weights of 2 bytes, 2 x 3 heads x 64 channels x 2 bytes per token and layer, fp32 logits."""
    tokens, per_layer_token = 4 * 1000, 2 * 3 * 64 * 2
    by_hand = 2 * MODEL.n_params + 30 * tokens * per_layer_token + 2 * tokens * per_layer_token
    assert _needed("fp16", Site("decode", 4, 1000)) == by_hand + 4 * 4 * 49152


@pytest.mark.parametrize("stage", STAGES)
@given(method=st.sampled_from(METHODS), bsz=batches, length=lengths)
def test_larger_batches_and_more_repeats_take_longer(stage: str, method: str, bsz: int, length: int) -> None:
    site = Site(stage, bsz, length)
    seconds = _expected(method, site)
    assert 0 < seconds < _expected(method, Site(stage, bsz + 1, length))
    assert seconds < _expected(method, site, repeats=5)

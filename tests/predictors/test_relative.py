from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvpred
from kvpred.data.sites import SiteTable
from kvpred.hardware import get_device
from kvpred.methods import get_method, list_methods
from kvpred.models import get_model
from kvpred.predictors.calibration import mean_attended
from kvpred.predictors.greybox import STAGES, Array
from kvpred.predictors.predictor import MOST_LOG_ERROR, Predictor, fit_predictor
from kvpred.predictors.profiled import predictor_of_profile
from kvpred.predictors.relative import Yardstick, relative_times
from kvpred.predictors.scaling import FIELD_SPEEDUP, Place
from kvpred.predictors.steps import Query
from tests.predictors.test_profiled import make_profile

ALL = [method.name for method in list_methods()]
BARE = ["snapkv", "turboquant", "kv-int8", "kv-int4", "kv-fp8"]
requests = st.tuples(st.integers(1, 128), st.integers(1, 16_384), st.integers(1, 600))
places = st.sampled_from(
    [("llama-2-7b", "a6000", "lmdeploy"), ("llama-3-8b", "a100", "lmdeploy"), ("llama-2-7b", "a6000", "vllm")]
)


def query(*request: int) -> Query:
    return Query(*np.array(request)[:, None])


def place_of(model: str, device: str) -> Place:
    return Place(get_model(model), get_device(device))


@given(requests, places, st.sampled_from(ALL))
def test_the_ratio_is_that_of_the_predictions_and_lies_in_its_interval(
    request: tuple[int, int, int], place: tuple[str, str, str], method: str
) -> None:
    model, device, engine = place
    predictor = kvpred._packaged()
    found = relative_times(
        predictor, get_method(method), place_of(model, device), engine, query=query(*request)
    )
    bsz, prompt_len, output_len = request
    said = kvpred.predict(
        method=method, bsz=bsz, prompt_len=prompt_len, output_len=output_len, model=model, device=device,
        engine=engine,
    ).speedup_vs_fp16  # fmt: skip
    for stage in STAGES:
        ratio, low, high = (end.item() for end in found[stage])
        assert 1 / ratio == pytest.approx(said[stage])
        assert 0 < low <= ratio <= high


@given(requests, places)
def test_fp16_is_exactly_as_fast_as_itself(
    request: tuple[int, int, int], place: tuple[str, str, str]
) -> None:
    model, device, engine = place
    found = relative_times(
        kvpred._packaged(), get_method("fp16"), place_of(model, device), engine, query=query(*request)
    )
    assert {end.item() for ends in found.values() for end in ends} == {1.0}


def test_doubts_that_both_share_cancel(packaged: Predictor) -> None:
    there = place_of("llama-3-8b", "a100")
    apart = kvpred.predict(method="kivi", bsz=8, prompt_len=2048, model="llama-3-8b", device="a100")
    low, high = apart.interval["tpot_s"]
    _, ratio_low, ratio_high = relative_times(
        packaged, get_method("kivi"), there, "lmdeploy", query=query(8, 2048, 256)
    )["decode"]
    # The one interval holds the transfer's error and the host's share, the other next to none of them.
    assert np.log(high / low) > 3 * np.log(ratio_high / ratio_low).item()


@pytest.mark.parametrize("stage", STAGES)
def test_published_ratios_lie_in_their_intervals(packaged: Predictor, stage: str) -> None:
    sites = packaged.sites
    inside = []
    for method in set(packaged.methods) - {"fp16"}:
        pairs = _pairs(sites, method, stage)
        found = relative_times(
            packaged, get_method(method), packaged.place, "lmdeploy", query=Query(*pairs[:3].astype(int))
        )
        _, low, high = found[stage]
        inside += ((low <= pairs[3]) & (pairs[3] <= high)).tolist()
    assert len(inside) > 60
    assert np.mean(inside) >= 0.9


def _pairs(sites: SiteTable, method: str, stage: str) -> Array:
    """Return bsz, prompt_len, output_len and measured ratio of each site that fp16 has too."""

    def times(name: str) -> dict[tuple[int, ...], float]:
        rows = np.flatnonzero((sites.method == name) & (sites.stage == stage))
        columns = (sites.bsz, sites.prompt_len, sites.output_len)
        return {tuple(int(column[row]) for column in columns): sites.time_s[row] for row in rows}

    own, base = times(method), times("fp16")
    return np.array([[*site, own[site] / base[site]] for site in own if site in base]).T


@pytest.mark.parametrize("method", BARE)
def test_a_method_without_runs_gets_the_published_range(packaged: Predictor, method: str) -> None:
    found = relative_times(
        packaged, get_method(method), packaged.place, "lmdeploy", query=query(4, 1024, 256)
    )
    for stage, (slowest, fastest) in FIELD_SPEEDUP.items():
        ratio, low, high = (end.item() for end in found[stage])
        assert low == pytest.approx(min(1 / fastest, ratio))
        assert high == pytest.approx(max(1 / slowest, ratio))


def test_under_another_engine_runs_are_no_proof(packaged: Predictor) -> None:
    _, low, high = relative_times(
        packaged, get_method("kivi"), packaged.place, "vllm", query=query(4, 1024, 256)
    )["decode"]
    assert (low.item(), high.item()) == pytest.approx((1 / 1.54, 1 / 0.29))


def test_noisier_runs_give_wider_intervals(make_table: Callable[..., SiteTable], here: Place) -> None:
    def width(noise: float) -> float:
        fitted = fit_predictor(
            make_table(noise=noise), place=here, engine="lmdeploy", provenance="made up", assess=False
        )
        found = relative_times(fitted, get_method("kivi"), here, "lmdeploy", query=query(4, 1024, 1))
        return float(np.log(found["decode"][2] / found["decode"][1]).item())

    assert width(0.06) > 2 * width(0.01)


def test_the_made_up_factor_lies_in_the_interval(made_up: Predictor) -> None:
    for method, factor in (("kivi", 0.95), ("h2o", 1.1)):
        found = relative_times(made_up, get_method(method), made_up.place, "lmdeploy", query=query(4, 512, 1))
        assert all(low.item() <= factor <= high.item() for _, low, high in found.values())


def test_an_overhead_that_was_not_profiled_draws_the_ratio_to_1(here: Place) -> None:
    profiles = [make_profile(), make_profile("kivi", decode_factor=0.5)]
    predictor = predictor_of_profile(profiles, place=here, engine="lmdeploy", provenance="made up")
    ratio, low, high = relative_times(
        predictor, get_method("kivi"), here, "lmdeploy", query=query(8, 2048, 1)
    )["decode"]
    # Decode's operators may be 26 % of a step: (ratio + 1 / 0.26 - 1) / (1 / 0.26).
    assert high.item() == pytest.approx((ratio.item() + 1 / 0.26 - 1) * 0.26)
    assert low.item() < ratio.item()


def test_other_batches_are_compared_with_their_own_times(packaged: Predictor) -> None:
    yardstick = Yardstick.at(packaged, packaged.place, "lmdeploy", query=query(4, 2048, 256))
    found = yardstick.compare(get_method("h2o"), query(8, 2048, 256))
    large, small = (
        kvpred.predict(method=method, bsz=bsz, prompt_len=2048) for method, bsz in (("h2o", 8), ("fp16", 4))
    )
    assert found["decode"].ratio[0].item() == pytest.approx(large.tpot_s / small.tpot_s)
    assert found["prefill"].ratio[0].item() == pytest.approx(large.ttft_s / small.ttft_s)


def test_fp16s_doubt_is_its_own_and_of_what_is_reckoned_from_it(packaged: Predictor) -> None:
    far = query(256, 32, 32)
    yardstick = Yardstick.at(packaged, packaged.place, "lmdeploy", query=query(8, 2048, 256))

    def doubt(method: str) -> tuple[float, ...]:
        found = yardstick.doubts(get_method(method), far)["decode"]
        return found.faster.item(), found.slower.item(), found.as_fp16.item()

    def width(method: str) -> float:
        stage, name = packaged.stages["decode"], get_method(method).spec
        attended = mean_attended(name, prompt_len=32, output_len=32)
        error = stage.fits.error(name, bsz=256, length=attended)
        return stage.log_half_width(error, bsz=256, length=far.mean_kv_len, level=0.9).item()

    assert doubt("fp16") == (0, 0, pytest.approx(width("fp16")))
    assert doubt("kivi") == (pytest.approx(width("kivi")), pytest.approx(width("kivi")), 0)
    assert width("fp16") > 3 * width("kivi")
    faster, slower, as_fp16 = doubt("kv-int8")
    assert as_fp16 == pytest.approx(width("fp16"))
    slowest, fastest = FIELD_SPEEDUP["decode"]
    assert faster + slower == pytest.approx(np.log(fastest / slowest))


def test_ratios_far_out_stay_within_bounds(packaged: Predictor) -> None:
    _, low, high = relative_times(
        packaged, get_method("h2o"), packaged.place, "lmdeploy", query=query(4096, 16, 16)
    )["decode"]
    assert np.log(high / low).item() <= 2 * np.sqrt(2) * MOST_LOG_ERROR


def test_the_same_batches_given_twice_change_nothing(packaged: Predictor) -> None:
    yardstick = Yardstick.at(packaged, packaged.place, "lmdeploy", query=query(4, 2048, 256))
    for method in map(get_method, ALL[1:]):
        for stage, found in yardstick.compare(method, query(4, 2048, 256)).items():
            alike = yardstick.compare(method)[stage].ratio
            assert np.allclose(np.ravel(found.ratio), np.ravel(alike)), (method.name, stage)

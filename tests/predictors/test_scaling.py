from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvpred
from kvpred.errors import NotCoveredError
from kvpred.hardware import get_device, list_devices
from kvpred.models import get_model, list_models
from kvpred.predictors.greybox import STAGES, StageFit, StageForm
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.scaling import ALL_REDUCE_START_S, Place, host_share, split_fixed, transfer

LLAMA, A6000 = get_model("llama-2-7b"), get_device("a6000")
factors = st.floats(1.0, 50.0)


def times(predictor: Predictor, stage: str, target: Place, method: str = "fp16") -> np.ndarray:
    fit = transfer(predictor.stages[stage].fits, predictor.place, target).fits[method]
    return fit.times(bsz=[1, 4, 16], length=[16, 1024, 30_000])


@pytest.mark.parametrize("stage", STAGES)
def test_carrying_to_the_same_place_changes_nothing(packaged: Predictor, stage: str) -> None:
    fits = packaged.stages[stage].fits
    same = transfer(fits, packaged.place, packaged.place)
    for method, fit in fits.fits.items():
        np.testing.assert_allclose(same.fits[method].coef, fit.coef, rtol=1e-12)
        np.testing.assert_allclose(same.fits[method].covariance, fit.covariance, rtol=1e-12)


@pytest.mark.parametrize("stage", STAGES)
@given(fixed_s=st.just(0.0) | st.floats(1e-9, 0.2), token_s=st.just(0.0) | st.floats(1e-9, 1e-3))
def test_carrying_what_two_devices_took_to_the_same_place_changes_nothing(
    packaged: Predictor, stage: str, fixed_s: float, token_s: float
) -> None:
    fits, two = packaged.stages[stage].fits, Place(LLAMA, A6000, tp=2)
    odd = replace(fits.fits["fp16"], coef=np.array([fixed_s, token_s, 1e-6]))
    same = transfer(replace(fits, fits={**fits.fits, "odd": odd}), two, two)
    for method, fit in {**fits.fits, "odd": odd}.items():
        np.testing.assert_allclose(same.fits[method].coef, fit.coef, rtol=1e-12, atol=1e-18)
        np.testing.assert_allclose(same.fits[method].covariance, fit.covariance, rtol=1e-12)


@pytest.mark.parametrize("stage", STAGES)
def test_there_and_back_again_all_reduces_count_once(packaged: Predictor, stage: str) -> None:
    fits, one, two = packaged.stages[stage].fits, packaged.place, Place(LLAMA, A6000, tp=2)
    there = transfer(fits, one, two)
    four = Place(LLAMA, A6000, tp=4)
    assert transfer(there, two, four).fits["fp16"].coef[1] == pytest.approx(
        transfer(fits, one, four).fits["fp16"].coef[1]
    )
    assert transfer(there, two, one).fits["fp16"].coef[1] == pytest.approx(fits.fits["fp16"].coef[1])


@pytest.mark.parametrize("more", [{"crowded": True}, {"batched": True}])
def test_all_reading_of_cache_and_weights_scales_with_its_bytes(
    packaged: Predictor, more: dict[str, bool]
) -> None:
    fits = packaged.stages["decode"].fits
    form = StageForm("decode", **more)
    fit = StageFit(form, np.array([0.03, 2e-4, 8e-7, 4e-7]), np.zeros((4, 4)))
    slower = replace(A6000, memory_bandwidth_bytes_s=A6000.memory_bandwidth_bytes_s / 2)
    carried = transfer(replace(fits, form=form, fits={"fp16": fit}), packaged.place, Place(LLAMA, slower))
    np.testing.assert_allclose(carried.fits["fp16"].coef[2:], 2 * fit.coef[2:])


@given(fixed_s=st.just(0.0) | st.floats(1e-9, 0.1))
def test_no_fixed_cost_is_too_small_to_stay_as_it_is(packaged: Predictor, fixed_s: float) -> None:
    fits = packaged.stages["decode"].fits
    odd = replace(fits.fits["fp16"], coef=np.array([fixed_s, 0.0, 1e-6]))
    same = transfer(replace(fits, fits={**fits.fits, "odd": odd}), packaged.place, packaged.place)
    np.testing.assert_allclose(same.fits["odd"].coef, odd.coef, rtol=1e-12)


@pytest.mark.parametrize("stage", STAGES)
@given(bandwidth=factors, flops=factors)
def test_a_faster_device_is_never_slower(
    packaged: Predictor, stage: str, bandwidth: float, flops: float
) -> None:
    faster = replace(
        A6000,
        memory_bandwidth_bytes_s=A6000.memory_bandwidth_bytes_s * bandwidth,
        peak_flops_16bit=A6000.peak_flops_16bit * flops,
    )
    here, there = (times(packaged, stage, Place(LLAMA, device)) for device in (A6000, faster))
    assert np.all(there <= here * (1 + 1e-12))


@pytest.mark.parametrize("stage", STAGES)
def test_twice_as_fast_a_device_halves_all_but_the_hosts_part(packaged: Predictor, stage: str) -> None:
    twice = replace(
        A6000,
        memory_bandwidth_bytes_s=2 * A6000.memory_bandwidth_bytes_s,
        peak_flops_16bit=2 * A6000.peak_flops_16bit,
    )
    fits = packaged.stages[stage].fits
    before = fits.fits["fp16"].coef
    after = transfer(fits, packaged.place, Place(LLAMA, twice)).fits["fp16"].coef
    np.testing.assert_allclose(after[1:], before[1:] / 2)
    weights_s = split_fixed(fits, packaged.place).weights_s
    assert before[0] - after[0] == pytest.approx(weights_s / 2)


def test_a_quarter_of_the_kv_heads_reads_a_quarter_of_the_cache(packaged: Predictor) -> None:
    fits = packaged.stages["decode"].fits
    there = transfer(fits, packaged.place, Place(get_model("llama-3-8b"), A6000))
    assert there.fits["fp16"].coef[2] == pytest.approx(fits.fits["fp16"].coef[2] / 4)


def test_linear_layers_follow_their_flops(packaged: Predictor) -> None:
    larger = get_model("llama-2-13b")
    ratio = larger.linear_flops_per_token() / LLAMA.linear_flops_per_token()
    fits = packaged.stages["prefill"].fits
    there = transfer(fits, packaged.place, Place(larger, A6000)).fits["fp16"]
    assert there.coef[1] == pytest.approx(fits.fits["fp16"].coef[1] * ratio)
    assert there.coef[0] == pytest.approx(fits.fits["fp16"].coef[0] * 40 / 32)


def test_two_devices_pay_two_all_reduces_a_layer() -> None:
    fixed_s, token_s = Place(LLAMA, A6000, tp=2).all_reduce_s()
    link = A6000.link
    assert fixed_s == pytest.approx(64 * (ALL_REDUCE_START_S[2] + 2 * link.latency_s))
    # A ring of two sends each byte of the 4,096 16-bit channels once.
    assert token_s == pytest.approx(64 * 2 * 4096 / link.bandwidth_bytes_s)
    assert Place(LLAMA, A6000).all_reduce_s() == (0.0, 0.0)


@pytest.mark.parametrize("stage", STAGES)
def test_all_reduces_come_on_top_of_each_devices_half(packaged: Predictor, stage: str) -> None:
    two = Place(LLAMA, A6000, tp=2)
    fixed_s, token_s = two.all_reduce_s()
    fits = packaged.stages[stage].fits
    before, after = fits.fits["h2o:heavy=64,recent=448"], transfer(fits, packaged.place, two)
    coef = after.fits["h2o:heavy=64,recent=448"].coef
    assert coef[1] == pytest.approx(before.coef[1] / 2 + token_s)
    weights_s = split_fixed(fits, packaged.place).weights_s
    halved = two.weights_s / packaged.place.weights_s
    assert coef[0] == pytest.approx(before.coef[0] - weights_s * (1 - halved) + fixed_s)


def test_more_devices_share_the_work(packaged: Predictor) -> None:
    one, two = (times(packaged, "prefill", Place(LLAMA, A6000, tp)) for tp in (1, 2))
    assert 0.5 * one[-1] < two[-1] < 0.75 * one[-1]


def test_devices_without_a_link_cannot_share() -> None:
    lone = replace(A6000, link=None)
    with pytest.raises(NotCoveredError, match="tp=2 needs a link"):
        Place(LLAMA, lone, tp=2).all_reduce_s()


@pytest.mark.parametrize(
    ("unknown", "complaint"),
    [
        ("memory_bandwidth_bytes_s", "memory bandwidth of a6000 is unknown"),
        ("peak_flops_16bit", "FLOP/s of a6000"),
    ],
)
def test_a_device_must_state_what_the_scaling_needs(
    packaged: Predictor, unknown: str, complaint: str
) -> None:
    place = Place(LLAMA, replace(A6000, **{unknown: None}))
    with pytest.raises(NotCoveredError, match=complaint):
        transfer(packaged.stages["decode"].fits, packaged.place, place)


@pytest.mark.parametrize("device", [device.name for device in list_devices()])
@pytest.mark.parametrize("model", [model.name for model in list_models()])
def test_every_model_runs_on_every_device(packaged: Predictor, model: str, device: str) -> None:
    found = kvpred.predict(
        method="kivi", bsz=4, prompt_len=2048, model=model, device=device, predictor=packaged
    )
    low, high = found.interval["e2e_latency_s"]
    assert 0 < low < found.e2e_latency_s < high < np.inf


def test_weights_are_read_at_the_caches_efficiency(packaged: Predictor) -> None:
    fits, place = packaged.stages["decode"].fits, packaged.place
    host = split_fixed(fits, place)
    assert 0.5 < host.efficiency <= 1
    assert host.weights_s == pytest.approx(LLAMA.weight_bytes() / 768e9 / host.efficiency)
    assert split_fixed(packaged.stages["prefill"].fits, place).weights_s == 0


def test_the_hosts_share_is_what_neither_reads_nor_computes(packaged: Predictor) -> None:
    fits = packaged.stages["decode"].fits
    fit: StageFit = fits.fits["fp16"]
    launches_s = fit.coef[0] - split_fixed(fits, packaged.place).weights_s
    found = host_share(fits, "fp16", packaged.place, times=np.array([launches_s, 2 * launches_s, 1e-9]))
    assert found.tolist() == pytest.approx([1.0, 0.5, 1.0])

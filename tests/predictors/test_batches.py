"""Batches of unlike requests: they agree with the plain prediction where all are alike, and the clock."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvpred
from kvpred.hardware import get_engine_spec
from kvpred.methods import get_method, list_methods
from kvpred.predictors.batches import N_BATCHES, Batches, batch_times, largest_batch
from kvpred.predictors.clock import clock_for
from kvpred.predictors.predictor import Predictor

LMDEPLOY = get_engine_spec("lmdeploy")
METHODS = [method.name for method in list_methods()]


def alike(prompt: int, output: int, bsz: int) -> Batches:
    return Batches.draw(np.array([prompt]), np.array([output]), bsz_max=bsz, seed=0)


@pytest.mark.parametrize("method", METHODS)
def test_alike_requests_are_what_predict_says(packaged: Predictor, method: str) -> None:
    expected = kvpred.predict(method=method, bsz=6, prompt_len=1500, output_len=200)
    found = batch_times(
        packaged, get_method(method), packaged.place, "lmdeploy", batches=alike(1500, 200, 6), level=0.9
    )
    assert found.prefill.time_s == pytest.approx([expected.ttft_s], rel=1e-9)
    assert found.decode.time_s == pytest.approx([expected.tpot_s], rel=1e-9)
    assert found.e2e_s == pytest.approx(np.full((1, 6), expected.e2e_latency_s))
    assert found.device_s == pytest.approx(expected.e2e_latency_s / 6)
    # The ends of a 90 % interval are the percentiles 5 and 95 of what may be.
    for metric, name in (("ttft", "ttft_s"), ("tpot", "tpot_s"), ("e2e", "e2e_latency_s")):
        ends = np.percentile(found.latencies_s(metric), [5, 95])
        assert ends == pytest.approx(expected.interval[name], rel=0.003)
        assert found.latencies_s(metric, sure=True).max() == pytest.approx(getattr(expected, name))


@pytest.mark.parametrize("method", ["fp16", "kivi", "h2o"])
def test_unlike_prompts_take_what_the_clock_says(packaged: Predictor, method: str) -> None:
    prompts, outputs = np.array([[100, 700, 2500, 4000]]), np.array([[10, 50, 100, 300]])
    found = batch_times(
        packaged, get_method(method), packaged.place, "lmdeploy", batches=Batches(prompts, outputs), level=0.9
    )
    clock = clock_for(packaged, get_method(method), packaged.place, "lmdeploy")
    together = clock.step_s(prefills=[(0, prompt) for prompt in prompts[0].tolist()])
    # The length of the like prompts is rounded to a token.
    assert found.prefill.time_s[0] == pytest.approx(together, rel=1e-3)


def test_batches_are_drawn_once_for_all_sizes() -> None:
    drawn = Batches.draw(np.arange(1, 50), np.arange(1, 50), bsz_max=8, seed=1)
    assert drawn.prompts.shape == (N_BATCHES, 8)
    assert (drawn.prompts == drawn.outputs).all()
    assert drawn.of_size(3).prompts.tolist() == drawn.prompts[:, :3].tolist()
    assert drawn.longest == (49, 49)
    assert drawn.scaled(0.01).outputs.min() == 1
    assert alike(5, 7, 3).prompts.shape == (1, 3)


@pytest.mark.parametrize("method", METHODS)
def test_as_many_alike_requests_fit_as_the_memory_model_says(packaged: Predictor, method: str) -> None:
    expected = kvpred.predict(method=method, bsz=1, prompt_len=1500, output_len=200).max_bsz
    found = largest_batch(get_method(method), packaged.place, LMDEPLOY, drawn=alike(1500, 200, 256))
    assert found == min(expected, 256)


@settings(max_examples=20)
@given(
    prompts=st.lists(st.integers(1, 4000), min_size=1, max_size=20),
    gib=st.integers(16, 80),
    more=st.integers(0, 40),
)
def test_more_memory_never_shrinks_the_batch(
    packaged: Predictor, prompts: list[int], gib: int, more: int
) -> None:
    drawn = Batches.draw(np.array(prompts), np.full(len(prompts), 50), bsz_max=64, seed=0)

    def most(memory_gib: int) -> int:
        device = replace(packaged.place.device, memory_bytes=memory_gib * 2**30)
        return largest_batch(
            get_method("kivi"), replace(packaged.place, device=device), LMDEPLOY, drawn=drawn
        )

    assert most(gib) <= most(gib + more)


def test_a_request_that_never_fits_leaves_no_batch(packaged: Predictor) -> None:
    drawn = Batches.draw(np.array([100, 900_000]), np.array([5, 5]), bsz_max=4, seed=0)
    assert largest_batch(get_method("fp16"), packaged.place, LMDEPLOY, drawn=drawn) == 0

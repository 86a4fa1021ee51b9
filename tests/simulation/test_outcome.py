"""Latencies, load and dollars of simulated traffic."""

from __future__ import annotations

import numpy as np
import pytest

import kvpred
from kvpred.predictors.length.outputs import REFERENCE
from kvpred.predictors.predictor import Predictor
from kvpred.simulation.outcome import (
    Outcome,
    Simulations,
    TrafficStudy,
    latency_band,
    qps_served,
    statistic_s,
)
from kvpred.simulation.simulate import simulate
from tests.made_up_traffic import chat_trace, replica_of, trace_of


@pytest.fixture(scope="module")
def runs(packaged: Predictor) -> Simulations:
    trace, replica = chat_trace(60, qps=1.0), replica_of(packaged)
    return Simulations(*(simulate(trace, replica, slower=by) for by in (1.0, 1.2, 0.8)))


def study_of(runs: Simulations, usd_per_hour: float | None) -> TrafficStudy:
    estimate = kvpred.predict(method="fp16", bsz=1, prompt_len=300, output_len=200)
    outcome = Outcome(estimate, REFERENCE, chat_trace(60, qps=1.0), 0, runs)
    return TrafficStudy((outcome,), "vllm", 64, 1, usd_per_hour, ())


def test_statistics_are_those_of_the_requests(runs: Simulations) -> None:
    served = runs.usual.served
    assert statistic_s(runs.usual, "e2e", "mean") == pytest.approx(served.e2e_s.mean())
    assert statistic_s(runs.usual, "ttft", "p95") == pytest.approx(np.percentile(served.ttft_s, 95))
    assert statistic_s(runs.usual, "queue", "p50") == pytest.approx(np.median(runs.usual.queued_s))
    several = served.output_tokens > 1
    assert statistic_s(runs.usual, "tpot", "mean") == pytest.approx(served.tpot_s[several].mean())


def test_a_band_holds_what_slower_and_faster_steps_lead_to(runs: Simulations) -> None:
    band = latency_band(runs, "e2e", "mean")
    assert (band.low, band.high) == (runs.fast.served.e2e_s.mean(), runs.slow.served.e2e_s.mean())
    assert band.low < band.value < band.high


def test_busy_dollars_are_the_steps_and_rented_ones_the_makespan(runs: Simulations) -> None:
    # At $3.60 an hour a second costs a tenth of a cent.
    study, usual = study_of(runs, 3.6), runs.usual
    busy_s = usual.busy * usual.served.makespan_s
    assert 60 * study.usd_per_request(usual) == pytest.approx(1e-3 * busy_s)
    assert 60 * study.usd_per_request_rented(usual) == pytest.approx(1e-3 * usual.served.makespan_s)
    assert qps_served(usual) == pytest.approx(60 / usual.served.makespan_s)
    assert np.isnan(study_of(runs, None).usd_per_request(usual))


def test_answers_of_one_token_have_no_time_per_token(packaged: Predictor) -> None:
    found = simulate(trace_of([0.0, 1.0], [50, 50], [1, 1]), replica_of(packaged))
    assert np.isnan(statistic_s(found, "tpot", "mean"))


@pytest.mark.parametrize(("qps", "grows"), [(0.2, False), (20.0, True)])
def test_a_queue_that_grows_is_told(packaged: Predictor, qps: float, grows: bool) -> None:
    trace = chat_trace(200, qps=qps)
    one = simulate(trace, replica_of(packaged))
    estimate = kvpred.predict(method="fp16", bsz=1, prompt_len=300, output_len=200)
    assert Outcome(estimate, REFERENCE, trace, 0, Simulations(one, one, one)).grows is grows

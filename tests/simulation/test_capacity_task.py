"""A search for capacity on the simulator: alone, in order of methods, and what slower steps and memory do."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from kvpred.data.arrivals import arrivals
from kvpred.data.limits import parse_limits
from kvpred.data.traces import Trace
from kvpred.hardware import get_device
from kvpred.methods import get_method
from kvpred.models import get_model
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.scaling import Place
from kvpred.simulation.capacity import KEEPING_UP, TOLERANCE, judge
from kvpred.simulation.capacity_task import CapacityTask, _alone, full_batch, search
from kvpred.simulation.replica import Replica, replica_for
from kvpred.simulation.simulate import simulate

pytest.importorskip("vidur", reason="pip install 'kvpred[vidur]' brings Vidur")

N = 120
LIMITS = parse_limits("ttft-p90=1s,tpot-p99=80ms")


@pytest.fixture(scope="module")
def trace() -> Trace:
    rng = np.random.default_rng(0)
    prompts, outputs = rng.integers(64, 1500, N), rng.integers(1, 60, N)
    return Trace(arrivals("poisson", N, qps=1.0), prompts, outputs, "drawn", tuple(map(str, range(N))))


def _replica(packaged: Predictor, method: str = "fp16", **options: object) -> Replica:
    place = Place(get_model("llama-2-7b"), get_device("a6000"), 1)
    return replica_for(packaged, get_method(method), place, "lmdeploy", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("scheduler", ["vllm", "sarathi"])
@pytest.mark.parametrize("method", ["fp16", "h2o", "kivi"])
def test_requests_that_never_meet_take_what_the_clock_says(
    packaged: Predictor, trace: Trace, method: str, scheduler: str
) -> None:
    replica = _replica(packaged, method, scheduler=scheduler)
    apart = trace.arriving(np.arange(N) * 100.0)
    simulated = simulate(apart, replica, slower=(1.2, 0.9)).served
    alone = _alone(CapacityTask(trace, replica, LIMITS, slower=(1.2, 0.9)))
    np.testing.assert_allclose(alone.ttft_s, simulated.ttft_s, rtol=1e-6)
    np.testing.assert_allclose(alone.e2e_s, simulated.e2e_s, rtol=1e-3)


def test_the_rate_found_is_what_simulations_say(packaged: Predictor, trace: Trace) -> None:
    replica = _replica(packaged)
    found = search(CapacityTask(trace, replica, LIMITS, loads=(0.5,)))
    capacity = found.capacity
    assert capacity.at is not None and found.refused is None
    for qps, missed in ((capacity.qps, False), (capacity.qps * (1 + TOLERANCE), True)):
        again = judge(simulate(trace.at_qps(qps), replica).served, LIMITS, qps=qps)
        assert (KEEPING_UP in again.missed or bool(again.missed)) == missed
    assert capacity.qps * 0.5 in [probe.qps for probe in capacity.probes]
    assert all(a <= v for a, v in zip(found.alone.values_s, capacity.at.values_s, strict=True))


def test_slower_steps_and_tighter_limits_serve_less(packaged: Predictor, trace: Trace) -> None:
    task = CapacityTask(trace, _replica(packaged), LIMITS)
    usual = search(task).capacity.qps
    assert search(replace(task, slower=(1.3, 1.3))).capacity.qps < usual
    assert search(replace(task, slower=(0.7, 0.7))).capacity.qps > usual
    assert search(replace(task, limits=parse_limits("ttft-p90=1s,tpot-p99=50ms"))).capacity.qps < usual


def test_a_small_batch_serves_less_where_nothing_else_ends_it(packaged: Predictor, trace: Trace) -> None:
    loose = parse_limits("ttft-p99=1h")
    few, many = (
        search(CapacityTask(trace, _replica(packaged, max_bsz=bsz), loose)).capacity for bsz in (1, 16)
    )
    assert few.qps < many.qps
    assert few.binding == many.binding == KEEPING_UP


def test_less_memory_serves_less_where_nothing_else_ends_it(packaged: Predictor, trace: Trace) -> None:
    loose = parse_limits("ttft-p99=1h")
    tight, roomy = (_replica(packaged, memory_utilization=share) for share in (0.36, 0.9))
    assert full_batch(tight, trace) < full_batch(roomy, trace)
    less, more = (search(CapacityTask(trace, replica, loose)).capacity.qps for replica in (tight, roomy))
    assert 0 < less < more


def test_limits_missed_alone_end_it_without_a_simulation(packaged: Predictor, trace: Trace) -> None:
    found = search(CapacityTask(trace, _replica(packaged), parse_limits("ttft-p50=1h,tpot-p50=1ms")))
    assert (found.capacity.qps, found.capacity.binding, found.capacity.probes) == (0.0, "tpot-p50", ())
    # The packaged predictor's decode step of one sequence takes about 34 ms.
    assert found.alone.values_s[1] == pytest.approx(0.034, rel=0.1)


def test_a_request_that_never_fits_is_named(packaged: Predictor) -> None:
    place = Place(get_model("llama-2-7b"), get_device("rtx4090"), 1)
    replica = replica_for(packaged, get_method("fp16"), place, "lmdeploy", memory_utilization=0.64)
    long = Trace(arrivals("poisson", N, qps=1.0), np.full(N, 4000), np.full(N, 90), "long", ("7",) * N)
    found = search(CapacityTask(long, replica, parse_limits("ttft-p99=1h")))
    assert found.capacity.qps == 0.0
    assert found.refused is not None and "request 7" in found.refused


def test_tasks_and_results_travel(packaged: Predictor, trace: Trace) -> None:
    task = CapacityTask(trace, _replica(packaged), parse_limits("tpot-p50=1ms"))
    again = pickle.loads(pickle.dumps(task))
    assert search(again) == search(task) == pickle.loads(pickle.dumps(search(task)))


def test_full_batch_is_bounded_by_memory_and_by_the_scheduler(packaged: Predictor, trace: Trace) -> None:
    assert full_batch(_replica(packaged, max_bsz=3), trace) == 3
    fp16, quantised = (full_batch(_replica(packaged, m, max_bsz=1000), trace) for m in ("fp16", "kv-int4"))
    assert 10 < fp16 < quantised < 1000

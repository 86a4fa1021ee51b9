"""Replicas and dollars from capacities: hand counts, bands, and reasons."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvpred
from kvpred.data.limits import parse_limits
from kvpred.data.traces import Trace
from kvpred.errors import DoesNotFitError, UsageError
from kvpred.hardware import get_device
from kvpred.models import get_model
from kvpred.predictors.length.outputs import REFERENCE, OutputShift
from kvpred.predictors.scaling import Place
from kvpred.simulation.capacity import KEEPING_UP, Capacity, Probe
from kvpred.simulation.capacity_task import CapacityFound
from kvpred.simulation.fleet import CapacityStudy, MethodCapacity

LIMITS = parse_limits("ttft-p99=1s,tpot-p99=60ms")
TRACE = Trace(np.arange(100.0), np.full(100, 1000), np.full(100, 250), "even", ("x",) * 100)
PLACE = Place(get_model("llama-2-7b"), get_device("a6000"), 2)


def probe(qps: float, *values_s: float, missed: tuple[str, ...] = (), mean_e2e_s: float = 5.0) -> Probe:
    return Probe(qps, values_s or (0.5, 0.05), 0.0, 250 * qps, mean_e2e_s, missed)


def found(qps: float, *, binding: str = "tpot-p99", alone: Probe | None = None) -> CapacityFound:
    return CapacityFound(Capacity(qps, binding, (probe(qps),) if qps else ()), alone or probe(0.0))


def method(name: str, *found: CapacityFound, unfit: str | None = None) -> MethodCapacity:
    estimate = kvpred.predict(method=name, bsz=[1, 4], prompt_len=1000, output_len=250)
    return MethodCapacity(estimate, REFERENCE, TRACE, unfit, *found)


def study(
    *capacities: MethodCapacity, traffic: float | None = 40.0, price: float | None = 0.8
) -> CapacityStudy:
    return CapacityStudy(
        PLACE, "lmdeploy", "vllm", LIMITS, capacities, 0.9, (), traffic_qps=traffic, price_per_hour=price
    )


def test_replicas_and_dollars_by_hand() -> None:
    # 40 / 1.5 = 26.7, so 27 replicas of two devices at 0.8 $ each.
    asked = study(method("fp16", found(1.5), found(1.2), found(1.9)))
    assert (asked.replicas(1.5), asked.usd_per_hour(1.5)) == (27, pytest.approx(27 * 2 * 0.8))
    assert asked.capacities[0].band == (1.2, 1.9)
    # 1.5 requests of 250 tokens a second are 1.35 million tokens an hour, on the estimate's one device.
    assert asked.capacities[0].usd_per_million_tokens(0.8) == pytest.approx(0.8 / 1.35)


def test_rounding_asks_for_no_replica_more() -> None:
    assert study(traffic=0.3).replicas(0.1) == 3
    assert study(traffic=0.31).replicas(0.1) == 4


@given(st.floats(0.01, 1e4), st.floats(0.01, 100), st.floats(1, 5))
def test_replicas_suffice_and_one_fewer_does_not(traffic: float, qps: float, factor: float) -> None:
    asked = study(traffic=traffic)
    replicas = asked.replicas(qps)
    assert replicas is not None
    assert replicas * qps >= traffic * (1 - 1e-8)
    assert (replicas - 1) * qps <= traffic * (1 + 1e-8)
    more = asked.replicas(qps * factor)
    assert more is not None and more <= replicas <= ceil(more * factor)


def test_unknown_is_none() -> None:
    assert study(traffic=None).replicas(1.0) is None
    assert study().replicas(0.0) is None
    assert study(price=None).usd_per_hour(1.0) is None
    assert method("fp16", found(0.0)).usd_per_million_tokens(0.8) is None


def test_the_band_holds_the_value_whatever_the_tolerance_did() -> None:
    assert method("fp16", found(1.0), found(1.01), found(0.99)).band == (0.99, 1.01)
    assert method("fp16", unfit="no room").band == (0.0, 0.0)


def test_reasons() -> None:
    alone = probe(0.0, 0.5, 0.09, missed=("tpot-p99",))
    missed = method("fp16", found(0.0, alone=alone))
    assert missed.refusal(LIMITS) == (
        "tpot-p99 is 90 ms even for requests served alone, 50 % over the limit of 60 ms"
    )
    assert method("fp16", found(1.0)).refusal(LIMITS) is None
    assert method("fp16", unfit="no room").refusal(LIMITS) == "no room"
    least = Capacity(0.0, "tpot-p99", (probe(0.01, 0.5, 0.072), probe(0.1, 0.5, 0.1)))
    assert method("fp16", CapacityFound(least, probe(0.0))).refusal(LIMITS) == (
        "tpot-p99 is 72 ms even at 0.01 requests per second, 20 % over the limit of 60 ms"
    )
    never = method("fp16", found(0.0, binding=KEEPING_UP)).refusal(LIMITS)
    assert never is not None and never.startswith("no rate at which answers just keep up")


def test_refusal_names_the_nearest_method() -> None:
    far, near = (
        method(name, found(0.0, alone=probe(0.0, 0.5, tpot_s, missed=("tpot-p99",))))
        for name, tpot_s in (("fp16", 0.09), ("h2o", 0.07))
    )
    asked = study(far, near)
    assert asked.best is None
    assert isinstance(asked.refusal(), UsageError)
    assert "nearest is h2o:heavy=64,recent=448: tpot-p99 is 70 ms" in str(asked.refusal())
    assert isinstance(study(method("fp16", unfit="no room")).refusal(), DoesNotFitError)


def test_the_finding_compares_with_fp16() -> None:
    asked = study(method("fp16", found(1.0)), method("h2o", found(1.5), found(1.25), found(2.0)))
    assert asked.finding == (
        "h2o serves most: 1.5 requests per second and replica (1.25 to 2), 1.50 times fp16's"
    )
    assert study(method("fp16", found(0.0))).finding.startswith("No method meets the limits TTFT P99 ≤ 1 s")


def test_short_traces_and_shifts_are_remarked() -> None:
    # 99 gaps at 20 a second last 4.95 s, about once a mean request of 5 s.
    (remark,) = method("fp16", found(20.0)).remarks()
    assert "within 1.0 times what one takes" in remark
    assert method("fp16", found(1.0)).remarks() == []
    shifted = OutputShift(1.2, 1.1, 1.3, "published", "somewhere")
    one = MethodCapacity(method("h2o").estimate, shifted, TRACE)
    assert one.remarks() == ["answers of h2o are 1.20 times as long as fp16's (1.10 to 1.30, published)"]


def test_a_smaller_rate_that_fails_is_remarked() -> None:
    probes = (probe(0.5, missed=("tpot-p99",)), probe(1.0))
    odd = CapacityFound(Capacity(1.0, "tpot-p99", probes), probe(0.0))
    assert not odd.capacity.monotone
    assert "misses a limit, by chance" in method("fp16", odd).remarks()[0]

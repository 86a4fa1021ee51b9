"""Capacity by bisection, held against queues whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.data.arrivals import arrivals
from kvpred.data.limits import Limit, parse_limits
from kvpred.data.requests import ServedRequests
from kvpred.simulation.capacity import (
    KEEPING_UP,
    TOLERANCE,
    WAITING_GROWTH,
    Capacity,
    find_capacity,
    judge,
)

SERVICE_S = 0.1
TOKENS = 11  # ten tokens after the first, each a hundredth of the service time


def one_by_one(unit_gaps: np.ndarray, service_s: float) -> Callable[[float], ServedRequests]:
    """Serve in order of arrival, one at a time: Lindley's recursion (1952), exact."""

    def serve(qps: float) -> ServedRequests:
        arrived = unit_gaps / qps
        ended = np.empty_like(arrived)
        free = 0.0
        for place, at in enumerate(arrived):
            free = ended[place] = max(at, free) + service_s
        n = len(arrived)
        return ServedRequests(
            ids=tuple(map(str, range(n))),
            arrived_at_s=arrived,
            first_token_at_s=ended - 0.1 * service_s,
            completed_at_s=ended,
            prompt_tokens=np.full(n, 5),
            output_tokens=np.full(n, TOKENS),
            restarts=np.zeros(n, dtype=np.int64),
            device_s=np.full(n, service_s),
        )

    return serve


def found(
    limits: str, *, kind: str = "poisson", n: int = 400, service_s: float = SERVICE_S, seed: int = 0
) -> Capacity:
    serve = one_by_one(arrivals(kind, n, qps=1.0, seed=seed), service_s)
    return find_capacity(serve, parse_limits(limits), start_qps=3.0, least_qps=1e-3)


def test_even_arrivals_reach_the_rate_at_which_the_queue_stays_within_the_limit() -> None:
    # Request i of n waits i * (s - gap) beyond s: the last, which is P100, just meets s + w at
    # gap = s - w / (n - 1).
    n, wait_s = 400, 1.0
    capacity = found(f"e2e-p100={SERVICE_S + wait_s}s", kind="uniform", n=n)
    exact = 1 / (SERVICE_S - wait_s / (n - 1))
    assert exact / (1 + TOLERANCE) <= capacity.qps <= exact
    assert capacity.binding == "e2e-p100"


def test_a_growing_queue_ends_it_where_no_limit_does() -> None:
    # Beyond the service rate mu, who comes a second later waits qps / mu - 1 seconds longer.
    capacity = found("tpot-p99=1s", kind="uniform", n=2000)
    exact = (1 + WAITING_GROWTH) / SERVICE_S
    assert capacity.qps == pytest.approx(exact, rel=1.5 * TOLERANCE)
    assert capacity.binding == KEEPING_UP


def test_random_arrivals_wait_as_the_formula_says() -> None:
    # M/D/1 (Pollaczek and Khinchine): the mean wait is rho * s / (2 * (1 - rho)). At the rate found the
    # median time to the first token meets the limit, and the mean of the waits follows the formula.
    capacity = found("e2e-p50=150ms", n=20_000)
    served = one_by_one(arrivals("poisson", 20_000, qps=1.0), SERVICE_S)(capacity.qps)
    load = capacity.qps * SERVICE_S
    assert served.e2e_s.mean() - SERVICE_S == pytest.approx(load * SERVICE_S / (2 * (1 - load)), rel=0.1)
    assert np.percentile(served.e2e_s, 50) <= 0.15 < 0.15 * 1.1


def test_the_rate_found_meets_the_limits_and_a_little_more_does_not() -> None:
    limits = parse_limits("ttft-p99=600ms,e2e-p90=500ms")
    serve = one_by_one(arrivals("poisson", 400, qps=1.0), SERVICE_S)
    capacity = find_capacity(serve, limits, start_qps=3.0, least_qps=1e-3)
    assert capacity.at is not None and capacity.at.missed == ()
    beyond = next(probe for probe in capacity.probes if probe.qps > capacity.qps)
    assert beyond.qps <= capacity.qps * (1 + TOLERANCE)
    assert beyond.missed[0] == capacity.binding
    assert capacity.monotone
    assert judge(serve(capacity.qps), limits, qps=capacity.qps) == capacity.at


def test_where_the_search_begins_does_not_matter() -> None:
    serve = one_by_one(arrivals("poisson", 400, qps=1.0), SERVICE_S)
    rates = [
        find_capacity(serve, parse_limits("e2e-p99=1s"), start_qps=start, least_qps=1e-3).qps
        for start in (0.01, 1.0, 7.0, 500.0)
    ]
    assert max(rates) <= min(rates) * (1 + TOLERANCE)


def test_a_limit_below_the_service_time_leaves_nothing() -> None:
    capacity = found("e2e-p50=50ms,ttft-p50=1h")
    assert (capacity.qps, capacity.at, capacity.binding) == (0.0, None, "e2e-p50")


def test_the_limit_missed_by_most_binds() -> None:
    served = one_by_one(arrivals("uniform", 50, qps=1.0), SERVICE_S)(1.0)
    probe = judge(served, [Limit("e2e", 50, 0.08), Limit("ttft", 50, 0.05), Limit("tpot", 50, 9.0)], qps=1.0)
    assert probe.missed == ("ttft-p50", "e2e-p50")
    assert probe.values_s == pytest.approx((0.1, 0.09, 0.001))
    assert probe.waiting_growth == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("n", [100, 200, 1000])
@pytest.mark.parametrize("seed", range(10))
def test_chance_is_not_taken_for_a_queue_nor_a_queue_for_chance(n: int, seed: int) -> None:
    serve = one_by_one(arrivals("poisson", n, qps=1.0, seed=seed), SERVICE_S)
    limits = parse_limits("e2e-p99=1h")
    assert judge(serve(0.4 / SERVICE_S), limits, qps=4.0).missed == ()
    assert judge(serve(1.5 / SERVICE_S), limits, qps=15.0).missed == (KEEPING_UP,)


def test_the_wait_grows_by_the_share_that_the_rate_is_too_high() -> None:
    serve = one_by_one(arrivals("uniform", 200, qps=1.0), SERVICE_S)
    limits = parse_limits("e2e-p99=1h")
    assert judge(serve(1.3 / SERVICE_S), limits, qps=13.0).waiting_growth == pytest.approx(0.3)
    assert judge(serve(0.9 / SERVICE_S), limits, qps=9.0).waiting_growth == pytest.approx(0.0, abs=1e-9)


def test_a_service_without_end_has_no_capacity() -> None:
    serve = one_by_one(arrivals("uniform", 100, qps=1.0), 0.0)
    capacity = find_capacity(serve, parse_limits("e2e-p99=1h"), start_qps=1.0, least_qps=1e-3)
    assert (capacity.qps, capacity.binding) == (0.0, KEEPING_UP)


def test_bursts_alone_are_no_rate() -> None:
    gaps = np.repeat([0.0, 1.0], [30, 30])
    capacity = find_capacity(
        one_by_one(gaps, SERVICE_S), parse_limits("e2e-p99=1h"), start_qps=1, least_qps=1e-3
    )
    assert (capacity.qps, capacity.binding) == (0.0, KEEPING_UP)


@given(st.integers(0, 50), st.floats(1.0, 3.0), st.sampled_from(["ttft-p99", "e2e-p90", "e2e-p50"]))
def test_slower_service_and_tighter_limits_never_raise_capacity(seed: int, factor: float, name: str) -> None:
    usual = found(f"{name}=400ms", n=100, seed=seed).qps
    grace = 1 + TOLERANCE
    assert found(f"{name}=400ms", n=100, seed=seed, service_s=SERVICE_S * factor).qps <= usual * grace
    assert found(f"{name}={400 / factor}ms", n=100, seed=seed).qps <= usual * grace
    assert found(f"{name}=400ms,tpot-p99=2ms", n=100, seed=seed).qps <= usual * grace


@given(st.floats(0.1, 10.0))
def test_time_has_no_unit_of_its_own(scale: float) -> None:
    usual = found("e2e-p90=0.4s", n=100).qps
    scaled = found(f"e2e-p90={0.4 * scale:.9f}s", n=100, service_s=SERVICE_S * scale).qps
    assert abs(log(scaled * scale / usual)) <= 2 * log(1 + TOLERANCE)

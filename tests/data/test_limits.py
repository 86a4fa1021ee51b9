"""Limits: how they are written, and what a run reached."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.data.limits import Limit, check_distinct, duration_s, parse_limits, shown_s
from kvpred.data.requests import ServedRequests
from kvpred.errors import UsageError


def test_limits_are_read_as_written() -> None:
    assert parse_limits("ttft-p99=1s, TPOT-p99.9 = 60 ms,e2e-p50=2m") == (
        Limit("ttft", 99.0, 1.0),
        Limit("tpot", 99.9, 0.06),
        Limit("e2e", 50.0, 120.0),
    )


@given(st.sampled_from(["ttft", "tpot", "e2e"]), st.integers(1, 100), st.integers(1, 10**6))
def test_a_limit_reads_back_from_its_name(metric: str, percentile: int, ms: int) -> None:
    (found,) = parse_limits(f"{metric}-p{percentile}={ms}ms")
    assert parse_limits(f"{found.name}={ms}ms") == (found,)
    assert found.seconds == pytest.approx(ms / 1e3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ttft-p99=60 miliseconds", "the unit 'miliseconds' is not known; units are ms, s, m, min, h"),
        ("ttft-p99=60", "the unit is missing"),
        ("ttft-p99=soon", "write a time such as 60ms"),
        ("ttft-p99=-1s", "write a time such as 60ms"),
        ("ttft-p99=0s", "nothing can keep to that"),
        ("ttft-p0=1s", "above 0, at most 100"),
        ("ttft-p101=1s", "above 0, at most 100"),
        ("ttft=1s", "with a percentile such as -p99"),
        ("itl-p99=1s", "names are ttft, tpot, e2e"),
        ("ttft-p99", "write NAME=TIME"),
        ("ttft-p99=1s,ttft-p99=2s", "ttft-p99 is given twice"),
        (" , ", "no limit given"),
    ],
)
def test_what_is_no_limit(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_limits(text)


def test_durations_in_every_unit() -> None:
    found = [duration_s("x", text) for text in ("60ms", "1s", "1.5s", "2m", "2min", ".5 h")]
    assert found == [0.06, 1.0, 1.5, 120.0, 120.0, 1800.0]
    assert [shown_s(value) for value in (0.0123, 1.5, 2000.0)] == ["12.3 ms", "1.5 s", "2,000 s"]


def test_what_a_run_reached() -> None:
    served = ServedRequests(
        ids=("a", "b"),
        arrived_at_s=np.array([0.0, 1.0]),
        first_token_at_s=np.array([1.0, 3.0]),
        completed_at_s=np.array([1.0, 6.0]),
        prompt_tokens=np.array([5, 5]),
        output_tokens=np.array([1, 4]),
        restarts=np.array([0, 0]),
        device_s=np.full(2, np.nan),
    )
    reached = {one.name: one.reached(served) for one in parse_limits("ttft-p50=1s,tpot-p99=1s,e2e-p100=1s")}
    # The answer of one token has no time per token.
    assert reached == {"ttft-p50": 1.5, "tpot-p99": 1.0, "e2e-p100": 5.0}
    with pytest.raises(UsageError):
        check_distinct([Limit("ttft", 99, 1.0), Limit("ttft", 99.0, 2.0)])

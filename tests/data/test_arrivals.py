"""Arrivals that are drawn: their law, and common random numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.data.arrivals import KINDS, arrivals
from kvpred.errors import UsageError


@pytest.mark.parametrize(("kind", "cv"), [("poisson", 1.0), ("gamma", 3.0), ("gamma", 0.5), ("uniform", 0.0)])
def test_gaps_have_the_mean_and_variation_asked_for(kind: str, cv: float) -> None:
    gaps = np.diff(arrivals(kind, 200_000, qps=4.0, cv=cv or 1.0))
    # Standard errors at 200,000 gaps: 0.7 % of the mean for cv 3; no truncation shortens long gaps.
    assert gaps.mean() == pytest.approx(0.25, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.03, abs=1e-9)


def test_poisson_gaps_are_exponential_without_truncation() -> None:
    gaps = np.diff(arrivals("poisson", 200_000, qps=1.0))
    assert (gaps > 3).mean() == pytest.approx(np.exp(-3), rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_is_kept_however_few_there_are(kind: str) -> None:
    assert arrivals(kind, 30, qps=2.0, cv=2.0)[-1] == pytest.approx(29 / 2.0)


@given(kind=st.sampled_from(KINDS), n=st.integers(1, 50), qps=st.floats(0.01, 100), seed=st.integers(0, 99))
def test_another_rate_is_the_same_draw_stretched(kind: str, n: int, qps: float, seed: int) -> None:
    there = arrivals(kind, n, qps=qps, cv=2.0, seed=seed)
    assert there * qps == pytest.approx(arrivals(kind, n, qps=1.0, cv=2.0, seed=seed))
    assert there[0] == 0
    assert (np.diff(there) >= 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "weibull"}, "use poisson, gamma, uniform"),
        ({"n": 0}, "at least 1"),
        ({"qps": 0.0}, "requests per second"),
        ({"qps": float("nan")}, "requests per second"),
        ({"cv": -1.0}, "cv -1"),
    ],
)
def test_what_cannot_be_drawn(change: dict[str, object], message: str) -> None:
    asked: dict[str, object] = {"kind": "gamma", "n": 3, "qps": 1.0} | change
    with pytest.raises(UsageError, match=message):
        arrivals(asked.pop("kind"), asked.pop("n"), **asked)  # type: ignore[arg-type]

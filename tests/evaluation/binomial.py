"""Whether a count is one that chance allows."""

from __future__ import annotations

from kvpred.evaluation.intervals import binomial_band


def within_binomial(count: int, n: int, share: float) -> bool:
    """Whether `count` of `n` independent events of probability `share` lies in the central 99.9 %."""
    low, high = binomial_band(n, share, confidence=0.999)
    return low <= count / n <= high

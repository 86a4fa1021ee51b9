"""Limits that a service must keep: a percentile of a latency, and the seconds that it may take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from kvpred.data.requests import ServedRequests
from kvpred.errors import UsageError

METRICS = ("ttft", "tpot", "e2e")
UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([^\W\d_]*)")
_NAME = re.compile(rf"({'|'.join(METRICS)})-p(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit.

    Parameters
    ----------
    metric : {"ttft", "tpot", "e2e"}
        Time to the first token, time per token after it, or to the last token.
    percentile : float
        Of the requests, above 0 and at most 100.
    seconds : float
    """

    metric: str
    percentile: float
    seconds: float

    @property
    def name(self) -> str:
        """As options write it, such as ``ttft-p99``."""
        return f"{self.metric}-p{self.percentile:g}"

    def __str__(self) -> str:
        return f"{self.metric.upper()} P{self.percentile:g} ≤ {shown_s(self.seconds)}"

    def of(self, values_s: ArrayLike) -> float:
        """Return the percentile of some latencies; NaN ones, which have no such latency, do not count."""
        known = np.asarray(values_s, dtype=np.float64)
        known = known[~np.isnan(known)]
        return float(np.percentile(known, self.percentile)) if known.size else 0.0

    def reached(self, served: ServedRequests) -> float:
        """Return what a run reached, in seconds."""
        return self.of(getattr(served, f"{self.metric}_s"))


def parse_limits(text: str) -> tuple[Limit, ...]:
    """Read limits such as ``ttft-p99=1s,tpot-p99=60ms``.

    Raises
    ------
    UsageError
        If there is none, one is given twice, or a name or time is not understood.

    Examples
    --------
    >>> [str(limit) for limit in parse_limits("ttft-p99=1s,tpot-p99.9=60ms")]
    ['TTFT P99 ≤ 1 s', 'TPOT P99.9 ≤ 60 ms']
    """
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        match = _NAME.fullmatch(name.lower())
        if not equals or match is None:
            raise UsageError(
                f"limit {part!r}: write NAME=TIME such as ttft-p99=1s; names are {', '.join(METRICS)}, each "
                "with a percentile such as -p99"
            )
        found.append(make_limit(match[1], float(match[2]), value))
    if not found:
        raise UsageError("no limit given: write one such as ttft-p99=1s,tpot-p99=60ms")
    check_distinct(found)
    return tuple(found)


def make_limit(metric: str, percentile: float, text: str) -> Limit:
    """Return a limit whose time is still a text.

    Raises
    ------
    UsageError
        If the percentile is out of range or the time is not understood.
    """
    if not 0 < percentile <= 100:
        raise UsageError(f"percentile {percentile:g} of {metric}: give a number above 0, at most 100")
    made = Limit(metric, percentile, 0.0)
    return Limit(metric, percentile, duration_s(f"limit {made.name}", text))


def check_distinct(limits: Sequence[Limit]) -> None:
    """Raise `UsageError` if two limits are of one percentile of one latency."""
    names = [one.name for one in limits]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"limit {repeated[0]} is given twice")


def duration_s(what: str, text: str) -> float:
    """Return a time such as ``60ms``, ``1.5s`` or ``2m`` in seconds.

    Parameters
    ----------
    what : str
        What the time is of, for the error.
    text : str

    Raises
    ------
    UsageError
        If it is no positive time with a known unit; a number alone is none.

    Examples
    --------
    >>> duration_s("limit", "60ms"), duration_s("limit", "2m")
    (0.06, 120.0)
    """
    match = _DURATION.fullmatch(text.strip().lower())
    known = ", ".join(UNITS)
    if match is None:
        raise UsageError(f"{what} {text!r}: write a time such as 60ms or 1.5s; units are {known}")
    if match[2] not in UNITS:
        fault = f"the unit {match[2]!r} is not known" if match[2] else "the unit is missing"
        raise UsageError(f"{what} {text!r}: {fault}; units are {known}")
    seconds = float(match[1]) * UNITS[match[2]]
    if not 0 < seconds < float("inf"):
        raise UsageError(f"{what} {text!r}: nothing can keep to that; write a time such as 60ms or 1.5s")
    return seconds


def shown_s(seconds: float) -> str:
    """Write a time for people, in the unit that suits it.

    Examples
    --------
    >>> shown_s(0.06), shown_s(1.0), shown_s(90.0)
    ('60 ms', '1 s', '90 s')
    """
    if seconds >= 1000:
        return f"{seconds:,.0f} s"
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"

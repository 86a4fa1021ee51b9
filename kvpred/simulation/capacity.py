"""The largest request rate that one replica serves within limits, found by bisection on one trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np

from kvpred.data.limits import Limit
from kvpred.data.requests import ServedRequests

TOLERANCE = 0.02
"""Relative distance between the rate found and one that fails."""

WAITING_GROWTH = 0.05
"""Seconds by which the time to the first token may grow while a second passes.

Beyond what lasts, a queue makes it grow by the share that the rate is too high: a stated choice, which lies
above what chance does to some hundred requests and bounds the error where no latency is limited.
"""

KEEPING_UP = "keeping up"
# Rates that differ by so much are none.
_FARTHEST = 1e9
# The first step from where the search begins; each further one squares it, until the limit lies between two.
_STRIDE = 1.37


@dataclass(frozen=True, slots=True)
class Probe:
    """What one rate led to.

    Parameters
    ----------
    qps : float
        Mean arrivals per second.
    values_s : tuple of float
        Seconds that each limit is about, in the limits' order.
    waiting_growth : float
        Seconds by which the time to the first token grew per second, over the later half of the requests.
    throughput_tok_s : float
        Answered tokens per second until the last answer ended.
    mean_e2e_s : float
        Seconds from an arrival to the last token, on average.
    missed : tuple of str
        Names of the limits that are not met, the farthest missed first; `KEEPING_UP` if that is not.
    """

    qps: float
    values_s: tuple[float, ...]
    waiting_growth: float
    throughput_tok_s: float
    mean_e2e_s: float
    missed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Capacity:
    """The largest rate found that meets every limit.

    Parameters
    ----------
    qps : float
        Arrivals per second; 0 if no rate meets the limits.
    binding : str
        Name of the limit that the next larger rate misses by most.
    probes : tuple of Probe
        Everything that was tried, by rising rate.
    """

    qps: float
    binding: str
    probes: tuple[Probe, ...]

    @property
    def at(self) -> Probe | None:
        """Return what the rate found led to; None if there is none."""
        return next((probe for probe in self.probes if probe.qps == self.qps), None)

    @property
    def monotone(self) -> bool:
        """Whether every smaller rate that was tried meets the limits as well."""
        return not any(probe.missed for probe in self.probes if probe.qps < self.qps)


def judge(served: ServedRequests, limits: Sequence[Limit], *, qps: float) -> Probe:
    """Hold the requests of one rate against the limits. All of them count, those that came first as well.

    Parameters
    ----------
    served : ServedRequests
    limits : sequence of Limit
    qps : float
        The rate at which they came.
    """
    values = tuple(limit.reached(served) for limit in limits)
    growth = _waiting_growth(served)
    excess = {limit.name: value / limit.seconds for limit, value in zip(limits, values, strict=True)}
    excess[KEEPING_UP] = growth / WAITING_GROWTH
    missed = sorted((name for name, over in excess.items() if over > 1), key=lambda name: -excess[name])
    mean_e2e_s = float(served.e2e_s.mean())
    return Probe(qps, values, growth, served.throughput_tok_s, mean_e2e_s, tuple(missed))


def _waiting_growth(served: ServedRequests) -> float:
    """Compare the last quarter of the requests with the one before: extra wait over time between them."""
    n = len(served)
    order = np.argsort(served.arrived_at_s, kind="stable")
    third, last = order[n // 2 : 3 * n // 4], order[3 * n // 4 :]
    came, waited = served.arrived_at_s, served.ttft_s
    passed = float(came[last].mean() - came[third].mean())
    return float(waited[last].mean() - waited[third].mean()) / passed if passed else inf


def find_capacity(
    serve: Callable[[float], ServedRequests],
    limits: Sequence[Limit],
    *,
    start_qps: float,
    least_qps: float,
    tolerance: float = TOLERANCE,
) -> Capacity:
    """Find the largest rate that meets all limits, by bisection on the rate's logarithm.

    Parameters
    ----------
    serve : callable
        Serves the same requests at a rate (1/s): their gaps are stretched, nothing else changes, so that two
        rates differ by nothing but the rate.
    limits : sequence of Limit
    start_qps, least_qps : float
        Where to begin, and the rate below which requests hardly ever meet, so that a smaller one is no
        easier.
    tolerance : float
        How far, relatively, the rate found may lie below one that fails.

    Notes
    -----
    A rate counts as served if every limit's percentile over all requests is met, and answers keep up: over
    the later half of the requests the time to the first token grows by no more than `WAITING_GROWTH`. Without
    the second a short trace would hide a queue that grows for ever.
    """
    probes: list[Probe] = []
    low, high, qps, stride = 0.0, inf, start_qps, _STRIDE
    while True:
        probe = judge(serve(qps), limits, qps=qps)
        probes.append(probe)
        if probe.missed:
            high = qps
        else:
            low = qps
        if low > 0.0 and high < inf:
            if high <= low * (1 + tolerance):
                break
            qps = sqrt(low * high)
            continue
        qps, stride = (high / stride if high < inf else low * stride), stride**2
        if qps < least_qps:
            break
        if stride > _FARTHEST:
            # All in one batch, however fast they come.
            return Capacity(0.0, KEEPING_UP, tuple(probes))
    failed = next(probe for probe in probes if probe.qps == high)
    return Capacity(low, failed.missed[0], tuple(sorted(probes, key=lambda probe: probe.qps)))

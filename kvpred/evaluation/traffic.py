"""Requests served over time against their simulation: latencies, throughput, and which method is cheaper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import exp, sqrt

import numpy as np
from numpy.typing import NDArray

from kvpred.data.requests import ServedRequests
from kvpred.methods import BASELINE

Floats = NDArray[np.float64]
Runs = Mapping[tuple[str, str], ServedRequests]

_DRAWS = 1000
# Requests that wait for one another err together: they are drawn again in blocks of neighbours.
_BLOCK = 10


@dataclass(frozen=True, slots=True)
class TrafficSummary:
    """Requests in numbers.

    Parameters
    ----------
    run, method : str
        ``<load>/<round>``, or the load where all rounds stand together; and the full method string.
    requests, output_tokens : int
    ttft_mean_s, ttft_p99_s, tpot_mean_s : float
        `tpot_mean_s` is NaN if every answer has one token.
    e2e_mean_s, e2e_p50_s, e2e_p95_s, e2e_p99_s : float
    throughput_tok_s : float
        Answered tokens over the makespan.
    device_s : float or None
        Busy seconds of the device per request; None if unknown.
    busy : float or None
        Share of the makespan.
    """

    run: str
    method: str
    requests: int
    output_tokens: int
    ttft_mean_s: float
    ttft_p99_s: float
    tpot_mean_s: float
    e2e_mean_s: float
    e2e_p50_s: float
    e2e_p95_s: float
    e2e_p99_s: float
    throughput_tok_s: float
    device_s: float | None
    busy: float | None


METRICS = (
    "e2e_mean_s", "e2e_p50_s", "e2e_p95_s", "e2e_p99_s", "ttft_mean_s", "tpot_mean_s", "throughput_tok_s",
    "device_s",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TrafficCell:
    """All rounds of a load under a method, beside their simulation.

    Parameters
    ----------
    measured, simulated : TrafficSummary
    error : mapping of str to float or None
        simulated / measured - 1 of each of `METRICS`; None where the measurement does not tell.
    p99_low_s, p99_high_s : float
        Bootstrap interval of the measured P99 of the end-to-end latency, 90 %.
    """

    measured: TrafficSummary
    simulated: TrafficSummary
    error: Mapping[str, float | None]
    p99_low_s: float
    p99_high_s: float


@dataclass(frozen=True, slots=True)
class CheaperCell:
    """A method's busy seconds per request over fp16's under the same load.

    Parameters
    ----------
    load, method : str
    measured, low, high : float
        The ratio and its 95 % interval over the requests.
    simulated : float
    """

    load: str
    method: str
    measured: float
    low: float
    high: float
    simulated: float

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves out 1."""
        return not self.low <= 1.0 <= self.high

    @property
    def right(self) -> bool:
        """Whether the simulation says the same of which is cheaper."""
        return (self.measured < 1.0) == (self.simulated < 1.0)


@dataclass(frozen=True, slots=True)
class TrafficReport:
    """All runs of a folder, judged."""

    cells: tuple[TrafficCell, ...]
    cheaper: tuple[CheaperCell, ...]

    def mean_error(self, metric: str, *, method: str | None = None) -> float | None:
        """Return the mean absolute relative error over the cells, of one method if given; None if unknown."""
        found = [
            abs(error)
            for cell in self.cells
            if method in (None, cell.measured.method) and (error := cell.error[metric]) is not None
        ]
        return float(np.mean(found)) if found else None

    @property
    def asked(self) -> int:
        """Cells of `cheaper` whose difference exceeds the noise."""
        return sum(cell.told_apart for cell in self.cheaper)

    @property
    def right(self) -> int:
        """Those of them whose sign is foretold."""
        return sum(cell.told_apart and cell.right for cell in self.cheaper)


@dataclass(frozen=True, slots=True)
class JudgedTraffic:
    """Runs, their simulations, and what the two say of each other.

    Parameters
    ----------
    measured, simulated : mapping of (str, str) to ServedRequests
    report : TrafficReport
    output_tokens, predicted_tokens : float or None
        All tokens that were answered, and those predicted; None if nobody asked.
    notes : tuple of str
    """

    measured: Runs
    simulated: Runs
    report: TrafficReport
    output_tokens: float | None
    predicted_tokens: float | None
    notes: tuple[str, ...]


def summarise(run: str, method: str, served: ServedRequests) -> TrafficSummary:
    """Return one run in numbers."""
    p50, p95, p99 = np.percentile(served.e2e_s, (50, 95, 99)).tolist()
    tpot = served.tpot_s[np.isfinite(served.tpot_s)]
    known = bool(np.isfinite(served.device_s).all())
    return TrafficSummary(
        run=run,
        method=method,
        requests=len(served),
        output_tokens=int(served.output_tokens.sum()),
        ttft_mean_s=float(served.ttft_s.mean()),
        ttft_p99_s=float(np.percentile(served.ttft_s, 99)),
        tpot_mean_s=float(tpot.mean()) if len(tpot) else float("nan"),
        e2e_mean_s=float(served.e2e_s.mean()),
        e2e_p50_s=p50,
        e2e_p95_s=p95,
        e2e_p99_s=p99,
        throughput_tok_s=served.throughput_tok_s,
        device_s=float(served.device_s.mean()) if known else None,
        busy=served.busy_share if known else None,
    )


def judge_traffic(measured: Runs, simulated: Runs, *, seed: int = 0) -> TrafficReport:
    """Compare runs with their simulations.

    Parameters
    ----------
    measured, simulated : mapping of (str, str) to ServedRequests
        By run and full method string; the simulation has all that was measured, of the same requests.
    seed : int
        Of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    whole, said = joined(measured), joined(simulated)
    cells = tuple(_cell(key, whole[key], said[key], rng) for key in whole)
    cheaper = [
        _cheaper(run, method, measured, simulated, rng)
        for run, method in measured
        if method != BASELINE and (run, BASELINE) in measured
    ]
    return TrafficReport(cells, _pooled([cell for cell in cheaper if cell is not None]))


def joined(runs: Runs) -> dict[tuple[str, str], ServedRequests]:
    """Return the parts of each load and method as one run, one after another, by load and method."""
    parts: dict[tuple[str, str], list[ServedRequests]] = {}
    for (run, method), served in runs.items():
        parts.setdefault((run.partition("/")[0], method), []).append(served)
    return {key: _one_after_another(own) for key, own in parts.items()}


def _one_after_another(parts: Sequence[ServedRequests]) -> ServedRequests:
    begins = np.concatenate([[0.0], np.cumsum([part.makespan_s for part in parts[:-1]])])
    begins -= np.array([part.arrived_at_s.min() for part in parts])
    times = ("arrived_at_s", "first_token_at_s", "completed_at_s")
    later = [
        replace(part, **{name: getattr(part, name) + begin for name in times})
        for part, begin in zip(parts, begins.tolist(), strict=True)
    ]
    columns = [field.name for field in fields(ServedRequests) if field.name != "ids"]
    return ServedRequests(
        ids=tuple(name for part in parts for name in part.ids),
        **{name: np.concatenate([getattr(part, name) for part in later]) for name in columns},
    )


def _cell(
    key: tuple[str, str], measured: ServedRequests, simulated: ServedRequests, rng: np.random.Generator
) -> TrafficCell:
    own, other = summarise(*key, measured), summarise(*key, simulated)
    p99 = np.percentile(measured.e2e_s[_resampled(len(measured), rng)], 99, axis=1)
    low, high = np.percentile(p99, (5, 95)).tolist()
    return TrafficCell(own, other, {name: _error(own, other, name) for name in METRICS}, low, high)


def _error(measured: TrafficSummary, simulated: TrafficSummary, name: str) -> float | None:
    true, said = getattr(measured, name), getattr(simulated, name)
    return None if true is None or said is None or not true > 0 else float(said / true - 1)


def _cheaper(
    run: str, method: str, measured: Runs, simulated: Runs, rng: np.random.Generator
) -> CheaperCell | None:
    own, base = measured[run, method].device_s, measured[run, BASELINE].device_s
    if not np.isfinite([own.sum(), base.sum()]).all():
        return None
    rows = _resampled(len(own), rng)
    ratios = own[rows].sum(axis=1) / base[rows].sum(axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5)).tolist()
    said = simulated[run, method].device_s.sum() / simulated[run, BASELINE].device_s.sum()
    return CheaperCell(run, method, float(own.sum() / base.sum()), low, high, float(said))


def _resampled(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return rows of bootstrap samples in blocks of neighbours, shape (draws, about n)."""
    block = min(_BLOCK, n)
    begins = rng.integers(0, n - block + 1, size=(_DRAWS, -(-n // block)))
    rows: NDArray[np.int64] = (begins[:, :, None] + np.arange(block)).reshape(_DRAWS, -1)
    return rows


def _pooled(cells: Sequence[CheaperCell]) -> tuple[CheaperCell, ...]:
    """Return one cell of all rounds of a load and method.

    Its interval is as wide as the rounds differ, or as each round's own interval says, whichever is wider.
    """
    groups: dict[tuple[str, str], list[CheaperCell]] = {}
    for cell in cells:
        groups.setdefault((cell.load.partition("/")[0], cell.method), []).append(cell)
    found = []
    for (load, method), own in groups.items():
        logs = np.log([(cell.measured, cell.low, cell.high, cell.simulated) for cell in own])
        within = float(np.mean(logs[:, 2] - logs[:, 1])) / 2 / sqrt(len(own))
        between = 2 * float(np.std(logs[:, 0], ddof=1)) / sqrt(len(own)) if len(own) > 1 else 0.0
        middle, half = float(logs[:, 0].mean()), max(within, between)
        said = exp(float(logs[:, 3].mean()))
        found.append(CheaperCell(load, method, exp(middle), exp(middle - half), exp(middle + half), said))
    return tuple(found)

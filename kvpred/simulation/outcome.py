"""What traffic meets under one method: latencies, load, dollars, and how sure they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import nan

import numpy as np

from kvpred.data.traces import Trace
from kvpred.methods import BASELINE
from kvpred.predictors.estimate import Estimate
from kvpred.predictors.length.outputs import OutputShift
from kvpred.simulation.simulate import Floats, Simulation

METRICS = ("ttft", "tpot", "e2e", "queue")
PERCENTILES = (50, 90, 95, 99)
STATISTICS = ("mean", *(f"p{percentile}" for percentile in PERCENTILES))


@dataclass(frozen=True, slots=True)
class Band:
    """A number as predicted, and the range that it spans where steps are slower or faster."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Simulations:
    """The same requests under one method with steps as predicted, and at both ends of their interval."""

    usual: Simulation
    slow: Simulation
    fast: Simulation

    def band(self, number: Callable[[Simulation], float]) -> Band:
        """Return a number of each as one."""
        value, *ends = (number(one) for one in (self.usual, self.slow, self.fast))
        return Band(value, min(value, *ends), max(value, *ends))


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What happened to a trace under one method.

    Parameters
    ----------
    estimate : Estimate
        Of an average request in an average step's batch: basis, domain and provenance are its.
    shift : OutputShift
        Of the answers' lengths.
    trace : Trace
        The requests, with answers of these lengths.
    cut : int
        Answers that the model's context cuts.
    runs : Simulations or None
        None if something does not fit in memory.
    unfit : str or None
        What does not.
    """

    estimate: Estimate
    shift: OutputShift
    trace: Trace
    cut: int
    runs: Simulations | None
    unfit: str | None = None

    @property
    def grows(self) -> bool:
        """Whether the queue grows to the end: requests come faster than they are served.

        A stated choice: the last quarter of the requests waits more than twice as long as the second, and
        more than half of the time that serving takes.
        """
        if self.runs is None or not np.isfinite(self.trace.qps):
            return False
        queued_s, quarter = self.runs.usual.queued_s, len(self.trace) // 4
        if not quarter:
            return False
        second, last = queued_s[quarter : 2 * quarter].mean(), queued_s[-quarter:].mean()
        served_s = (self.runs.usual.served.e2e_s - queued_s).mean()
        return bool(last > 2 * second and last > served_s / 2)


def latencies_s(simulation: Simulation, metric: str) -> Floats:
    """Return a latency of every request in seconds; NaN where it has none.

    Parameters
    ----------
    simulation : Simulation
    metric : {"ttft", "tpot", "e2e", "queue"}
    """
    if metric == "queue":
        return simulation.queued_s
    return np.asarray(getattr(simulation.served, f"{metric}_s"))


def statistic_s(simulation: Simulation, metric: str, name: str) -> float:
    """Return the mean (``mean``) or a percentile (``p99``) of a latency, in seconds."""
    values = latencies_s(simulation, metric)
    known = values[~np.isnan(values)]
    if not known.size:
        return nan
    return float(known.mean() if name == "mean" else np.percentile(known, float(name[1:])))


def latency_band(runs: Simulations, metric: str, name: str) -> Band:
    """Return a statistic of a latency with its band, in seconds; see `statistic_s`."""
    return runs.band(lambda one: statistic_s(one, metric, name))


def qps_served(simulation: Simulation) -> float:
    """Return requests per second, from the first arrival to the last answer."""
    return len(simulation.served) / simulation.served.makespan_s


@dataclass(frozen=True, slots=True, eq=False)
class TrafficStudy:
    """What several methods make of the same requests.

    Parameters
    ----------
    outcomes : tuple of Outcome
        In the order asked for.
    scheduler : str
    max_bsz : int
        Most requests that a replica serves at once.
    replicas : int
    usd_per_hour : float or None
        Of one replica: all its devices.
    notes : tuple of str
        What a reader must know, a sentence each.
    """

    outcomes: tuple[Outcome, ...]
    scheduler: str
    max_bsz: int
    replicas: int
    usd_per_hour: float | None
    notes: tuple[str, ...]

    @property
    def baseline(self) -> Outcome | None:
        """fp16's outcome, if it was asked for and fits."""
        return next((o for o in self.served if o.estimate.method == BASELINE), None)

    @property
    def served(self) -> list[Outcome]:
        """The outcomes of methods that fit."""
        return [outcome for outcome in self.outcomes if outcome.runs is not None]

    def usd_per_request(self, simulation: Simulation) -> float:
        """Return what an average request costs by its share of the steps that it was in; NaN unpriced."""
        return self._usd_per_second * float(simulation.served.device_s.mean())

    def usd_per_request_rented(self, simulation: Simulation) -> float:
        """Return the same where replicas are paid for from first arrival to last answer, idle or not."""
        seconds = simulation.n_replicas * simulation.served.makespan_s
        return self._usd_per_second * seconds / len(simulation.served)

    @property
    def _usd_per_second(self) -> float:
        return nan if self.usd_per_hour is None else self.usd_per_hour / 3600

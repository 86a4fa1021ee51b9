"""What one replica serves under each method, how many the traffic takes, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from kvpred.data.limits import Limit, shown_s
from kvpred.data.traces import Trace
from kvpred.errors import DoesNotFitError, KvpredError, UsageError
from kvpred.methods import BASELINE
from kvpred.predictors.estimate import Estimate
from kvpred.predictors.length.outputs import OutputShift
from kvpred.predictors.scaling import Place
from kvpred.simulation.capacity import KEEPING_UP, Probe
from kvpred.simulation.capacity_task import CapacityFound

# Requests that come within fewer mean latencies than this hardly show what lasts.
_SHORT = 5


@dataclass(frozen=True, slots=True, eq=False)
class MethodCapacity:
    """What one replica serves under one method.

    Parameters
    ----------
    estimate : Estimate
        Of an average request, alone and in a batch as at the capacity: basis, domain and provenance are its.
    shift : OutputShift
        Of the answers' lengths.
    trace : Trace
        The requests, with answers of these lengths.
    unfit : str or None
        Why there is no such replica.
    usual, slow, fast : CapacityFound or None
        With steps as predicted, and at the slow and the fast end of their interval; None if unfit.
    """

    estimate: Estimate
    shift: OutputShift
    trace: Trace
    unfit: str | None = None
    usual: CapacityFound | None = None
    slow: CapacityFound | None = None
    fast: CapacityFound | None = None

    @property
    def name(self) -> str:
        """The method's bare name."""
        return self.estimate.method

    @property
    def qps(self) -> float:
        """Requests per second; 0 if the limits cannot be met."""
        return self.usual.capacity.qps if self.usual else 0.0

    @property
    def band(self) -> tuple[float, float]:
        """The same at the slow and the fast end, which hold the value itself whatever the tolerance did."""
        ends = [found.capacity.qps for found in (self.slow, self.fast) if found]
        return min(self.qps, *ends, self.qps), max(self.qps, *ends, self.qps)

    @property
    def at(self) -> Probe | None:
        """What the largest rate led to; None if there is none."""
        return self.usual.capacity.at if self.usual else None

    def usd_per_million_tokens(self, price_per_hour: float) -> float | None:
        """Return what a million answered tokens cost on a replica at its capacity."""
        if not self.qps:
            return None
        tokens_per_hour = 3600 * self.qps * float(self.trace.output_tokens.mean())
        return 1e6 * price_per_hour * self.estimate.tp / tokens_per_hour

    def refusal(self, limits: Sequence[Limit]) -> str | None:
        """Say why no rate is served; None if one is."""
        if self.usual is None or self.qps:
            return self.unfit
        if self.usual.refused is not None:
            return self.usual.refused
        capacity, alone = self.usual.capacity, self.usual.alone
        if capacity.binding == KEEPING_UP:
            return "no rate at which answers just keep up: requests come at once, or are too few to tell"
        limit = next(one for one in limits if one.name == capacity.binding)
        place = list(limits).index(limit)
        if capacity.binding in alone.missed:
            value, when = alone.values_s[place], "even for requests served alone"
        else:
            least = capacity.probes[0]
            value, when = least.values_s[place], f"even at {least.qps:.2g} requests per second"
        return (
            f"{limit.name} is {shown_s(value)} {when}, {100 * (value / limit.seconds - 1):.3g} % over the "
            f"limit of {shown_s(limit.seconds)}"
        )

    def remarks(self) -> list[str]:
        """Return what a reader must know of it, a sentence each."""
        shift, notes = self.shift, []
        if shift.basis == "assumed-none":
            notes.append(f"answers of {self.name} are taken to be as long as {BASELINE}'s: nothing is known")
        elif shift.multiplier != 1.0:
            notes.append(
                f"answers of {self.name} are {shift.multiplier:.2f} times as long as {BASELINE}'s "
                f"({shift.low:.2f} to {shift.high:.2f}, {shift.basis})"
            )
        if self.usual is None or self.at is None:
            return notes
        lasts = (len(self.trace) - 1) / self.at.qps / self.at.mean_e2e_s
        if lasts < _SHORT:
            notes.append(
                f"at the capacity of {self.name} all requests come within {lasts:.1f} times what one takes; "
                f"more --requests would tell more about a lasting rate"
            )
        if not self.usual.capacity.monotone:
            notes.append(f"a rate below the capacity of {self.name} misses a limit, by chance of the trace")
        return notes


@dataclass(frozen=True, slots=True, eq=False)
class CapacityStudy:
    """Capacities of several methods for the same requests under the same limits.

    Parameters
    ----------
    place : Place
    engine, scheduler : str
    limits : tuple of Limit
    capacities : tuple of MethodCapacity
        In the order asked for.
    level : float
        Of the interval at whose ends steps are slow and fast.
    notes : tuple of str
        What a reader must know, a sentence each.
    traffic_qps : float, optional
        Requests per second that all replicas together are to serve.
    price_per_hour : float, optional
        US dollars per device and hour.
    """

    place: Place
    engine: str
    scheduler: str
    limits: tuple[Limit, ...]
    capacities: tuple[MethodCapacity, ...]
    level: float
    notes: tuple[str, ...]
    traffic_qps: float | None = None
    price_per_hour: float | None = None

    @property
    def best(self) -> MethodCapacity | None:
        """Return the method that serves most; None if none meets the limits."""
        most = max(self.capacities, key=lambda one: one.qps)
        return most if most.qps else None

    def replicas(self, qps: float) -> int | None:
        """Return how many replicas the traffic takes where each serves so many requests per second.

        None without traffic, or where no number of replicas suffices.
        """
        if self.traffic_qps is None or not qps:
            return None
        # Rounding must not ask for one more.
        return ceil(self.traffic_qps / qps * (1 - 1e-9))

    def usd_per_hour(self, qps: float) -> float | None:
        """Return what these replicas cost; None without a price, too."""
        replicas = self.replicas(qps)
        if replicas is None or self.price_per_hour is None:
            return None
        return replicas * self.place.tp * self.price_per_hour

    @property
    def finding(self) -> str:
        """What was found, in a sentence."""
        best = self.best
        if best is None:
            return f"No method meets the limits {' and '.join(map(str, self.limits))}"
        low, high = best.band
        rate = f"{best.qps:.3g} requests per second and replica ({low:.3g} to {high:.3g})"
        paper = " on paper" if best.estimate.basis == "roofline" else ""
        text = f"{best.name} serves most{paper}: {rate}"
        fp16 = next((one for one in self.capacities if one.name == BASELINE and one.qps), None)
        if fp16 is None or fp16 is best:
            return text
        return f"{text}, {best.qps / fp16.qps:.2f} times {BASELINE}'s"

    def refusal(self) -> KvpredError:
        """Return why no method can be had: which limit is missed, and by how much at best."""
        fitting = [one for one in self.capacities if one.usual is not None and one.usual.refused is None]
        if not fitting:
            return DoesNotFitError(f"no method fits: {self.capacities[0].refusal(self.limits)}")
        least = min(fitting, key=self._excess)
        return UsageError(
            f"no method meets the limits; nearest is {least.estimate.method_params}: "
            f"{least.refusal(self.limits)}"
        )

    def _excess(self, one: MethodCapacity) -> float:
        assert one.usual is not None
        values = one.usual.alone.values_s
        return max(value / limit.seconds for value, limit in zip(values, self.limits, strict=True))

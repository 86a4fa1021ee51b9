"""At which batch a method serves some requests cheapest within limits, and what keeps it from doing so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kvpred.data.limits import Limit, shown_s
from kvpred.hardware import EngineSpec
from kvpred.methods import Method
from kvpred.predictors.batches import Batches, BatchTimes, batch_times, largest_batch
from kvpred.predictors.length.outputs import OutputShift
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.scaling import Place
from kvpred.predictors.steps import Query, coverage

# Level of the intervals that tell what a prediction may be off by: that of the published range, which holds
# whatever level is asked for (`kvpred.predictors.scaling.FIELD_SPEEDUP`).
ERROR_LEVEL = 0.9


@dataclass(frozen=True, slots=True)
class Terms:
    """What a service must keep to, and what it costs.

    Parameters
    ----------
    limits : tuple of Limit
    price_per_hour : float
        US dollars per device and hour.
    bsz_max : int
        Largest batch to consider.
    weight_bits, memory_utilization
        As in `kvpred.predictors.memory.predict_memory`.
    level : float
        Of the intervals of costs.
    seed : int
    """

    limits: tuple[Limit, ...]
    price_per_hour: float
    bsz_max: int = 256
    weight_bits: int = 16
    memory_utilization: float = 0.9
    level: float = 0.9
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One method at one batch size.

    Parameters
    ----------
    bsz : int
    reached_s, predicted_s : tuple of float
        For each limit: its percentile over the requests and the predictor's error, and over the requests
        alone.
    times : BatchTimes
    query : Query
        An average request of the mix in such a batch.
    usd_per_request, usd_per_million_output_tokens : float
        At the predicted times.
    in_domain : bool
        Whether all lies within what was measured for the method.
    """

    bsz: int
    reached_s: tuple[float, ...]
    predicted_s: tuple[float, ...]
    times: BatchTimes
    query: Query
    usd_per_request: float
    usd_per_million_output_tokens: float
    in_domain: bool

    def worst(self, limits: Sequence[Limit]) -> tuple[float, Limit]:
        """Return the limit that it misses most, or keeps least, and what it reaches over what that allows."""
        ratios = [reached / limit.seconds for reached, limit in zip(self.reached_s, limits, strict=True)]
        worst = int(np.argmax(ratios))
        return ratios[worst], limits[worst]

    def meets(self, limits: Sequence[Limit]) -> bool:
        """Whether it keeps every limit."""
        return not limits or self.worst(limits)[0] <= 1


@dataclass(frozen=True, slots=True)
class Standing:
    """How a method stands among those that keep the limits, with what is uncertain drawn anew.

    Parameters
    ----------
    usd_per_request, usd_per_million_output_tokens : float
        Expected: means over the draws. The former ranks methods: what may be much slower costs more to be
        expected than at its predicted time.
    chance : float
        Probability that it is the cheapest.
    vs_fp16 : tuple of float or None
        Median of its costs over fp16's, each at its own batch, and the interval at `Terms.level`; None if
        fp16 is rejected.
    """

    usd_per_request: float
    usd_per_million_output_tokens: float
    chance: float
    vs_fp16: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One method, and what became of it.

    Parameters
    ----------
    method : Method
    basis : str
    shift : OutputShift
        Of its answers' lengths, which its times and costs include.
    max_bsz : int
        Largest batch of the mix that fits in memory.
    batches : tuple of Batch
        Sizes 1, 2, 4 ..., the largest, and some between.
    best : Batch or None
        The cheapest that keeps the limits; of a rejected method the one that comes nearest; None if nothing
        fits.
    rejected : str
        Why it is not ranked; empty if it is.
    standing : Standing or None
        Beside the others; None of a rejected one.
    """

    method: Method
    basis: str
    shift: OutputShift
    max_bsz: int
    batches: tuple[Batch, ...] = ()
    best: Batch | None = None
    rejected: str = ""
    standing: Standing | None = None


def consider(
    predictor: Predictor,
    method: Method,
    place: Place,
    engine: EngineSpec,
    *,
    drawn: Batches,
    shift: OutputShift,
    terms: Terms,
) -> Candidate:
    """Try a method at every batch size, and take the cheapest that keeps the limits.

    Batches are static, as in DESIGN.md §3: all requests of a batch start together, and nobody waits for a
    place in one. A request pays for its share of the replica: one over the batch.

    Parameters
    ----------
    predictor : Predictor
    method : Method
    place : Place
    engine : EngineSpec
    drawn : Batches
        Requests with the lengths of fp16's answers, in batches of `terms.bsz_max`.
    shift : OutputShift
    terms : Terms

    Raises
    ------
    NotCoveredError
        If the place lacks a number that the scaling needs.
    """
    own = drawn.scaled(shift.multiplier)
    fitting = largest_batch(
        method,
        place,
        engine,
        drawn=own,
        weight_bits=terms.weight_bits,
        memory_utilization=terms.memory_utilization,
    )
    basis = coverage(predictor, method, place, engine.name).basis
    found = Candidate(method, basis, shift, fitting)
    if not fitting:
        prompt, output = own.longest
        return replace(
            found,
            rejected=f"does not fit in memory: {prompt:,} tokens of prompt and {output:,} of answer alone",
        )

    def trying(bsz: int) -> Batch:
        return _batch(predictor, method, place, engine.name, batches=own.of_size(bsz), terms=terms)

    batches = _tried(trying, fitting, terms.limits)
    meeting = [batch for batch in batches if batch.meets(terms.limits)]
    if meeting:
        best = min(meeting, key=lambda batch: batch.times.device_s)
        return replace(found, batches=batches, best=best)
    nearest = min(batches, key=lambda batch: batch.worst(terms.limits)[0])
    return replace(found, batches=batches, best=nearest, rejected=missed(nearest, terms.limits))


def missed(batch: Batch, limits: Sequence[Limit]) -> str:
    """Say which limit a batch misses most, by how much, and whether that is for want of knowledge."""
    factor, limit = batch.worst(limits)
    row = limits.index(limit)
    text = (
        f"misses {limit} by {factor - 1:.0%}: {shown_s(batch.reached_s[row])} at its best batch, {batch.bsz}"
    )
    predicted_s = batch.predicted_s[row]
    doubt = f"; {shown_s(predicted_s)} if the prediction were sure" if predicted_s <= limit.seconds else ""
    return text + doubt


def _tried(trying: Callable[[int], Batch], largest: int, limits: Sequence[Limit]) -> tuple[Batch, ...]:
    """Return batches of 1, 2, 4 ... and the largest, and those that lead to the largest within the limits.

    Every latency grows with the batch, so that halving the doubtful range finds it.
    """
    sizes = sorted({largest, *(2**power for power in range(largest.bit_length()))})
    found = {bsz: trying(bsz) for bsz in sizes}
    low = max((bsz for bsz, batch in found.items() if batch.meets(limits)), default=largest)
    high = min((bsz for bsz in sizes if bsz > low), default=low)
    while high - low > 1:
        middle = (low + high) // 2
        found[middle] = trying(middle)
        low, high = (middle, high) if found[middle].meets(limits) else (low, middle)
    return tuple(found[bsz] for bsz in sorted(found))


def _batch(
    predictor: Predictor, method: Method, place: Place, engine: str, *, batches: Batches, terms: Terms
) -> Batch:
    times = batch_times(predictor, method, place, engine, batches=batches, level=ERROR_LEVEL)
    usd = terms.price_per_hour * place.tp / 3600 * times.device_s
    bsz = batches.prompts.shape[1]
    return Batch(
        bsz=bsz,
        reached_s=tuple(limit.of(times.latencies_s(limit.metric)) for limit in terms.limits),
        predicted_s=tuple(limit.of(times.latencies_s(limit.metric, sure=True)) for limit in terms.limits),
        times=times,
        query=Query(*(np.array([round(n)]) for n in (bsz, batches.prompts.mean(), batches.outputs.mean()))),
        usd_per_request=usd,
        usd_per_million_output_tokens=1e6 * usd / float(batches.outputs.mean()),
        in_domain=bool(times.prefill.in_domain.all() and times.decode.in_domain.all()),
    )

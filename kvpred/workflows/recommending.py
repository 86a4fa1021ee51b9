"""From limits and requests to a recommendation: requests in, methods tried, quality looked up, ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvpred.data.limits import check_distinct
from kvpred.data.longbench import Task
from kvpred.data.quality import read_quality
from kvpred.data.risk import read_risk
from kvpred.errors import UsageError
from kvpred.evaluation.evidence import beside
from kvpred.evaluation.published_risk import Broken, broken_requests
from kvpred.evaluation.quality import quality_of
from kvpred.evaluation.recommendation import Recommendation, unknown_quality, within_quality
from kvpred.hardware import get_device, get_engine_spec
from kvpred.methods import BASELINE, get_method
from kvpred.models import get_model
from kvpred.predictors.batches import Batches
from kvpred.predictors.cheapest import rank
from kvpred.predictors.cost import check_price
from kvpred.predictors.crossval import check_level
from kvpred.predictors.estimate import DEFAULT_DEVICE, DEFAULT_ENGINE, DEFAULT_MODEL, predict
from kvpred.predictors.length.outputs import REFERENCE, output_shift
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.recommend import Candidate, Terms, consider
from kvpred.predictors.scaling import Place
from kvpred.predictors.steps import coverage
from kvpred.reports.evidence import Explained, rests_on
from kvpred.workflows.workloads import WorkloadRequest, build_workload

# No server batches more sequences, and no more are worth trying.
MOST_BSZ = 1024
# Published measurements beside each of the first two.
_NEAR = 3


@dataclass(frozen=True, slots=True)
class Asked:
    """Among which methods, where, and for which requests.

    Parameters
    ----------
    methods : sequence of str
    workload : WorkloadRequest
        Whose arrivals do not matter.
    model, device, engine : str
    tp : int
    max_quality_loss : float, optional
        Share of fp16's published score that may be lost.
    shifted : bool
        Whether a method's answers are as much longer as is known of it.
    """

    methods: Sequence[str]
    workload: WorkloadRequest
    model: str = DEFAULT_MODEL
    device: str = DEFAULT_DEVICE
    engine: str = DEFAULT_ENGINE
    tp: int = 1
    max_quality_loss: float | None = None
    shifted: bool = True


def recommend(asked: Asked, terms: Terms, *, predictor: Predictor) -> Recommendation:
    """Rank methods, each at its cheapest batch within the limits.

    Raises
    ------
    UsageError
        If a name is unknown or a number out of range; not if no method keeps the limits, which
        `Recommendation.refusal` tells.
    DataError
        If a file of requests is wrong.
    NotCoveredError
        If the place lacks a number that the scaling needs.
    """
    check_price(terms.price_per_hour)
    check_level(terms.level)
    check_distinct(terms.limits)
    if not 1 <= terms.bsz_max <= MOST_BSZ:
        raise UsageError(f"--bsz-max {terms.bsz_max}: give a whole number from 1 to {MOST_BSZ:,}")
    engine = get_engine_spec(asked.engine)
    place = Place(get_model(asked.model), get_device(asked.device), asked.tp)
    methods = {method.spec: method for method in map(get_method, asked.methods)}
    workload = build_workload(asked.workload, context_tokens=place.model.max_position, timed=False)
    trace = workload.trace
    drawn = Batches.draw(trace.prompt_tokens, trace.output_tokens, bsz_max=terms.bsz_max, seed=terms.seed)
    runs = read_quality()
    quality = {spec: quality_of(method, runs) for spec, method in methods.items()}
    found = []
    for spec, method in methods.items():
        shift = output_shift(method, place.model.name) if asked.shifted else REFERENCE
        tried = consider(predictor, method, place, engine, drawn=drawn, shift=shift, terms=terms)
        found.append(within_quality(tried, quality[spec], asked.max_quality_loss))
    candidates = rank(found, predictor=predictor, place=place, engine=engine.name, terms=terms)
    notes = [*workload.notes, *_notes(asked, terms, quality=unknown_quality(quality))]
    return Recommendation(place, engine.name, terms, tuple(candidates), quality, tuple(notes))


def explain(found: Recommendation, *, predictor: Predictor) -> list[Explained]:
    """Return what others measured of the first two, beside what is predicted of their batches."""
    return [_explained(candidate, found, predictor) for candidate in found.ranked[:2]]


def broken_among(found: Recommendation, *, task: Task | None = None) -> Broken:
    """Return the share of requests that each method breaks, as published; see `broken_requests`."""
    return broken_requests(found.quality, read_risk(), task=task)


def _explained(candidate: Candidate, found: Recommendation, predictor: Predictor) -> Explained:
    assert candidate.best is not None
    query = candidate.best.query
    estimate = predict(
        method=candidate.method,
        bsz=candidate.best.bsz,
        prompt_len=int(query.prompt_len[0]),
        output_len=int(query.output_len[0]),
        predictor=predictor,
        model=found.place.model,
        device=found.place.device,
        engine=found.engine,
        tp=found.place.tp,
        level=found.terms.level,
        weight_bits=found.terms.weight_bits,
        memory_utilization=found.terms.memory_utilization,
    )
    known = coverage(predictor, candidate.method, found.place, found.engine)
    return Explained(estimate, rests_on(known), tuple(beside(estimate, limit=_NEAR)))


def _notes(asked: Asked, terms: Terms, *, quality: Sequence[str]) -> list[str]:
    notes = [
        "static batches: all requests of a batch start together, and nobody waits for a place in one; with "
        "arrivals over time latencies are longer (`kvpred simulate`, `kvpred capacity`)",
        "latencies at the limits' percentiles are taken over the requests and over what the prediction may "
        "be off by; costs are expected ones",
    ]
    if not terms.limits:
        notes.append("no limit is given: the cheapest batch is often the largest that fits")
    if not asked.shifted:
        notes.append(f"answers are taken to be as long as {BASELINE}'s")
    if quality and asked.max_quality_loss is not None:
        notes.append(f"no published score, so kept, of unknown quality: {', '.join(quality)}")
    return notes

"""From the requests that are asked for to what each method makes of them on simulated replicas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from kvpred.data.requests import write_requests
from kvpred.data.traces import Trace
from kvpred.errors import DoesNotFitError, MissingExtraError
from kvpred.methods import BASELINE, Method, get_method
from kvpred.predictors.cost import check_price
from kvpred.predictors.crossval import check_level
from kvpred.predictors.predictor import Predictor
from kvpred.simulation.outcome import Outcome, Simulations, TrafficStudy
from kvpred.simulation.simulate import simulate
from kvpred.workflows.server import Server, factors
from kvpred.workflows.workloads import WorkloadRequest, build_workload

REQUESTS_FILE = "requests.csv"
_RUN = "simulated"


@dataclass(frozen=True, slots=True)
class SimulationRequest:
    """What is to be served, and on what.

    Parameters
    ----------
    workload : WorkloadRequest
    methods : sequence of str
    server : Server
    replicas : int
    price_per_hour : float, optional
        US dollars per device and hour.
    """

    workload: WorkloadRequest
    methods: Sequence[str]
    server: Server = field(default_factory=Server)
    replicas: int = 1
    price_per_hour: float | None = None


def study_traffic(
    request: SimulationRequest, *, predictor: Predictor, progress: Callable[[str], None] = lambda _: None
) -> TrafficStudy:
    """Serve the same requests under each method: as predicted, and with slower and with faster steps.

    Parameters
    ----------
    request : SimulationRequest
    predictor : Predictor
    progress : callable
        Told in a sentence what is done.

    Raises
    ------
    UsageError
        If a name is unknown or a number out of range.
    DataError
        If a file is wrong, or a request exceeds the model's context.
    NotCoveredError
        If there is no basis for a method's times.
    DoesNotFitError
        If under every method something does not fit in memory.
    MissingExtraError
        If Vidur is not installed.
    """
    if find_spec("vidur") is None:
        raise MissingExtraError("vidur", "vidur")
    if request.price_per_hour is not None:
        check_price(request.price_per_hour)
    server = request.server
    check_level(server.level)
    place = server.place
    workload = build_workload(request.workload, context_tokens=place.model.max_position)
    outcomes = []
    for name in request.methods:
        progress(f"serving {len(workload.trace):,} requests under {name}")
        outcomes.append(_outcome(request, predictor, get_method(name), workload.trace))
    if all(outcome.unfit for outcome in outcomes):
        raise DoesNotFitError(outcomes[0].unfit)
    notes = [*workload.notes, *_remarks(outcomes)]
    if not server.shifted:
        notes.append(f"answers are taken to be as long as {BASELINE}'s")
    return TrafficStudy(
        tuple(outcomes),
        scheduler=server.scheduler,
        max_bsz=server.max_bsz,
        replicas=request.replicas,
        usd_per_hour=None if request.price_per_hour is None else request.price_per_hour * place.tp,
        notes=tuple(notes),
    )


def save_requests(study: TrafficStudy, folder: Path) -> Path:
    """Write every request's times under every method as one CSV file, and return its path."""
    served = {
        (_RUN, outcome.estimate.method_params): outcome.runs.usual.served
        for outcome in study.served
        if outcome.runs is not None
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_requests(folder / REQUESTS_FILE, served)
    return folder / REQUESTS_FILE


def _outcome(request: SimulationRequest, predictor: Predictor, method: Method, trace: Trace) -> Outcome:
    server = request.server
    shift, own, cut = server.answered(method, trace)
    try:
        replica = server.replica(predictor, method)
        usual = simulate(own, replica, replicas=request.replicas)
    except DoesNotFitError as error:
        alone = server.average(predictor, method, own, bsz=1)
        return Outcome(alone, shift, own, cut, None, str(error))
    estimate = server.average(predictor, method, own, bsz=max(1, round(usual.mean_bsz)))
    slow, fast = (
        simulate(own, replica, replicas=request.replicas, slower=factors(estimate, end)) for end in (1, 0)
    )
    return Outcome(estimate, shift, own, cut, Simulations(usual, slow, fast))


def _remarks(outcomes: Sequence[Outcome]) -> list[str]:
    """Return what a reader must know of the methods, a sentence each."""
    notes = []
    for outcome in outcomes:
        name, shift = outcome.estimate.method_params, outcome.shift
        if outcome.unfit:
            notes.append(f"{name}: {outcome.unfit}")
        if shift.multiplier != 1.0:
            notes.append(
                f"{name}: answers are {shift.multiplier:.2f} times as long as {BASELINE}'s "
                f"({shift.low:.2f} to {shift.high:.2f}, {shift.basis})"
            )
        if outcome.cut:
            notes.append(f"{name}: {outcome.cut:,} answers end at the model's context")
    for said, own in (
        ("nobody measured how long answers are, taken to be as fp16's (assumed-none)", _unmeasured(outcomes)),
        (
            "requests come faster than they are served: latencies grow with the number of requests",
            [outcome for outcome in outcomes if outcome.grows],
        ),
    ):
        if own:
            notes.append(f"{', '.join(outcome.estimate.method_params for outcome in own)}: {said}")
    return notes


def _unmeasured(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.shift.basis == "assumed-none"]

"""From requests and limits to how many replicas each method needs: one search for capacity per method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec

from kvpred.data.limits import Limit
from kvpred.data.traces import Trace, check_qps
from kvpred.errors import DoesNotFitError, MissingExtraError, UsageError
from kvpred.hardware import get_engine_spec
from kvpred.methods import BASELINE, Method, get_method
from kvpred.predictors.cost import check_price
from kvpred.predictors.crossval import check_level
from kvpred.predictors.estimate import Estimate
from kvpred.predictors.length.outputs import OutputShift
from kvpred.predictors.predictor import Predictor
from kvpred.simulation.capacity_task import CapacityFound, CapacityTask, full_batch, search
from kvpred.simulation.fanout import fan_out
from kvpred.simulation.fleet import CapacityStudy, MethodCapacity
from kvpred.workflows.server import Server, factors
from kvpred.workflows.workloads import WorkloadRequest, build_workload

# With fewer, a P99 is one request.
FEWEST_REQUESTS = 100
CURVE = (0.4, 0.7, 0.9, 1.1)
"""Shares of the capacity at which a report's curves are simulated, beside what the search tried."""


@dataclass(frozen=True, slots=True)
class CapacityRequest:
    """What is to be served, on what, within which limits.

    Parameters
    ----------
    workload : WorkloadRequest
        Its rate does not matter: the gaps between arrivals are stretched.
    limits : tuple of Limit
    methods : sequence of str
    server : Server
    traffic_qps : float, optional
        Requests per second that all replicas together are to serve.
    price_per_hour : float, optional
        US dollars per device and hour.
    curve : bool
        Whether to simulate at some shares of the capacity as well.
    backend, workers
        See `kvpred.simulation.fanout.fan_out`.
    """

    workload: WorkloadRequest
    limits: tuple[Limit, ...]
    methods: Sequence[str]
    server: Server = field(default_factory=Server)
    traffic_qps: float | None = None
    price_per_hour: float | None = None
    curve: bool = False
    backend: str = "local"
    workers: int | None = None


def study_capacity(
    request: CapacityRequest, *, predictor: Predictor, progress: Callable[[str], None] = lambda _: None
) -> CapacityStudy:
    """Find the largest rate per replica that each method serves within the limits.

    Parameters
    ----------
    request : CapacityRequest
    predictor : Predictor
    progress : callable
        Told in a sentence what is done.

    Raises
    ------
    UsageError
        If a name is unknown or a number out of range.
    DataError
        If a file is wrong.
    NotCoveredError
        If there is no basis for a method's times.
    MissingExtraError
        If Vidur, or Ray for that backend, is not installed.
    """
    if find_spec("vidur") is None:
        raise MissingExtraError("vidur", "vidur")
    if request.traffic_qps is not None:
        check_qps(request.traffic_qps)
    if request.price_per_hour is not None:
        check_price(request.price_per_hour)
    server = request.server
    check_level(server.level)
    place = server.place
    # Any rate will do: it is what is sought.
    asked = request.workload if request.workload.trace else replace(request.workload, qps=1.0)
    workload = build_workload(asked, context_tokens=place.model.max_position)
    trace = workload.trace.at_qps(1.0)
    if len(trace) < FEWEST_REQUESTS:
        raise UsageError(
            f"{len(trace)} requests tell nothing about a lasting rate: give at least {FEWEST_REQUESTS}"
        )
    plans = [_plan(request, predictor, get_method(name), trace) for name in request.methods]

    def run(what: str, tasks: Sequence[CapacityTask | None]) -> list[CapacityFound | None]:
        return _search_all(tasks, request, lambda done: progress(f"{what}: {done} searched"))

    usual = run("capacity", [plan.task for plan in plans])
    estimates = [_average(server, predictor, plan, found) for plan, found in zip(plans, usual, strict=True)]
    tried = list(zip(plans, usual, estimates, strict=True))
    ends = run("with slower and faster steps", [_at_end(*one, end=end) for end in (1, 0) for one in tried])
    slow, fast = ends[: len(plans)], ends[len(plans) :]
    capacities = tuple(
        MethodCapacity(estimate, plan.shift, plan.trace, plan.unfit, *found)
        for plan, estimate, *found in zip(plans, estimates, usual, slow, fast, strict=True)
    )
    notes = [f"{len(trace):,} requests of {trace.name}, the same at every rate", *workload.notes[1:]]
    if not server.shifted:
        notes.append(f"answers are taken to be as long as {BASELINE}'s")
    notes += [text for capacity in capacities for text in capacity.remarks()]
    return CapacityStudy(
        place,
        get_engine_spec(server.engine).name,
        server.scheduler,
        request.limits,
        capacities,
        server.level,
        tuple(notes),
        traffic_qps=request.traffic_qps,
        price_per_hour=request.price_per_hour,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What is to be searched for one method; no task where there is no such replica."""

    method: Method
    shift: OutputShift
    trace: Trace
    task: CapacityTask | None
    unfit: str | None = None


def _plan(request: CapacityRequest, predictor: Predictor, method: Method, trace: Trace) -> _Plan:
    shift, own, _ = request.server.answered(method, trace)
    try:
        replica = request.server.replica(predictor, method)
    except DoesNotFitError as error:
        return _Plan(method, shift, own, None, str(error))
    loads = CURVE if request.curve else ()
    return _Plan(method, shift, own, CapacityTask(own, replica, request.limits, loads=loads))


def _search_all(
    tasks: Sequence[CapacityTask | None], request: CapacityRequest, progress: Callable[[str], None]
) -> list[CapacityFound | None]:
    """Return what each task found, in their order; None where there is none."""
    places = [place for place, task in enumerate(tasks) if task is not None]
    given = [task for task in tasks if task is not None]
    found: list[CapacityFound | None] = [None] * len(tasks)
    for done, (number, result) in enumerate(
        fan_out(search, given, backend=request.backend, workers=request.workers), 1
    ):
        found[places[number]] = result
        progress(f"{done} of {len(given)}")
    return found


def _average(server: Server, predictor: Predictor, plan: _Plan, found: CapacityFound | None) -> Estimate:
    """Estimate an average request: alone, and in as large a batch as at the capacity."""
    bsz = 1.0
    if found and plan.task and (at := found.capacity.at):
        # Little's law: requests in service and waiting; no more than fit are in service.
        bsz = min(at.qps * at.mean_e2e_s, full_batch(plan.task.replica, plan.trace))
    return server.average(predictor, plan.method, plan.trace, bsz=[1, max(1, round(bsz))])


def _at_end(plan: _Plan, found: CapacityFound | None, estimate: Estimate, *, end: int) -> CapacityTask | None:
    """Return the search with steps at the slow (1) or the fast (0) end of their interval."""
    if plan.task is None or found is None or found.refused is not None:
        return None
    slower = factors(estimate, end)
    start = found.capacity.qps / max(slower) if found.capacity.qps else None
    return replace(plan.task, slower=slower, loads=(), start_qps=start)

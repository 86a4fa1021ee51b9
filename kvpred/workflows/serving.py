"""Serve real prompts that come over time on an engine: the runs that simulations are judged by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kvpred.data.journal import Progress, discard
from kvpred.data.requests import ServedRequests
from kvpred.data.serving_sample import MAX_TOTAL_TOKENS
from kvpred.data.sites import RunSite
from kvpred.data.traces import Counts, Trace
from kvpred.engines.base import Arrival
from kvpred.engines.traffic import FILES, Traffic, TrafficPlan
from kvpred.errors import UsageError
from kvpred.models import get_model
from kvpred.workflows.measuring import MeasureRequest, plan_measurement
from kvpred.workflows.workloads import WorkloadRequest, build_workload

AT_ONCE = "at-once"


@dataclass(frozen=True, slots=True)
class TrafficRequest:
    """What is to be served.

    Parameters
    ----------
    measure : MeasureRequest
        Engine, methods, model, weights and options; the sites of its methods are not used. Its rounds serve a
        part of the requests each.
    workload : WorkloadRequest
        With conversations, whose texts are the prompts; its rate is not used.
    qps : sequence of float
        Rates of arrival, requests per second; infinite for all at once.
    max_bsz : int
        Most requests in service at once.
    output_cap : int
        Longer answers end there.
    """

    measure: MeasureRequest
    workload: WorkloadRequest
    qps: Sequence[float]
    max_bsz: int = 8
    output_cap: int = 128


def serve(
    request: TrafficRequest,
    output: Path,
    *,
    resume: bool = True,
    budget_s: float | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> dict[tuple[str, str], ServedRequests]:
    """Serve the requests under each method at each rate, or go on where an earlier call ended.

    Parameters
    ----------
    request : TrafficRequest
    output : Path
        Folder of the journal, ``requests.csv`` (ids and times, never texts) and ``manifest.json``.
    resume : bool
        If false, what lies there is deleted first.
    budget_s : float, optional
        Seconds after which no further run starts.
    progress : callable

    Returns
    -------
    dict of (str, str) to ServedRequests
        By ``<load>/<round>`` and full method string.

    Raises
    ------
    UsageError
        If a name is unknown, the engine cannot be fed over time, a prompt does not fit, or the folder holds
        another measurement.
    EngineError
        If the engine fails, or a method is not what it says; the runs before stay.
    """
    plan = _plan(request)
    if not resume:
        discard(output, FILES)
    return Traffic(plan, output).run(budget_s=budget_s, progress=progress)


def runs_left(request: TrafficRequest, output: Path) -> list[tuple[int, str, str]]:
    """List the runs that are left (round, load, method) without making any."""
    return Traffic(_plan(request), output).todo()


def _plan(request: TrafficRequest) -> TrafficPlan:
    if not request.workload.conversations:
        raise UsageError("requests over time need --conversations: their texts are the prompts")
    if request.output_cap < 1:
        raise UsageError(f"--output-cap {request.output_cap}: give a whole number of at least 1")
    longest = min(get_model(request.measure.model).max_position, MAX_TOTAL_TOKENS)
    room = RunSite(request.max_bsz, max(longest - request.output_cap, 1), request.output_cap)
    measured = plan_measurement(
        replace(request.measure, methods={name: [room] for name in request.measure.methods})
    )
    loads = {}
    for qps in request.qps:
        at_once = np.isinf(qps)
        workload = build_workload(
            replace(request.workload, qps=1.0 if at_once else qps),
            context_tokens=measured.target.model.max_position,
        )
        trace = workload.trace
        if len(trace) < measured.repeats:
            raise UsageError(
                f"{len(trace)} requests cannot be served in {measured.repeats} parts (--repeats)"
            )
        rows = np.array_split(np.arange(len(trace)), measured.repeats)
        loads[AT_ONCE if at_once else f"{qps:g}-qps"] = [
            _part(request, trace, workload.prompts, part, at_once=at_once) for part in rows
        ]
    return TrafficPlan(
        engine=measured.engine,
        target=measured.target,
        methods=tuple(measured.sites),
        loads=loads,
        output_cap=request.output_cap,
        device=measured.device,
        host=measured.host,
    )


def _part(
    request: TrafficRequest, trace: Trace, prompts: Mapping[str, str], rows: Counts, *, at_once: bool
) -> tuple[Arrival, ...]:
    """Return some of a trace's requests, the first of which comes at 0."""
    came = trace.arrived_at_s[rows] - trace.arrived_at_s[rows[0]]
    times = np.zeros(len(rows)) if at_once else came
    outputs = np.minimum(trace.output_tokens[rows], request.output_cap)
    names = [trace.ids[row] for row in rows.tolist()]
    return tuple(
        Arrival(name, at_s, prompts[name], output)
        for name, at_s, output in zip(names, times.tolist(), outputs.tolist(), strict=True)
    )

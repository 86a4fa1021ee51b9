"""One search for a replica's capacity as a value that can be sent to a worker, and what the worker does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvpred.data.limits import Limit
from kvpred.data.requests import Floats, ServedRequests
from kvpred.data.traces import Trace
from kvpred.errors import DoesNotFitError
from kvpred.predictors.clock import StepClock
from kvpred.simulation.capacity import TOLERANCE, Capacity, Probe, find_capacity, judge
from kvpred.simulation.replica import Replica
from kvpred.simulation.simulate import simulate

# Share of the time below which requests hardly ever meet: no smaller rate is easier.
_HARDLY_BUSY = 0.01
# Where to begin: short of what the device can do with full batches.
_FIRST_LOAD = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class CapacityTask:
    """A search.

    Parameters
    ----------
    trace : Trace
        The requests, at any rate.
    replica : Replica
    limits : tuple of Limit
    slower : (float, float)
        Factors on the time of steps that pass prompts and of those that only decode.
    loads : tuple of float
        Shares of the capacity found at which to try as well, for the curves of a report.
    start_qps : float, optional
        Where to begin; estimated if not given.
    tolerance : float
    """

    trace: Trace
    replica: Replica
    limits: tuple[Limit, ...]
    slower: tuple[float, float] = (1.0, 1.0)
    loads: tuple[float, ...] = ()
    start_qps: float | None = None
    tolerance: float = TOLERANCE


@dataclass(frozen=True, slots=True)
class CapacityFound:
    """What a search found.

    Parameters
    ----------
    capacity : Capacity
    alone : Probe
        What the limits are about where every request is served alone.
    refused : str or None
        Why the replica cannot serve the requests at all; None if it can.
    """

    capacity: Capacity
    alone: Probe
    refused: str | None = None


def search(task: CapacityTask) -> CapacityFound:
    """Find the capacity that a task asks for.

    Limits that requests miss even when they are served alone end the search before it begins.
    """
    alone = _alone(task)
    without_queue = judge(alone, task.limits, qps=0.0)
    if without_queue.missed:
        return CapacityFound(Capacity(0.0, without_queue.missed[0], ()), without_queue)

    def serve(qps: float) -> ServedRequests:
        return simulate(task.trace.at_qps(qps), task.replica, slower=task.slower).served

    try:
        capacity = find_capacity(
            serve,
            task.limits,
            start_qps=task.start_qps or _FIRST_LOAD * _most_qps(task),
            least_qps=_HARDLY_BUSY / without_queue.mean_e2e_s,
            tolerance=task.tolerance,
        )
    except DoesNotFitError as error:
        return CapacityFound(Capacity(0.0, "", ()), without_queue, str(error))
    more = [judge(serve(qps), task.limits, qps=qps) for qps in (s * capacity.qps for s in task.loads) if qps]
    probes = sorted((*capacity.probes, *more), key=lambda probe: probe.qps)
    return CapacityFound(Capacity(capacity.qps, capacity.binding, tuple(probes)), without_queue)


def full_batch(replica: Replica, trace: Trace) -> int:
    """Return how many average requests a replica serves at once at most."""
    prompt, output = (int(tokens.mean()) for tokens in (trace.prompt_tokens, trace.output_tokens))
    held = replica.budget.holding(prompt, output).most_bytes
    return max(1, min(replica.max_bsz, replica.budget.capacity_bytes // held))


def _most_qps(task: CapacityTask) -> float:
    """Estimate the rate at which full batches of average requests keep the device busy."""
    prompt, output = (int(tokens.mean()) for tokens in (task.trace.prompt_tokens, task.trace.output_tokens))
    bsz, clock = full_batch(task.replica, task.trace), task.replica.clock
    step_s = clock.step_s(decodes=[(prompt + output // 2, prompt)] * bsz)
    alone_s = clock.step_s(prefills=[(0, prompt)])
    return 1.0 / (task.slower[0] * alone_s + task.slower[1] * (output - 1) * step_s / bsz)


def _alone(task: CapacityTask) -> ServedRequests:
    """Serve each request alone, by the clock: no two of them ever meet.

    Decoding is summed by Simpson's rule, exact for step times up to a cubic in the cache's length.
    """
    trace, clock = task.trace, task.replica.clock
    lengths = list(zip(trace.prompt_tokens.tolist(), trace.output_tokens.tolist(), strict=True))
    replica = task.replica
    chunk = replica.chunk_tokens if replica.scheduler == "sarathi" else replica.max_batch_tokens
    ttft_s = task.slower[0] * np.array([_prefill_s(clock, prompt, chunk) for prompt, _ in lengths])
    decode_s = task.slower[1] * np.array([_decode_s(clock, *length) for length in lengths])
    arrived = _one_after_another(ttft_s + decode_s)
    return ServedRequests(
        ids=trace.ids,
        arrived_at_s=arrived,
        first_token_at_s=arrived + ttft_s,
        completed_at_s=arrived + ttft_s + decode_s,
        prompt_tokens=trace.prompt_tokens,
        output_tokens=trace.output_tokens,
        restarts=np.zeros(len(trace), dtype=np.int64),
        device_s=ttft_s + decode_s,
    )


def _one_after_another(seconds: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(seconds[:-1])])


def _prefill_s(clock: StepClock, prompt: int, chunk: int) -> float:
    parts = [(passed, min(chunk, prompt - passed)) for passed in range(0, prompt, chunk)]
    return sum(clock.step_s(prefills=[part]) for part in parts)


def _decode_s(clock: StepClock, prompt: int, output: int) -> float:
    steps = output - 1
    if steps < 1:
        return 0.0
    places = (prompt, prompt + (steps - 1) // 2, prompt + steps - 1)
    first, middle, last = (clock.step_s(decodes=[(kv_len, prompt)]) for kv_len in places)
    return steps * (first + 4 * middle + last) / 6

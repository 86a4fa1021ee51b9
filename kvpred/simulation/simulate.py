"""Serve a trace on simulated replicas: Vidur's clockwork, with kvpred's step times and memory."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from kvpred.data.requests import ServedRequests
from kvpred.data.traces import Trace
from kvpred.errors import DoesNotFitError, MissingExtraError, UsageError
from kvpred.simulation.memory import Holding
from kvpred.simulation.replica import Replica

Floats = NDArray[np.float64]

MOST_REPLICAS = 1000
"""Each request is placed by looking at every replica: more take long and tell nothing new."""

Slower = float | tuple[float, float]
"""Factor on the time of every step; or one for steps that pass prompts and one for those that only decode."""


@dataclass(frozen=True, slots=True, eq=False)
class Simulation:
    """What happened to a trace's requests, and on the replicas meanwhile.

    Parameters
    ----------
    served : ServedRequests
        In the trace's order.
    queued_s : array
        Seconds from each arrival to the step that first took the request up.
    n_replicas : int
    n_steps : int
        Of all replicas.
    busy : float
        Share of the makespan that an average replica spent in steps.
    mean_bsz : float
        Requests in a step, averaged over the time that steps took.
    peak_bsz : int
        Most requests that one replica held at once.
    peak_cache : float
        Most bytes that one replica's cache held, over what it may hold.
    """

    served: ServedRequests
    queued_s: Floats
    n_replicas: int
    n_steps: int
    busy: float
    mean_bsz: float
    peak_bsz: int
    peak_cache: float


def simulate(trace: Trace, replica: Replica, *, replicas: int = 1, slower: Slower = 1.0) -> Simulation:
    """Serve a trace.

    Parameters
    ----------
    trace : Trace
    replica : Replica
        What each replica is.
    replicas : int
        How many there are; a request goes to the one with the fewest others.
    slower : float or (float, float)
        Factor on the time of every step; or one for steps that pass prompts, and one for those that only
        decode.

    Raises
    ------
    UsageError
        If there are no requests, or one is longer than the model's context or than a step may be.
    DoesNotFitError
        If a request would not fit even alone.
    MissingExtraError
        If Vidur is not installed.
    """
    if find_spec("vidur") is None:
        raise MissingExtraError("vidur", "vidur")
    factors = slower if isinstance(slower, tuple) else (slower, slower)
    if not all(0 < factor < float("inf") for factor in factors):
        raise UsageError(f"slower={slower} must be a positive number")
    if not 1 <= replicas <= MOST_REPLICAS:
        raise UsageError(f"replicas={replicas} must be from 1 to {MOST_REPLICAS:,}")
    _check_lengths(trace, replica)
    holdings = list(replica.budget.holdings(trace.prompt_tokens, trace.output_tokens))
    _check_memory(trace, replica, holdings)

    from kvpred.simulation.vidur_run import run

    requests, ledger = run(trace, replica, holdings, replicas=replicas, slower=factors)
    served = ServedRequests(
        ids=trace.ids,
        arrived_at_s=trace.arrived_at_s,
        first_token_at_s=np.array([request.first_token_at for request in requests]),
        completed_at_s=np.array([request.completed_at for request in requests]),
        prompt_tokens=trace.prompt_tokens,
        output_tokens=trace.output_tokens,
        restarts=np.array([request.restarts for request in requests], dtype=np.int64),
        device_s=np.array([request.device_s for request in requests]),
    )
    started_at_s = np.array([request.scheduled_at for request in requests])
    return Simulation(
        served=served,
        queued_s=started_at_s - trace.arrived_at_s,
        n_replicas=replicas,
        n_steps=ledger.steps,
        busy=ledger.busy_s / served.makespan_s / replicas,
        mean_bsz=ledger.request_s / ledger.busy_s,
        peak_bsz=ledger.peak_bsz,
        peak_cache=ledger.peak_bytes / replica.budget.capacity_bytes,
    )


def _check_lengths(trace: Trace, replica: Replica) -> None:
    if not len(trace):
        raise UsageError(f"{trace.name}: no requests to serve")
    # The last token of an answer is never passed through the model.
    tokens = trace.prompt_tokens + trace.output_tokens - 1
    longest = int(tokens.argmax())
    model = replica.place.model
    what = f"request {trace.ids[longest]} of {trace.name} ({_tokens(trace, longest)})"
    if tokens[longest] > model.max_position:
        raise UsageError(
            f"{what} is longer than the context of {model.name}, {model.max_position:,} tokens: leave such "
            f"requests out, shorten them, or serve a model with a longer context"
        )
    # A restarted request passes its prompt and what it has answered at once.
    if replica.scheduler == "vllm" and tokens[longest] > replica.max_batch_tokens:
        raise UsageError(
            f"{what} is longer than a step may be, {replica.max_batch_tokens:,} tokens: raise "
            f"max_batch_tokens, or take the scheduler sarathi, which passes prompts in parts"
        )


def _check_memory(trace: Trace, replica: Replica, holdings: list[Holding]) -> None:
    most = [holding.most_bytes for holding in holdings]
    largest = max(range(len(most)), key=most.__getitem__)
    capacity = replica.budget.capacity_bytes
    if most[largest] > capacity:
        raise DoesNotFitError(
            f"request {trace.ids[largest]} of {trace.name} ({_tokens(trace, largest)}) needs "
            f"{most[largest] / 2**30:.3g} GiB of KV cache under {replica.method.spec}, and "
            f"{replica.place.device.name} has {capacity / 2**30:.3g} GiB left for it: even alone it can "
            f"never be served"
        )


def _tokens(trace: Trace, index: int) -> str:
    return f"{trace.prompt_tokens[index]:,} prompt and {trace.output_tokens[index]:,} output tokens"

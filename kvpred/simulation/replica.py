"""A serving replica on paper: how long its steps take, what its cache may hold, how it schedules."""

from __future__ import annotations

from dataclasses import dataclass

from kvpred.errors import DoesNotFitError, UsageError
from kvpred.hardware import get_engine_spec
from kvpred.methods import Method
from kvpred.methods.quantities import MAX_BSZ, MAX_TOKENS
from kvpred.predictors.clock import StepClock, clock_for
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.scaling import Place
from kvpred.simulation.memory import CacheBudget

SCHEDULERS = ("vllm", "sarathi")
DEFAULT_MAX_BSZ = 64
# Sarathi-Serve's own default, and Vidur's.
DEFAULT_CHUNK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Replica:
    """One copy of a served model; see `replica_for`.

    Parameters
    ----------
    clock : StepClock
        Times of its steps.
    budget : CacheBudget
        What its KV cache may hold.
    scheduler : {"vllm", "sarathi"}
        ``vllm``: prompts first, whole, in steps of their own, while decoding waits (vLLM before chunked
        prefill, LMDeploy, OpenVINO without split-fuse). ``sarathi``: every step decodes, and what is left of
        its tokens passes parts of prompts.
    max_bsz : int
        Most requests served at once.
    max_batch_tokens : int
        Most prompt tokens of a step under ``vllm``.
    chunk_tokens : int
        Tokens of a step under ``sarathi``, those of decoding requests included.
    """

    clock: StepClock
    budget: CacheBudget
    scheduler: str
    max_bsz: int
    max_batch_tokens: int
    chunk_tokens: int

    @property
    def method(self) -> Method:
        """How its cache is compressed."""
        return self.clock.method

    @property
    def place(self) -> Place:
        """What it serves, and on what."""
        return self.clock.place


def replica_for(
    predictor: Predictor,
    method: Method,
    place: Place,
    engine: str,
    *,
    scheduler: str = "vllm",
    max_bsz: int = DEFAULT_MAX_BSZ,
    max_batch_tokens: int | None = None,
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
    weight_bits: int = 16,
    memory_utilization: float = 0.9,
) -> Replica:
    """Put a replica together from a predictor and the memory arithmetic.

    Parameters
    ----------
    predictor : Predictor
    method : Method
    place : Place
    engine : str
    scheduler : {"vllm", "sarathi"}
    max_bsz : int
        Most requests served at once.
    max_batch_tokens : int, optional
        Most prompt tokens of a step under ``vllm``; if not given, what the engine passes at a time, and no
        less than the longest request that the model can hold.
    chunk_tokens : int
        Tokens of a step under ``sarathi``.
    weight_bits, memory_utilization
        As in `kvpred.predictors.memory.predict_memory`.

    Raises
    ------
    UsageError
        If a number is out of range, or the scheduler unknown.
    NotCoveredError
        If the predictor has no basis for the place.
    DoesNotFitError
        If nothing is left for the cache.
    """
    if scheduler not in SCHEDULERS:
        raise UsageError(f"scheduler {scheduler[:80]!r} is not known: use {' or '.join(SCHEDULERS)}")
    spec = get_engine_spec(engine)
    longest = place.model.max_position
    whole = max_batch_tokens or max(spec.prefill_tokens or 0, longest)
    for what, value, least, most in (
        ("max_bsz", max_bsz, 1, MAX_BSZ),
        ("max_batch_tokens", whole, 1, MAX_BSZ * MAX_TOKENS),
        ("chunk_tokens", chunk_tokens, 1, MAX_TOKENS),
    ):
        if not least <= value <= most:
            raise UsageError(f"{what}={value} must be from {least:,} to {most:,}")
    budget = CacheBudget.of(
        place,
        method,
        spec,
        max_bsz=max_bsz,
        step_tokens=chunk_tokens if scheduler == "sarathi" else whole,
        weight_bits=weight_bits,
        memory_utilization=memory_utilization,
    )
    if budget.capacity_bytes <= 0:
        raise DoesNotFitError(
            f"{place.model.name} leaves no memory for a KV cache on {place.device.name} with tp={place.tp}: "
            f"take a larger device, more of them (tp), or fewer weight bits"
        )
    return Replica(
        clock=clock_for(predictor, method, place, spec.name),
        budget=budget,
        scheduler=scheduler,
        max_bsz=max_bsz,
        max_batch_tokens=whole,
        chunk_tokens=chunk_tokens,
    )

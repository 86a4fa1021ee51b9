"""Traces and replicas that tests make up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kvpred.data.traces import Trace
from kvpred.hardware import get_device
from kvpred.methods import get_method
from kvpred.models import get_model
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.scaling import Place
from kvpred.simulation.replica import Replica, replica_for

PLACE = Place(get_model("llama-2-7b"), get_device("a6000"))


def trace_of(arrived_at_s: Sequence[float], prompts: Sequence[int], outputs: Sequence[int]) -> Trace:
    """Return a trace whose requests are numbered from 0."""
    return Trace(
        np.array(arrived_at_s, dtype=np.float64),
        np.array(prompts),
        np.array(outputs),
        "made up",
        tuple(map(str, range(len(prompts)))),
    )


def chat_trace(n: int, *, qps: float, seed: int = 0) -> Trace:
    """Return Poisson arrivals of log-normal lengths: about 300 prompt and 200 output tokens on average."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / qps, n)
    prompts = np.clip(rng.lognormal(5.3, 1.0, n), 4, 3000).astype(int)
    outputs = np.clip(rng.lognormal(5.0, 0.8, n), 1, 1000).astype(int)
    return trace_of((np.cumsum(gaps) - gaps[0]).tolist(), prompts.tolist(), outputs.tolist())


def replica_of(predictor: Predictor, method: str = "fp16", **options: Any) -> Replica:
    """Return a replica of LLaMA-2-7B on an A6000 under LMDeploy."""
    return replica_for(predictor, get_method(method), PLACE, "lmdeploy", **options)


def with_room_for(replica: Replica, tokens: int) -> Replica:
    """Return a replica whose cache holds so many 16-bit tokens, in pages of one."""
    size = tokens * PLACE.model.kv_bytes_per_token()
    return replace(replica, budget=replace(replica.budget, block_tokens=1, capacity_bytes=size))

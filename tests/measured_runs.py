"""Runs of made-up engines whose laws are known, as `kvpred measure` would write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kvpred.data.runs import Run, write_runs

BATCHES, PROMPTS = (1, 2, 4), (256, 1024, 2048, 4096)
# Time relative to fp16's: a decode step's fixed part, its part per cached token, and the prefill.
Laws = Mapping[str, tuple[float, float, float]]
EAGER: Laws = {"fp16": (1.0, 1.0, 1.0), "kv-int8": (1.3, 1.0, 1.05), "h2o": (1.05, 0.3, 1.3)}
PAGED: Laws = {"fp16": (1.0, 1.0, 1.0), "kv-int8": (1.0, 0.6, 1.0), "h2o": (1.4, 1.0, 1.2)}


def make_run(method: str = "fp16", tok_s: float = 100.0, **fields: Any) -> Run:
    """Return one decode run; `fields` say what is different about it."""
    usual = {
        "model": "smollm2-135m", "engine": "openvino", "device": "host-cpu", "host": "two cores",
        "bsz": 4, "prompt_len": 1024, "output_len": 32, "stage": "decode",
    }  # fmt: skip
    return Run.model_validate({**usual, "method": method, "throughput_tok_s": tok_s, **fields})


def make_runs(
    engine: str = "openvino",
    *,
    laws: Laws = PAGED,
    batches: Sequence[int] = BATCHES,
    prompts: Sequence[int] = PROMPTS,
    repeats: int = 3,
    noise: float = 0.02,
    seed: int = 0,
    **fields: Any,
) -> list[Run]:
    """Return both stages of every method, batch, length and repeat."""
    rng = np.random.default_rng(seed)
    runs = []
    for repeat in range(repeats):
        for bsz in batches:
            for length in prompts:
                for method, (fixed, cached, prompt) in laws.items():
                    step_s = 0.01 * fixed + 1e-6 * cached * bsz * length
                    prefill_s = (0.01 + 4e-4 * bsz * length) * prompt
                    site = {"bsz": bsz, "prompt_len": length, "repeat": repeat, "engine": engine, **fields}
                    for stage, tokens, time_s in (
                        ("decode", bsz, step_s),
                        ("prefill", bsz * length, prefill_s),
                    ):
                        tok_s = tokens / (time_s * np.exp(rng.normal(scale=noise)))
                        runs.append(make_run(method, tok_s, stage=stage, **site))
    return runs


def write_table(path: Path, runs: Sequence[Run]) -> Path:
    """Write runs as a tidy table and return where."""
    write_runs(path, runs)
    return path

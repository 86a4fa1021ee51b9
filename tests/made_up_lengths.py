"""Made-up response lengths whose shifts are known: log-normal, with a length of its own for each prompt."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kvpred.data.lengths import LengthRun

CAP = 2000


def make_length(method: str = "fp16", tokens: int = 100, **fields: object) -> LengthRun:
    """Return one answer; `fields` say what is different about it."""
    usual = {
        "model": "tiny", "method": method.partition(":")[0], "method_params": method,
        "engine": "transformers", "prompt_id": "p000", "temperature": 1.0, "seed": 0, "prompt_tokens": 50,
        "output_tokens": tokens, "cap": CAP, "censored": False, "cache_ratio": 1.0,
    }  # fmt: skip
    return LengthRun(**{**usual, **fields})  # type: ignore[arg-type]


def make_lengths(
    factors: Mapping[str, float],
    *,
    n_prompts: int = 120,
    n_seeds: int = 2,
    temperature: float = 1.0,
    cap: int = CAP,
    shared: float = 0.5,
    seed: int = 0,
) -> list[LengthRun]:
    """Return answers of each method, so many times as long as fp16's.

    `shared` is the share of the noise's variance that methods have in common with fp16 at one seed, as they
    have where random numbers are the same.
    """
    rng = np.random.default_rng(seed)
    size = (n_prompts, n_seeds)
    prompts = rng.normal(4.5, 0.8, size=(n_prompts, 1))
    common = rng.normal(size=size)
    runs = []
    for number, (method, factor) in enumerate(factors.items()):
        own = rng.normal(size=size)
        noise = 0.5 * (np.sqrt(shared) * common + np.sqrt(1 - shared) * own)
        tokens = np.maximum(np.rint(factor * np.exp(prompts + noise)), 1).astype(int)
        for (prompt, column), length in np.ndenumerate(tokens):
            runs.append(
                make_length(
                    method,
                    min(int(length), cap),
                    prompt_id=f"p{prompt:03d}",
                    seed=column,
                    temperature=temperature,
                    cap=cap,
                    censored=bool(length >= cap),
                    cache_ratio=1 / (1 + number),
                )
            )
    return runs

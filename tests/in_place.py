"""Profiles as a sweep in place writes them, made of known laws and known noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kvpred.data.profiles import SCHEMAS, STEPS_SCHEMA, Columns, Manifest, Profile, Schema, time_column
from kvpred.data.store import write_profile
from kvpred.methods import get_method
from kvpred.models import get_model

DEVICE, MODEL, ENGINE, REPEATS = "host-cpu", "smollm2-135m", "transformers", 4
PREFILL = [
    (bsz, length) for bsz in (1, 2, 4) for length in (128, 256, 512, 1024, 2048) if bsz * length <= 2048
]
DECODE = [(bsz, length) for bsz in (1, 2, 4, 8) for length in (128, 512, 1024, 2048, 4096)]
N_LAYERS = get_model(MODEL).n_layers
SHAPE = {"n_embd": 576, "n_head": 9, "n_q_head": 9, "n_kv_head": 3, "n_expanded_embd": 1536}
OVERHEAD_MS = {"prefill": 3.0, "decode": 1.5}
# How many times fp16's a method's attention and upkeep take, by stage.
FACTORS = {
    "fp16": {"prefill": 1.0, "decode": 1.0},
    "kivi": {"prefill": 1.2, "decode": 1.5},
    "h2o": {"prefill": 1.5, "decode": 1.1},
}


def own_ms(method: str, stage: str, bsz: int, length: int) -> dict[str, float]:
    """Return ms per layer of attention's operators."""
    factor = FACTORS[method][stage]
    reshapes = {"attn_input_reshape": 0.01 + 1e-5 * bsz, "attn_output_reshape": 0.02 + 1e-5 * bsz}
    if stage == "prefill":
        tokens = bsz * length
        save, attend = 0.03 + 4e-5 * tokens, 0.05 + 2e-4 * tokens + 4e-7 * tokens * length
        return reshapes | {"attn_kv_cache_save": factor * save, "attn_prefill": factor * attend}
    attended = int(get_method(method).attended_tokens(length))
    save, attend = 0.02 + 1e-3 * bsz, 0.04 + 2e-3 * bsz + 6e-5 * bsz * attended
    return reshapes | {"attn_kv_cache_save": factor * save, "attn_decode": factor * attend}


def shared_ms(stage: str, tokens: int, bsz: int) -> dict[str, float]:
    """Return ms per layer of the shared operators, and per step of those that run once."""
    once = {"emb": 0.01 + 1e-4 * tokens, "lm_head": 8.0 + 0.5 * bsz}
    linear = {name: 0.15 + 2e-3 * tokens for name in SCHEMAS["mlp"].operators if "proj" in name}
    return once | {name: 0.02 + 1e-4 * tokens for name in SCHEMAS["mlp"].operators if name != "emb"} | linear


def step_ms(method: str, stage: str, bsz: int, length: int, *, n_layers: int = N_LAYERS) -> float:
    """Return ms of a whole step by the laws."""
    tokens = bsz * length if stage == "prefill" else bsz
    times = shared_ms(stage, tokens, bsz) | own_ms(method, stage, bsz, length)
    once = {"emb", "lm_head"}
    return OVERHEAD_MS[stage] + sum(ms * (1 if name in once else n_layers) for name, ms in times.items())


def make_profile(
    method: str = "fp16",
    *,
    noise: float = 0.0,
    n_layers: int = N_LAYERS,
    shared_factor: float = 1.0,
    seed: int = 0,
    prefill: Sequence[tuple[int, int]] = PREFILL,
    decode: Sequence[tuple[int, int]] = DECODE,
) -> Profile:
    """Make one method's profile: medians of four repeats with relative noise each."""
    rng = np.random.default_rng([seed, *method.encode()])
    sites = [("prefill", *site) for site in prefill] + [("decode", *site) for site in decode]
    attention, steps, mlp = [], [], {}
    for stage, bsz, length in sites:
        tokens = bsz * length if stage == "prefill" else bsz
        own = {name: ms * _repeats(rng, noise) for name, ms in own_ms(method, stage, bsz, length).items()}
        shared = {
            name: shared_factor * ms * _repeats(rng, noise)
            for name, ms in shared_ms(stage, tokens, bsz).items()
        }
        total = sum(
            ms * (1 if name in ("emb", "lm_head") else n_layers) for name, ms in (own | shared).items()
        )
        where = _site(stage, bsz, length)
        attention.append(where | _statistics(own))
        whole = step_ms(method, stage, bsz, length, n_layers=n_layers) * _repeats(rng, noise)
        steps.append(
            where
            | {"n_layers": n_layers}
            | _statistics({"step": whole, "hooked_step": 1.01 * whole, "operators": total})
        )
        row = mlp.setdefault(tokens, {name: [] for name in shared})
        for name, ms in shared.items():
            if name != "lm_head" or stage == "decode":
                row[name].append(ms)
    pooled = [
        {"num_tokens": tokens, "num_tensor_parallel_workers": 1, "use_gated_mlp": True}
        | _statistics({name: np.concatenate(ms) for name, ms in row.items() if ms})
        for tokens, row in sorted(mlp.items())
    ]
    spec = get_method(method).spec
    return Profile(
        model=MODEL,
        device=DEVICE,
        method=spec,
        attention=_columns(attention, SCHEMAS["attention"]),
        mlp=_columns(pooled, SCHEMAS["mlp"], "lm_head"),
        steps=_columns(steps, STEPS_SCHEMA),
        manifest=Manifest(
            model=MODEL, device=DEVICE, method=method, method_params=spec, engine=ENGINE, repeats=REPEATS,
            n_layers=n_layers, cache_state="cold",
        ),
    )  # fmt: skip


def write_root(root: Path, *, methods: Sequence[str]) -> Path:
    """Write the profiles of some methods, each on a small grid, under a root."""
    prefill = [(bsz, length) for bsz in (1, 2) for length in (128, 512, 1024)]
    decode = [(bsz, length) for bsz in (1, 4) for length in (512, 1024, 4096)]
    for method in methods:
        write_profile(root, make_profile(method, noise=0.02, prefill=prefill, decode=decode))
    return root


def _repeats(rng: np.random.Generator, noise: float) -> np.ndarray:
    return np.exp(rng.normal(scale=noise, size=REPEATS))


def _site(stage: str, bsz: int, length: int) -> dict[str, object]:
    prefill = stage == "prefill"
    return {
        "num_tensor_parallel_workers": 1,
        "batch_size": bsz,
        "prefill_chunk_size": length if prefill else 0,
        "kv_cache_size": 0 if prefill else length,
        "is_prefill": prefill,
        "attention_backend": "kvpred",
    }


def _statistics(times: Mapping[str, np.ndarray]) -> dict[str, float]:
    reduce = {"min": np.min, "max": np.max, "mean": np.mean, "median": np.median, "std": np.std}
    return {
        time_column(name, statistic): float(of(ms))
        for name, ms in times.items()
        for statistic, of in reduce.items()
    }


def _columns(rows: Sequence[Mapping[str, object]], schema: Schema, *extra: str) -> Columns:
    """Return rows as columns; what they do not say is the model's number or 1, of times NaN."""
    times = [
        time_column(name, statistic)
        for name in (*schema.operators, *extra)
        for statistic in ("min", "max", "mean", "median", "std")
    ]
    columns: Columns = {
        name: np.array([row.get(name, SHAPE.get(name, 1)) for row in rows]) for name in schema.integers
    }
    columns |= {name: np.array([row[name] for row in rows]) for name in (*schema.booleans, *schema.texts)}
    return columns | {name: np.array([row.get(name, np.nan) for row in rows]) for name in times}

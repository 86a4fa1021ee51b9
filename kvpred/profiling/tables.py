"""From a sweep's points to profiles: Vidur's two tables, the whole steps, and the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import fmean, median, pstdev
from typing import Any

import numpy as np

from kvpred.data.profiles import (
    SCHEMAS,
    STATISTICS,
    STEPS_SCHEMA,
    Columns,
    Manifest,
    Profile,
    Schema,
    time_column,
)
from kvpred.models import ModelSpec
from kvpred.profiling.grid import Site
from kvpred.profiling.timing import Timing

MS = 1e3
# Vidur's columns say which paged kernel ran. There are no pages here.
BACKEND = "kvpred"
BLOCK_SIZE = 1
LM_HEAD = "lm_head"


@dataclass(frozen=True, slots=True)
class Point:
    """A measured point of one method; without a timing, it did not fit into memory."""

    site: Site
    timing: Timing | None


def make_profile(points: Sequence[Point], *, model: ModelSpec, manifest: Manifest) -> Profile:
    """Make one method's profile of its points.

    Parameters
    ----------
    points : sequence of Point
    model : ModelSpec
    manifest : Manifest
        What is known before; noise, points that did not fit and the date are filled in here.

    Returns
    -------
    Profile
        Rows in order of stage, batch and length. A row of ``mlp.csv`` holds all repeats of all points at
        which as many tokens passed.
    """
    timed = sorted(
        ((point.site, point.timing) for point in points if point.timing is not None),
        key=lambda pair: (pair[0].stage != "prefill", pair[0].bsz, pair[0].length),
    )
    attention = [_attention_row(site, timing, model) for site, timing in timed]
    steps = [_steps_row(site, timing, manifest.n_layers or model.n_layers) for site, timing in timed]
    return Profile(
        model=manifest.model,
        device=manifest.device,
        method=manifest.method_params,
        attention=_columns(attention, SCHEMAS["attention"], SCHEMAS["attention"].operators),
        mlp=_columns(_mlp_rows(timed, model), SCHEMAS["mlp"], (*SCHEMAS["mlp"].operators, LM_HEAD)),
        steps=_columns(steps, STEPS_SCHEMA, STEPS_SCHEMA.operators),
        manifest=manifest.model_copy(
            update={
                "noise": _noise(timing for _, timing in timed),
                "not_fitting": sum(point.timing is None for point in points),
                "created_at": datetime.now(UTC).replace(microsecond=0),
            }
        ),
    )


def _attention_row(site: Site, timing: Timing, model: ModelSpec) -> dict[str, Any]:
    row: dict[str, Any] = {
        "n_embd": model.hidden_size,
        "n_q_head": model.n_q_heads,
        "n_kv_head": model.n_kv_heads,
        "block_size": BLOCK_SIZE,
        "max_model_len": model.max_position,
        "attention_backend": BACKEND,
        **_site_columns(site),
    }
    for name in SCHEMAS["attention"].operators:
        if name in timing.operators:
            row |= _statistics(name, timing.operators[name])
    return row


def _steps_row(site: Site, timing: Timing, n_layers: int) -> dict[str, Any]:
    row: dict[str, Any] = {"n_layers": n_layers, **_site_columns(site)}
    row |= _statistics("step", timing.step) | _statistics("hooked_step", timing.hooked_step)
    return row | _statistics("operators", timing.operators_sum)


def _site_columns(site: Site) -> dict[str, Any]:
    prefill = site.stage == "prefill"
    return {
        "num_tensor_parallel_workers": 1,
        "batch_size": site.bsz,
        "prefill_chunk_size": site.length if prefill else 0,
        "kv_cache_size": 0 if prefill else site.length,
        "is_prefill": prefill,
    }


def _mlp_rows(timed: Iterable[tuple[Site, Timing]], model: ModelSpec) -> list[dict[str, Any]]:
    """Pool the points at which as many tokens passed the layers.

    The LM head sees only each sequence's last token, so that a prefill says nothing of it at its own number
    of tokens: its rows are empty there.
    """
    pooled: dict[int, dict[str, list[float]]] = {}
    for site, timing in timed:
        row = pooled.setdefault(site.num_tokens, {})
        for name in SCHEMAS["mlp"].operators:
            row.setdefault(name, []).extend(timing.operators[name])
        if site.stage == "decode":
            row.setdefault(LM_HEAD, []).extend(timing.operators[LM_HEAD])
    rows = []
    for num_tokens, operators in sorted(pooled.items()):
        columns: dict[str, Any] = {
            "n_head": model.n_q_heads,
            "n_kv_head": model.n_kv_heads,
            "n_embd": model.hidden_size,
            "n_expanded_embd": model.intermediate_size,
            "vocab_size": model.vocab_size,
            "num_tokens": num_tokens,
            "num_tensor_parallel_workers": 1,
            "use_gated_mlp": True,
        }
        for name, seconds in operators.items():
            columns |= _statistics(name, seconds)
        rows.append(columns)
    return rows


def _statistics(operator: str, seconds: Sequence[float]) -> dict[str, float]:
    """Return an operator's statistics over repeats, in ms with six digits."""
    values = {
        "min": min(seconds),
        "max": max(seconds),
        "mean": fmean(seconds),
        "median": median(seconds),
        "std": pstdev(seconds),
    }
    return {time_column(operator, name): float(f"{MS * value:.6g}") for name, value in values.items()}


def _columns(rows: Sequence[Mapping[str, Any]], schema: Schema, operators: Iterable[str]) -> Columns:
    """Return rows as columns, the schema's first; what a row lacks is NaN."""
    if not rows:
        return {}
    times = [time_column(name, statistic) for name in operators for statistic in STATISTICS]
    names = (*schema.integers, *schema.booleans, *schema.texts, *times)
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}


def _noise(timings: Iterable[Timing]) -> dict[str, float]:
    """Return each operator's relative spread between repeats (deviation over median) at the median point."""
    spreads: dict[str, list[float]] = {}
    for timing in timings:
        times = {**timing.operators, "step": timing.step, "hooked_step": timing.hooked_step}
        for name, seconds in times.items():
            if (middle := median(seconds)) > 0:
                spreads.setdefault(name, []).append(pstdev(seconds) / middle)
    return {name: float(f"{median(values):.3g}") for name, values in sorted(spreads.items())}

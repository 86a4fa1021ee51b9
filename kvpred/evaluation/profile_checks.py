"""Checks of one operator profile: times no hardware reaches, that fall as work grows, or that never vary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from kvpred.data.profiles import Columns, Profile, time_column, timed_operators
from kvpred.errors import KvpredError
from kvpred.evaluation.findings import Finding
from kvpred.evaluation.profile_copies import resolution_ms, subject_of
from kvpred.hardware import DeviceSpec, get_device

Floats = NDArray[np.float64]

UNCOMPRESSED = "fp16"
# No cache of a catalogued device holds as much (L40S: 96 MB), so these bytes come from memory.
BEYOND_CACHE_BYTES = 128 * 2**20
# Datasheet figures are rounded, and clocks vary by some percent.
BOUND_SLACK = 0.95
# Real kernels are not monotone: Vidur's GEMMs on A40, A100 and H100 fall by up to 41 % where tilings change.
DROP = 0.45
# A time of fewer steps of the clock is known to worse than 5 %.
FEW_STEPS = 20
_TP = "num_tensor_parallel_workers"
_GROWTH = {"attention": ("batch_size", "prefill_chunk_size", "kv_cache_size"), "mlp": ("num_tokens",)}


def check_profile(profile: Profile) -> list[Finding]:
    """Return what is wrong within one profile."""
    findings = list(_bounds(profile))
    for name, table in profile.tables().items():
        subject = f"{subject_of(profile)}, {name}"
        largest = {op: np.fmax.reduce(table[time_column(op)], initial=-1) for op in timed_operators(table)}
        operators = [op for op, time in largest.items() if time > 0]
        findings += _untimed(subject, [op for op, time in largest.items() if time == 0])
        findings += _monotone(subject, table, operators, _GROWTH[name])
        findings += _coarse(subject, table, operators)
        findings += _noiseless(subject, table, operators)
    return findings


def _bounds(profile: Profile) -> Iterator[Finding]:
    """Compare times with what the device's memory bandwidth and peak FLOPs allow."""
    try:
        device = get_device(profile.device)
    except KvpredError:
        yield Finding(
            "unknown-device",
            "note",
            subject_of(profile),
            f"{profile.device} is not in the catalogue, so its times cannot be held against its data sheet.",
        )
        return
    bounds = _mlp_bounds_ms(profile.mlp, device) | _attention_bounds_ms(profile, device)
    times = profile.mlp | profile.attention
    for op, bound in bounds.items():
        time = times[time_column(op)]
        ratio = (time + resolution_ms(time)) / np.where(bound > 0, bound, np.nan)
        below = ratio < BOUND_SLACK
        if below.any():
            worst = float(np.nanmin(ratio))
            yield Finding(
                "faster-than-hardware",
                "error",
                subject_of(profile),
                f"{op} takes as little as {worst:.2f} of the time that the bytes or FLOPs need on "
                f"{device.name} at its peak, in {below.sum()} of {len(time)} rows.",
                {"rows": int(below.sum()), "worst_ratio": worst},
            )


def _mlp_bounds_ms(table: Columns, device: DeviceSpec) -> dict[str, Floats]:
    """Return the least time of each matrix product: reading its 16-bit weights, or its FLOPs."""
    if not table:
        return {}
    hidden = table["n_embd"].astype(np.float64)
    inner = table["n_expanded_embd"] / table[_TP]
    q_width = hidden / table[_TP]
    kv_width = q_width * table["n_kv_head"] / table["n_head"]
    weights = {
        "attn_pre_proj": hidden * (q_width + 2 * kv_width),
        "attn_post_proj": hidden * q_width,
        "mlp_up_proj": hidden * inner * np.where(table["use_gated_mlp"], 2, 1),
        "mlp_down_proj": hidden * inner,
    }
    return {
        op: _bound_ms(device, n_bytes=2 * count, flops=2 * count * table["num_tokens"])
        for op, count in weights.items()
    }


def _attention_bounds_ms(profile: Profile, device: DeviceSpec) -> dict[str, Floats]:
    """Return the least time of attention: reading the uncompressed cache, or the FLOPs of causal attention.

    How few bytes a compressed cache has, the table does not say: decoding it is not bounded here.
    """
    table = profile.attention
    if not table:
        return {}
    width = table["n_embd"] / table[_TP]
    kv_width = width * table["n_kv_head"] / table["n_q_head"]
    batch, chunk, kv_len = (table[name] for name in _GROWTH["attention"])
    pairs = batch * chunk * (kv_len + chunk / 2)
    bounds = {"attn_prefill": _bound_ms(device, n_bytes=np.zeros(len(batch)), flops=4 * width * pairs)}
    if profile.method.partition(":")[0] == UNCOMPRESSED:
        cache = 4 * kv_width * batch * kv_len
        bounds["attn_decode"] = _bound_ms(device, n_bytes=cache, flops=np.zeros(len(batch)))
    return bounds


def _bound_ms(device: DeviceSpec, *, n_bytes: Floats, flops: Floats) -> Floats:
    from_memory = np.where(n_bytes > BEYOND_CACHE_BYTES, n_bytes, 0.0)
    read = from_memory / device.memory_bandwidth_bytes_s if device.memory_bandwidth_bytes_s else 0.0
    computed = flops / device.peak_flops_16bit if device.peak_flops_16bit else 0.0
    return 1e3 * np.maximum(read, computed)


def _untimed(subject: str, operators: Sequence[str]) -> Iterator[Finding]:
    if operators:
        yield Finding(
            "not-timed",
            "warning",
            subject,
            f"{', '.join(operators)}: zero in every row, so not measured.",
            {"operators": len(operators)},
        )


def _monotone(
    subject: str, table: Columns, operators: Sequence[str], growth: Sequence[str]
) -> Iterator[Finding]:
    """Report times far below those of less work, if they are twenty steps of the clock or more."""
    for op in operators:
        times = table[time_column(op)]
        floor = FEW_STEPS * resolution_ms(times)
        drops = np.concatenate([_drops(table, times, axis, floor) for axis in growth])
        odd = drops[drops > DROP]
        if odd.size:
            yield Finding(
                "not-monotone",
                "warning",
                subject,
                f"{op} falls by more than {DROP:.0%} where the work grows, at {odd.size} grid points, "
                f"at worst by {odd.max():.0%}: outliers, or a change of kernel.",
                {"points": odd.size, "worst_drop": float(odd.max())},
            )


def _drops(table: Columns, times: Floats, axis: str, floor: float) -> Floats:
    """Return how far each time lies below the largest at less of `axis`, all else equal, relative to that."""
    others = [name for name in (*chain(*_GROWTH.values()), _TP) if name in table and name != axis]
    timed = ~np.isnan(times)
    key = np.column_stack([table[name][timed] for name in (*others, axis)])
    points, place = np.unique(key, axis=0, return_inverse=True)
    means = np.bincount(place.ravel(), times[timed]) / np.bincount(place.ravel())
    new_series = np.any(np.diff(points[:, :-1], axis=0) != 0, axis=1)
    series = np.split(means, np.flatnonzero(new_series) + 1)
    largest = np.concatenate([np.maximum.accumulate(part) for part in series])
    return np.where(largest > floor, 1 - means / np.where(largest > 0, largest, 1), 0.0)


def _coarse(subject: str, table: Columns, operators: Sequence[str]) -> Iterator[Finding]:
    steps = {}
    for op in operators:
        times = table[time_column(op)]
        resolution = resolution_ms(times)
        if resolution and np.nanmedian(times) < FEW_STEPS * resolution:
            steps[op] = float(np.nanmedian(times) / resolution)
    if steps:
        listed = ", ".join(f"{op} ({count:.0f})" for op, count in steps.items())
        yield Finding(
            "coarse-clock",
            "note",
            subject,
            f"half of the times have fewer than {FEW_STEPS} steps of the clock (median): {listed}.",
            steps,
        )


def _noiseless(subject: str, table: Columns, operators: Sequence[str]) -> Iterator[Finding]:
    silent = [op for op in operators if _is_silent(table, op)]
    if silent:
        yield Finding(
            "no-noise",
            "warning",
            subject,
            f"{', '.join(silent)}: no difference between repeats in any row, as no clock ever measures.",
            {"operators": len(silent)},
        )


def _is_silent(table: Columns, operator: str) -> bool:
    """Whether standard deviations, or distances of maximum and minimum, are given and all zero."""
    median = table[time_column(operator)]
    std, low, high = (table.get(time_column(operator, name)) for name in ("std", "min", "max"))
    spreads = [std] if std is not None else []
    if low is not None and high is not None:
        spreads.append(high - low)
    given = [spread for spread in spreads if not np.isnan(spread).all()]
    return any(bool(np.all(np.isnan(spread) | (spread <= 1e-9 * median))) for spread in given)

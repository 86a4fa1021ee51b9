"""Checks of end-to-end runs against the bytes and FLOPs of the models they are said to be of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kvpred.data.sites import SiteTable, pool_sites
from kvpred.evaluation.findings import Finding
from kvpred.evaluation.profile_checks import UNCOMPRESSED

if TYPE_CHECKING:
    from kvpred.data.runs import Run
    from kvpred.hardware import DeviceSpec
    from kvpred.models import ModelSpec

Floats = NDArray[np.float64]

MIN_SITES = 6
# One-sided 95 % of a normal distribution, for a slope that shows no effect.
Z_95 = 1.645
# A bound that physics sets must be broken by this many standard errors, of a slope known this well.
BOUND_SIGMAS = 3.0
BOUND_PRECISION = 0.1
# Medians of a few noisy repeats may fall some percent under a bound that the hardware only just allows.
BOUND_SLACK = 0.95
# Models are compared where their bytes or FLOPs differ by this factor at least, ...
MIN_CONTRAST = 1.25
# ... and where those explain this share of the time: elsewhere fixed costs may hide any difference.
MIN_EXPLAINED = 0.3
# Below this share of the expected (log) difference, two models are taken for one.
ALIKE = 0.25
GQA_CONTRAST = 2.0


@dataclass(frozen=True, slots=True)
class DecodeFit:
    """Least squares of relative error for ``step = a + b * bsz + c * bsz * kv_len``: `c` and its error.

    Parameters
    ----------
    slope_s : float
        Seconds per cached token and step.
    error_s : float
        Standard error of it.
    """

    slope_s: float
    error_s: float


@dataclass(frozen=True, slots=True, eq=False)
class LabelledRuns:
    """The uncompressed sites under one label, beside the physics of the model that it names."""

    label: str
    spec: ModelSpec
    device: DeviceSpec
    sites: SiteTable
    tp: int

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of one cached token on one device."""
        return self.spec.kv_bytes_per_token(tp=self.tp)

    def roofline_s(self) -> Floats:
        """Return the least seconds of each site: FLOPs at the device's peak, or bytes at full bandwidth."""
        spec, sites, tp = self.spec, self.sites, self.tp
        # An embedding of its own is looked up, not read.
        unread = 0.0 if spec.tie_embeddings else 2 * spec.vocab_size * spec.hidden_size / tp
        read = spec.weight_bytes(tp=tp) - unread
        kv_len = np.minimum(sites.kv_len, spec.sliding_window or np.inf)
        n_bytes = read + sites.bsz * kv_len * self.kv_bytes_per_token
        attended = np.minimum(sites.prompt_len / 2, spec.sliding_window or np.inf)
        attention = 4 * spec.n_layers * spec.n_q_heads // tp * spec.head_dim * attended
        flops = sites.bsz * sites.prompt_len * (spec.linear_flops_per_token(tp=tp) + attention)
        peak, bandwidth = self.device.peak_flops_16bit, self.device.memory_bandwidth_bytes_s
        compute = flops / peak if peak else np.zeros(len(sites))
        memory = n_bytes / bandwidth if bandwidth else np.zeros(len(sites))
        return np.where(sites.stage == "prefill", np.maximum(compute, memory), memory)

    def decode_fit(self) -> DecodeFit | None:
        """Fit the decode steps; None if there are too few sites or they do not determine the fit."""
        decode = self.sites.select(self.sites.stage == "decode")
        if len(decode) < MIN_SITES:
            return None
        features = np.column_stack([np.ones(len(decode)), decode.bsz, decode.bsz * decode.kv_len])
        relative = features / decode.time_s[:, None]
        if np.linalg.matrix_rank(relative / np.linalg.norm(relative, axis=0)) < 3:
            return None
        coefficients, *_ = np.linalg.lstsq(relative, np.ones(len(decode)), rcond=None)
        variance = np.sum((relative @ coefficients - 1) ** 2) / (len(decode) - 3)
        covariance = variance * np.linalg.pinv(relative.T @ relative)
        return DecodeFit(float(coefficients[2]), float(np.sqrt(covariance[2, 2])))


def check_runs(runs: Iterable[Run], models: Mapping[str, ModelSpec], device: DeviceSpec) -> list[Finding]:
    """Return what is wrong with runs of one device and engine."""
    by_label: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.method == UNCOMPRESSED:
            by_label[run.label or run.model].append(run)
    findings = [
        Finding("unknown-model", "note", label, f"{label} is not a known model: its runs are not checked.")
        for label in by_label
        if label not in models
    ]
    labelled = [
        LabelledRuns(label, models[label], device, pool_sites(group), group[0].tp)
        for label, group in by_label.items()
        if label in models
    ]
    if not labelled:
        message = f"no runs of {UNCOMPRESSED} under a known model: nothing to hold against bytes and FLOPs."
        return [*findings, Finding("nothing-to-check", "note", device.name, message)]
    findings += _no_data_sheet(device)
    for one in labelled:
        findings += _faster_than_hardware(one)
        findings += _implied_bandwidth(one)
    for check in (_no_gqa_effect, _no_size_effect, _one_models_times):
        findings += check(labelled)
    return findings


def _no_data_sheet(device: DeviceSpec) -> Iterator[Finding]:
    numbers = {"memory bandwidth": device.memory_bandwidth_bytes_s, "peak FLOP/s": device.peak_flops_16bit}
    missing = " and ".join(name for name, number in numbers.items() if not number)
    if missing:
        message = f"the {missing} of {device.name} are not known: no time is held against them."
        yield Finding("unknown-device", "note", device.name, message)


def _faster_than_hardware(one: LabelledRuns) -> Iterator[Finding]:
    bound = one.roofline_s()
    ratio = one.sites.time_s / np.where(bound > 0, bound, np.nan)
    below = np.flatnonzero(ratio < BOUND_SLACK)
    if below.size:
        worst = below[np.argmin(ratio[below])]
        sites = one.sites
        yield Finding(
            "faster-than-hardware",
            "error",
            one.label,
            f"{below.size} of {len(sites)} sites are faster than {one.spec.name}'s 16-bit weights, KV cache "
            f"and FLOPs allow on {one.device.name}; at worst {sites.stage[worst]} of bsz {sites.bsz[worst]}, "
            f"prompt {sites.prompt_len[worst]} takes {1e3 * sites.time_s[worst]:.3g} ms where "
            f"{1e3 * bound[worst]:.3g} ms are needed.",
            {"sites": below.size, "time_s": float(sites.time_s[worst]), "bound_s": float(bound[worst])},
        )


def _implied_bandwidth(one: LabelledRuns) -> Iterator[Finding]:
    fit, peak = one.decode_fit(), one.device.memory_bandwidth_bytes_s
    if fit is None or not peak:
        return
    least = one.kv_bytes_per_token / peak
    if fit.error_s > BOUND_PRECISION * least or fit.slope_s + BOUND_SIGMAS * fit.error_s >= least:
        return
    implied = one.kv_bytes_per_token / fit.slope_s if fit.slope_s > 0 else np.inf
    yield Finding(
        "bandwidth-exceeded",
        "error",
        one.label,
        f"a decode step grows by {fit.slope_s:.2g} s per cached token: reading {one.spec.name}'s "
        f"{one.kv_bytes_per_token} bytes in that time needs {implied / 1e9:.0f} GB/s of the "
        f"{peak / 1e9:.0f} GB/s that {one.device.name} has.",
        {"slope_s": fit.slope_s, "implied_bytes_s": float(implied), "device_bytes_s": peak},
    )


def _no_gqa_effect(labelled: Sequence[LabelledRuns]) -> Iterator[Finding]:
    """Compare the decode slope of each label with that of the nearest model with far more bytes per token."""
    for one in labelled:
        heavier = [
            other
            for other in labelled
            if other.kv_bytes_per_token >= GQA_CONTRAST * one.kv_bytes_per_token and other.tp == one.tp
        ]
        if not heavier:
            continue
        other = min(heavier, key=lambda it: abs(it.spec.n_params - one.spec.n_params))
        fit, reference = one.decode_fit(), other.decode_fit()
        if fit is None or reference is None or reference.slope_s <= 0:
            continue
        expected = one.kv_bytes_per_token / other.kv_bytes_per_token
        ratio = fit.slope_s / reference.slope_s
        least = (fit.slope_s - Z_95 * fit.error_s) / (reference.slope_s + Z_95 * reference.error_s)
        # Half way, on a log scale, between the bytes' ratio and no effect at all.
        if least > np.sqrt(expected):
            yield Finding(
                "no-gqa-effect",
                "error",
                one.label,
                f"a decode step grows per cached token {ratio:.2f} times as fast as under {other.label}, "
                f"though {one.spec.name} keeps only {expected:.2f} of its bytes per token: grouped-query "
                "attention does not show.",
                {"slope_ratio": float(ratio), "bytes_ratio": expected},
            )


@dataclass(frozen=True, slots=True)
class _Contrast:
    """Log ratios of two labels' times at shared sites, as bytes and FLOPs demand them and as measured."""

    expected: Floats
    measured: Floats

    @property
    def shown(self) -> float:
        """Share of the expected difference that shows in the measured times."""
        return float(self.measured @ self.expected / (self.expected @ self.expected))


def _contrast(one: LabelledRuns, other: LabelledRuns, stages: Sequence[str]) -> _Contrast | None:
    """Compare two labels where their work differs and matters; None if there are too few such sites."""
    left, right = _by_site(one), _by_site(other)
    # Without a data sheet there is no bound, and nothing that the times should differ by.
    shared = [site for site in left if site in right and site[0] in stages and left[site][1] > 0]
    if not shared:
        return None
    time, bound = np.array([left[site] for site in shared]).T
    other_time, other_bound = np.array([right[site] for site in shared]).T
    expected = np.log(bound / other_bound)
    told = np.abs(expected) >= np.log(MIN_CONTRAST)
    told &= np.maximum(bound / time, other_bound / other_time) >= MIN_EXPLAINED
    if np.count_nonzero(told) < MIN_SITES:
        return None
    return _Contrast(expected[told], np.log(time / other_time)[told])


def _by_site(one: LabelledRuns) -> dict[tuple[str, int, int, int], tuple[float, float]]:
    """Return time and bound, in seconds, by (stage, bsz, prompt_len, output_len)."""
    sites = one.sites
    keys = zip(
        sites.stage.tolist(),
        sites.bsz.tolist(),
        sites.prompt_len.tolist(),
        sites.output_len.tolist(),
        strict=True,
    )
    return dict(zip(keys, zip(sites.time_s.tolist(), one.roofline_s().tolist(), strict=True), strict=True))


def _no_size_effect(labelled: Sequence[LabelledRuns]) -> Iterator[Finding]:
    """Compare the prefill of each label with that of the lightest model."""
    lightest = min(labelled, key=lambda one: one.spec.n_params)
    for one in labelled:
        contrast = _contrast(one, lightest, ("prefill",))
        if contrast is not None and contrast.shown < ALIKE:
            expected, measured = (float(np.exp(np.median(x))) for x in (contrast.expected, contrast.measured))
            yield Finding(
                "no-size-effect",
                "error",
                one.label,
                f"prefill runs at {1 / measured:.2f} of the speed of {lightest.label}, where FLOPs alone "
                f"demand {1 / expected:.2f} ({one.spec.n_params / 1e9:.1f} against "
                f"{lightest.spec.n_params / 1e9:.1f} billion parameters).",
                {"speed_ratio": 1 / measured, "expected_speed_ratio": 1 / expected},
            )


def _one_models_times(labelled: Sequence[LabelledRuns]) -> Iterator[Finding]:
    """Report the labels that are linked by pairs whose times lack the difference that their models demand."""
    shown: dict[frozenset[str], _Contrast] = {}
    for one, other in combinations(labelled, 2):
        contrast = _contrast(one, other, ("prefill", "decode"))
        if contrast is not None and contrast.shown < ALIKE:
            shown[frozenset((one.label, other.label))] = contrast
    if not shown:
        return
    names = sorted(frozenset().union(*shown))
    expected = max(float(np.abs(contrast.expected).max()) for contrast in shown.values())
    measured = float(np.median([np.median(np.abs(contrast.measured)) for contrast in shown.values()]))
    yield Finding(
        "one-models-times",
        "error",
        ", ".join(names),
        f"{len(names)} model names carry one model's times: they differ by {np.expm1(measured):.0%} in the "
        f"median where bytes and FLOPs demand up to {np.expm1(expected):.0%}; the names are mere labels.",
        {"labels": len(names), "measured_difference": float(np.expm1(measured))},
    )

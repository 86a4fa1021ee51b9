"""Which form a stage's time has: the default one, or the one that the sites ask for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kvpred.predictors.greybox import (
    FEW_SITES,
    SITE_NOISE,
    Array,
    DeviceTimes,
    StageFit,
    StageForm,
    StageSites,
    fit_stage,
)

OVERLAPS = (1.0, 2.0)
# Burnham and Anderson, Model Selection (2002), section 2.6: a difference of 4 to 7 is considerable support.
# Of made-up decode steps of the default form 5 to 6 % are then given another one.
_EVIDENCE = 5.0


def candidate_forms(stage: str, bsz: Array, *, profile: DeviceTimes | None = None) -> list[StageForm]:
    """Return the forms worth trying, the default first.

    By default prefill overlaps (launches run ahead of the device) and decode does not (a step waits for the
    token that the last one sampled). The others: the opposite; for decode a hinge at an inner batch size
    or, where single sequences were measured, crowded reading or batched steps; for prefill joint attention.
    Operators that were timed in place have whatever overlaps in their own times, and add up.
    """
    in_place = profile is not None and profile.cold
    default = 2.0 if stage == "prefill" and not in_place else 1.0
    inner = sorted({int(size) for size in bsz})[1:-1] if stage == "decode" and profile is None else []
    forms = [StageForm(stage, overlap, hinge, profile) for overlap in OVERLAPS for hinge in (None, *inner)]
    if inner and min(bsz) == 1:
        forms += [StageForm(stage, overlap, crowded=True) for overlap in OVERLAPS]
        forms += [StageForm(stage, overlap, batched=True) for overlap in OVERLAPS]
    if stage == "prefill" and profile is None and len(set(bsz)) > 1:
        forms += [StageForm(stage, overlap, joint=True) for overlap in OVERLAPS]
    return sorted(
        forms,
        key=lambda form: (form.overlap != default, form != StageForm(stage, form.overlap, profile=profile)),
    )


def choose_form(
    stage: str,
    groups: Sequence[StageSites],
    *,
    profile: DeviceTimes | None = None,
    noise: float = SITE_NOISE,
) -> StageForm:
    """Return the default form, or the one that the sites prefer by a clear margin of Akaike's criterion.

    Parameters
    ----------
    stage : {"prefill", "decode"}
    groups : sequence of StageSites
        The sites of each method, fp16's first: form is a property of the engine, so all have a say. Only
        training sites belong here; the choice is made anew inside each fold.
    profile : DeviceTimes, optional
        fp16's profiled operators; then only fp16's sites have a say.
    noise : float
        As in `fit_stage`.
    """
    forms = candidate_forms(stage, groups[0].bsz, profile=profile)
    groups = groups if profile is None else groups[:1]
    best, least = forms[0], np.inf
    for form in forms:
        if len(groups[0].bsz) < 2 + form.terms(bsz=1, length=1).size:
            continue
        criterion = _akaike(form, groups, noise) + (_EVIDENCE if form is not forms[0] else 0.0)
        if criterion < least:
            best, least = form, criterion
    return best


def _akaike(form: StageForm, groups: Sequence[StageSites], noise: float) -> float:
    baseline = fit_stage(form, groups[0])
    fits = [baseline, *(fit_stage(form, sites, prior=baseline, noise=noise) for sites in groups[1:])]
    squares = [
        (fit.times(bsz=g.bsz, length=g.length) / g.time_s - 1) ** 2
        for fit, g in zip(fits, groups, strict=True)
    ]
    mean = float(np.mean(np.concatenate(squares)))
    n_sites = sum(len(sites.bsz) for sites in groups)
    free = [float(np.count_nonzero(baseline.coef))]
    free += [_freedom(fit, sites) for fit, sites in zip(fits[1:], groups[1:], strict=True)]
    return n_sites * float(np.log(mean + 1e-12)) + 2.0 * sum(free)


def _freedom(fit: StageFit, sites: StageSites) -> float:
    """Return how many coefficients the sites decide, rather than what they are pulled toward.

    The trace of the matrix that turns measured into fitted times (Hastie and Tibshirani, 1990, section 3.5).
    """
    if len(sites.bsz) > FEW_SITES:
        return float(np.count_nonzero(fit.coef))
    decided = float(np.sum(fit.leverage(bsz=sites.bsz, length=sites.length))) / fit.surprise
    return min(decided, float(np.count_nonzero(fit.coef)))

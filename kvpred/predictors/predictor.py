"""What a bundle holds: the calibrated step times of one model on one device under one engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import log
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from kvpred.data.sites import SiteTable
from kvpred.errors import UsageError
from kvpred.methods import BASELINE
from kvpred.predictors.calibration import (
    LEAST_ERROR,
    STEADYING_SITES,
    Profiles,
    ProfileSource,
    StageFits,
    canonical,
    fit_stage_methods,
)
from kvpred.predictors.crossval import (
    ASSUMED_GROWTH,
    SITE_BY_SITE,
    SPLITS,
    HeldOut,
    conformal_quantile,
    growth_per_octave,
    hold_out,
)
from kvpred.predictors.domain import Domain
from kvpred.predictors.greybox import STAGES, Array
from kvpred.predictors.scaling import FIELD_SPEEDUP, Place, at_level

# Splits whose scores make the intervals.
_SCORED = (SITE_BY_SITE, "lengths", "batches")

# The most that a fit is said to be off by either way, at level 0.9, however far from its sites: as much as
# published kernels fall short of 16-bit ones (`kvpred.predictors.scaling.FIELD_SPEEDUP`), which is said of
# methods without any runs. A relative error above its own size tells that nothing is known there; a wider
# interval would not tell more.
MOST_LOG_ERROR = -log(FIELD_SPEEDUP["decode"][0])


@dataclass(frozen=True, slots=True)
class StageCalibration:
    """One stage's fits, and what held-out sites taught about their error.

    Parameters
    ----------
    fits : StageFits
    domain : Domain
        Of the sites in (bsz, prompt_len) for prefill, (bsz, mean kv_len) for decode.
    scores : array, shape (n_scores,)
        Sorted held-out residuals over their standard error (`HeldOut.score`), from which the intervals are
        made. Empty where there were too few sites to hold any out.
    growth_per_octave : float
        Growth of an interval's half-width per doubling outside the domain, relative to inside.
    """

    fits: StageFits
    domain: Domain
    scores: Array
    growth_per_octave: float

    def score(self, level: float) -> float:
        """Return the score that a share `level` of new sites stays under.

        Where there were too few sites to hold any out, scores are taken to be normal.
        """
        if not len(self.scores):
            return NormalDist().inv_cdf((1 + level) / 2)
        return conformal_quantile(self.scores, level)

    def log_half_width(self, error: Array, *, bsz: ArrayLike, length: ArrayLike, level: float) -> Array:
        """Return the half-width of log times with these standard errors, grown by the doublings outside.

        ``length`` is the prompt length for prefill, the mean kv_len for decode, as in `domain`.
        """
        return self.bounded(error * self.per_error(bsz=bsz, length=length, level=level), level)

    def per_error(self, *, bsz: ArrayLike, length: ArrayLike, level: float) -> Array:
        """Return the half-width of log times per standard error, before it is `bounded`."""
        outside = self.domain.octaves_outside(bsz=bsz, length=length)
        return np.asarray(self.score(level) * (1.0 + self.growth_per_octave * outside))

    def bounded(self, log_half_width: Array, level: float) -> Array:
        """Return half-widths of log times at a level, none above `MOST_LOG_ERROR` of a normal distribution.

        Where measured sites themselves are off by as much, twice that is the most.
        """
        measured = self.score(level) * max(self.fits.site_error.values())
        most = max(at_level(MOST_LOG_ERROR, level), 2.0 * measured)
        return np.asarray(np.minimum(log_half_width, most))


@dataclass(frozen=True, slots=True)
class Predictor:
    """A fitted predictor.

    Parameters
    ----------
    place : Place
        The model, device and tensor-parallel degree that were measured.
    engine : str
        The engine that ran.
    stages : mapping of str to StageCalibration
        By ``prefill`` and ``decode``.
    sites : SiteTable
        Medians that it was fitted on, methods written out.
    provenance : str
        One sentence: which measurements, whose, when.
    accuracy : mapping of str to mapping of str to float
        By split, then by ``method stage``: mean of 1 - |error| / measured on held-out sites.
    """

    place: Place
    engine: str
    stages: Mapping[str, StageCalibration]
    sites: SiteTable
    provenance: str
    accuracy: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def basis(self) -> str:
        """Return what its own place rests on: ``calibrated`` by runs, or ``profiled`` operators alone."""
        return "calibrated" if len(self.sites) else "profiled"

    @property
    def profiles(self) -> Profiles:
        """Return the profiled operators of each method that has its own; empty where there are none."""
        fits = self.stages["decode"].fits
        shared = fits.fits[BASELINE].form.profile
        if shared is None:
            return {}
        own = {name: fit.form.profile or shared for name, fit in fits.fits.items()}
        return {name: step for name, step in own.items() if name == BASELINE or step is not shared}

    @property
    def methods(self) -> list[str]:
        """Return the full strings of the methods with runs in every stage, or with a profile of their own."""
        if not len(self.sites):
            return sorted(self.profiles)
        measured = [set(self.sites.method[self.sites.stage == stage].tolist()) for stage in self.stages]
        return sorted(set.intersection(*measured))


def fit_predictor(
    sites: SiteTable,
    *,
    place: Place,
    engine: str,
    provenance: str,
    profiles: ProfileSource | None = None,
    splits: Sequence[str] = SPLITS,
    assess: bool = True,
) -> Predictor:
    """Fit a predictor to measured sites of one model, device and engine.

    Parameters
    ----------
    sites : SiteTable
        Medians of runs, from `kvpred.data.sites.pool_sites`.
    place : Place
        What was measured, where.
    engine : str
    provenance : str
        One sentence that names the measurements' source.
    profiles : mapping of str to DeviceTimes, or callable, optional
        Profiled operators, or what fits them to sites (see `fit_stage_methods`); the runs then fit the
        overhead and the operators' efficiencies.
    splits : sequence of str
        Ways to hold sites out, see `kvpred.predictors.crossval.folds`.
    assess : bool
        Hold sites out to measure accuracy and intervals; without, the result states neither.

    Raises
    ------
    UsageError
        If a stage has no runs of fp16, or too few for its terms.
    """
    table = canonical(sites)
    stages: dict[str, StageCalibration] = {}
    accuracy: dict[str, dict[str, float]] = {}
    for stage in STAGES:
        if stage not in table.stage:
            raise UsageError(f"there are no {stage} runs; a predictor needs both stages")
        fits = fit_stage_methods(table, stage, profiles=profiles)
        held = _hold_out(table, stage, splits if assess else (), profiles)
        stages[stage] = _calibrate(table, stage, fits, held, profiles)
        for split, result in held.items():
            accuracy.setdefault(split, {}).update(_accuracy(table, stage, result))
    return Predictor(place, engine, stages, table, provenance, accuracy)


def _hold_out(
    table: SiteTable, stage: str, splits: Sequence[str], profiles: ProfileSource | None
) -> dict[str, HeldOut]:
    """Return the held-out predictions of every split that the sites suffice for."""
    held = {}
    for split in splits:
        with suppress(UsageError):
            held[split] = hold_out(table, stage, split, profiles=profiles)
    return held


def _calibrate(
    table: SiteTable,
    stage: str,
    fits: StageFits,
    held: Mapping[str, HeldOut],
    profiles: ProfileSource | None,
) -> StageCalibration:
    rows = table.stage == stage
    length = table.prompt_len if stage == "prefill" else table.kv_len
    scores = [held[split].score for split in _SCORED if split in held]
    if SITE_BY_SITE in held:
        fits, scores = _errors_of_left_out(fits, table, held[SITE_BY_SITE])
    return StageCalibration(
        fits,
        Domain.of(bsz=table.bsz[rows], length=length[rows]),
        # Rounded, so that a bundle holds them whole.
        scores=np.sort(np.round(np.concatenate(scores), 6)) if scores else np.zeros(0),
        growth_per_octave=growth_per_octave(table, stage, profiles=profiles)
        if "lengths" in held
        else ASSUMED_GROWTH,
    )


def _errors_of_left_out(fits: StageFits, table: SiteTable, held: HeldOut) -> tuple[StageFits, list[Array]]:
    """Take each method's site error from its left-out sites, steadied by those of all methods.

    A method that few sites were measured of has next to no residuals; where its sites are left out it shows
    how far the prior, or its surprise, misjudges it.
    """
    squares = held.score**2
    usual = float(np.mean(squares))
    site_error, score = dict(fits.site_error), held.score.copy()
    for name in fits.fits:
        own = table.method[held.row] == name
        total = float(np.sum(squares[own])) + STEADYING_SITES * usual
        ratio = float(np.sqrt(total / (np.count_nonzero(own) + STEADYING_SITES)))
        site_error[name] = max(site_error[name] * ratio, LEAST_ERROR)
        score[own] /= max(ratio, LEAST_ERROR)
    return replace(fits, site_error=site_error), [score]


def _accuracy(table: SiteTable, stage: str, held: HeldOut) -> dict[str, float]:
    share = 1.0 - np.abs(held.time_s / table.time_s[held.row] - 1.0)
    method = table.method[held.row]
    return {f"{name} {stage}": round(float(np.mean(share[method == name])), 5) for name in np.unique(method)}

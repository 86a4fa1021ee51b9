"""What a bundle holds: the calibrated step times of one model on one device under one engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kvpred.data.sites import SiteTable
from kvpred.errors import UsageError
from kvpred.predictors.calibration import StageFits, canonical, fit_stage_methods
from kvpred.predictors.crossval import SPLITS, growth_per_octave, hold_out
from kvpred.predictors.domain import Domain
from kvpred.predictors.greybox import STAGES, Array
from kvpred.predictors.scaling import Place


@dataclass(frozen=True, slots=True)
class StageCalibration:
    """One stage's fits, and what held-out sites taught about their error.

    Parameters
    ----------
    fits : StageFits
    domain : Domain
        Of the sites in (bsz, prompt_len) for prefill, (bsz, mean kv_len) for decode.
    scores : array, shape (n_scores,)
        Sorted held-out residuals over their standard error (`HeldOut.score`); the intervals' conformal scores.
        Empty where there were too few sites to hold any out.
    growth_per_octave : float
        Growth of an interval's half-width per doubling outside the domain, relative to inside.
    """

    fits: StageFits
    domain: Domain
    scores: Array
    growth_per_octave: float


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
    def methods(self) -> list[str]:
        """Return the full strings of the methods with runs in every stage."""
        return sorted(set.intersection(*(set(calibration.fits.fits) for calibration in self.stages.values())))


def fit_predictor(
    sites: SiteTable, *, place: Place, engine: str, provenance: str, assess: bool = True
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
    assess : bool
        Hold sites out to measure accuracy and intervals; without, the result states neither.

    Raises
    ------
    UsageError
        If a stage has no runs of fp16, or too few for its terms.
    """
    table = canonical(sites)
    stages = {}
    accuracy: dict[str, dict[str, float]] = {}
    for stage in STAGES:
        rows = table.stage == stage
        if not rows.any():
            raise UsageError(f"there are no {stage} runs; a predictor needs both stages")
        kv_len = np.where(rows, table.prompt_len, 1) if stage == "prefill" else table.kv_len
        domain = Domain.of(bsz=table.bsz[rows], length=kv_len[rows])
        fits = fit_stage_methods(table, stage)
        scores, growth = np.zeros(0), 0.0
        if assess:
            held = {split: hold_out(table, stage, split) for split in SPLITS}
            scores = np.sort(np.concatenate([held["lengths"].score, held["batches"].score]))
            growth = growth_per_octave(table, stage)
            for split, result in held.items():
                share = 1.0 - np.abs(result.time_s / table.time_s[result.row] - 1.0)
                for name in np.unique(table.method[result.row]):
                    mean = float(np.mean(share[table.method[result.row] == name]))
                    accuracy.setdefault(split, {})[f"{name} {stage}"] = round(mean, 5)
        stages[stage] = StageCalibration(fits, domain, scores, growth)
    return Predictor(place, engine, stages, table, provenance, accuracy)

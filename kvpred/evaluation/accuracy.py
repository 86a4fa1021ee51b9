"""How right a predictor is on sites it has not seen, beside the noise of the truth and a copy of fp16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvpred.data.sites import SiteTable
from kvpred.errors import NotCoveredError, UsageError
from kvpred.evaluation.accuracy_report import AccuracyReport, CellAccuracy, SitePrediction, SplitAccuracy
from kvpred.evaluation.intervals import Coverage, coverage, log_half_widths
from kvpred.evaluation.noise import MedianNoise, median_noise
from kvpred.evaluation.ranking import Ranking, rank_methods
from kvpred.methods import BASELINE
from kvpred.predictors.calibration import Profiles, canonical, fit_stage_methods, predict_sites, stage_lengths
from kvpred.predictors.crossval import SPLITS, HeldOut, folds, hold_out
from kvpred.predictors.greybox import STAGES
from kvpred.predictors.predictor import Predictor

Floats = NDArray[np.float64]

COMPARISON_SPLIT = "random rows"
GIVEN = "given runs"
_WORST_SHOWN = 10


def evaluate(
    sites: SiteTable,
    *,
    splits: Sequence[str] = SPLITS,
    level: float = 0.9,
    seed: int = 0,
    profiles: Profiles | None = None,
) -> AccuracyReport:
    """Hold sites out in several ways, and judge what is predicted of them.

    Parameters
    ----------
    sites : SiteTable
        Medians of one model, device and engine.
    splits : sequence of str
        See `kvpred.predictors.crossval.folds`.
    level : float
        Level of the intervals, between 0 and 1.
    seed : int
        Of the random rows.
    profiles : mapping of str to DeviceTimes, optional
        Profiled operators that the predictor rests on besides.

    Raises
    ------
    UsageError
        If the sites are too few for any split.
    """
    _check_level(level)
    table = canonical(sites)
    noise = median_noise(table)
    predictions: list[SitePrediction] = []
    judged: list[SplitAccuracy] = []
    left_out: dict[str, str] = {}
    for split in splits:
        tested: list[_StageTest] = []
        for stage in [stage for stage in STAGES if stage in table.stage]:
            try:
                held = hold_out(table, stage, split, seed=seed, profiles=profiles)
                copy_s = copies(table, stage, split, held, seed=seed, profiles=profiles)
                width = log_half_widths(table, stage, held, level=level, profiles=profiles)
                rows = _Rows(table.select(held.row), held.time_s, copy_s, width, noise.of(held.row))
                tested.append(_test(rows, split, stage, level=level))
            except UsageError as error:
                left_out[f"{split}, {stage}"] = str(error)
        if tested:
            judged.append(_summary(split, tested))
            predictions += [site for one in tested for site in one.sites]
    if not judged:
        raise UsageError(f"too few sites to hold any out: {next(iter(left_out.values()))}")
    return _report(table, judged, predictions, level=level, seed=seed, left_out=left_out)


def judge(predictor: Predictor, sites: SiteTable, *, level: float = 0.9) -> AccuracyReport:
    """Judge a fitted predictor on runs that it was not fitted to; the report has the one split `GIVEN`.

    Parameters
    ----------
    predictor : Predictor
    sites : SiteTable
        Medians of other runs of the predictor's own model, device and engine.
    level : float
        Level of the intervals, between 0 and 1.

    Raises
    ------
    NotCoveredError
        If the predictor has no runs of a method.
    """
    _check_level(level)
    table = canonical(sites)
    unknown = sorted(set(table.method.tolist()) - set(predictor.methods))
    if unknown:
        raise NotCoveredError(f"the predictor has no runs of {', '.join(unknown)} to judge")
    noise, tested = median_noise(table), []
    for stage in [stage for stage in STAGES if stage in table.stage]:
        mask, calibration = table.stage == stage, predictor.stages[stage]
        time_s, error = predict_sites(calibration.fits, table, mask)
        own = table.select(mask)
        copy_s = calibration.fits.fits[BASELINE].times(bsz=own.bsz, length=stage_lengths(table)[mask])
        length = own.prompt_len if stage == "prefill" else own.kv_len
        width = calibration.log_half_width(error, bsz=own.bsz, length=length, level=level)
        rows = _Rows(own, time_s, copy_s, width, noise.of(np.flatnonzero(mask)))
        tested.append(_test(rows, GIVEN, stage, level=level))
    predictions = [site for one in tested for site in one.sites]
    return _report(table, [_summary(GIVEN, tested)], predictions, level=level, seed=0, left_out={})


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UsageError(f"level={level} must lie between 0 and 1")


def _report(
    table: SiteTable,
    splits: Sequence[SplitAccuracy],
    predictions: Sequence[SitePrediction],
    *,
    level: float,
    seed: int,
    left_out: Mapping[str, str],
) -> AccuracyReport:
    return AccuracyReport(
        level=level,
        seed=seed,
        n_sites=len(table),
        n_runs=int(table.count.sum()),
        n_moved=int(table.moved.sum()),
        splits=tuple(splits),
        left_out=left_out,
        sites=tuple(predictions),
        worst_sites=_worst_sites(predictions),
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """Sites of one stage and what is said of them, aligned: seconds, log half-width, noise of the truth."""

    sites: SiteTable
    predicted_s: Floats
    copy_s: Floats
    width: Floats
    noise: MedianNoise


@dataclass(frozen=True, slots=True)
class _StageTest:
    """One stage under one split."""

    sites: list[SitePrediction]
    interval: Coverage
    ranking: Ranking
    copy_ranking: Ranking


def _test(rows: _Rows, split: str, stage: str, *, level: float) -> _StageTest:
    inside = np.abs(np.log(rows.sites.time_s / rows.predicted_s)) <= rows.width
    return _StageTest(
        _predictions(rows, split),
        coverage(stage, inside, rows.width, level=level),
        rank_methods(rows.sites, rows.predicted_s, rows.noise.error, stage=stage),
        rank_methods(rows.sites, rows.copy_s, rows.noise.error, stage=stage),
    )


def _summary(split: str, tested: Sequence[_StageTest]) -> SplitAccuracy:
    cells = tuple(cell for one in tested for cell in _cells(one.sites))
    worst = min(cells, key=lambda cell: cell.accuracy)
    return SplitAccuracy(
        split=split,
        mean=_mean([cell.accuracy for cell in cells]),
        ceiling=_mean([cell.ceiling for cell in cells]),
        copy=_mean([cell.copy for cell in cells]),
        worst=worst.accuracy,
        worst_cell=f"{worst.method} {worst.stage}",
        skill=_skill([cell for cell in cells if cell.method != BASELINE]),
        cells=cells,
        intervals=tuple(one.interval for one in tested),
        rankings=tuple(one.ranking for one in tested),
        copy_rankings=tuple(one.copy_ranking for one in tested),
    )


def copies(
    table: SiteTable,
    stage: str,
    split: str,
    held: HeldOut,
    *,
    seed: int = 0,
    profiles: Profiles | None = None,
) -> Floats:
    """Return what copying fp16 says of each held-out site: fp16's own fit in the same fold.

    Parameters
    ----------
    table : SiteTable
        With canonical method strings.
    stage, split, seed, profiles
        As in `kvpred.predictors.crossval.hold_out`.
    held : HeldOut
        What that returned.

    Returns
    -------
    array, shape (n_held_out,)
        Seconds.
    """
    copied = {name: step for name, step in (profiles or {}).items() if name == BASELINE}
    time_s = np.empty(len(held.row))
    for number, (train, _) in enumerate(folds(table, split, seed=seed)):
        own = held.fold == number
        if own.any():
            fits = fit_stage_methods(table, stage, train=train & (table.method == BASELINE), profiles=copied)
            time_s[own], _ = predict_sites(fits, table, np.isin(np.arange(len(table)), held.row[own]))
    return time_s


def _predictions(rows: _Rows, split: str) -> list[SitePrediction]:
    sites = rows.sites
    places = list(zip(sites.bsz.tolist(), sites.prompt_len.tolist(), sites.output_len.tolist(), strict=True))
    fp16_s = {
        place: time_s
        for place, method, time_s in zip(places, sites.method.tolist(), sites.time_s.tolist(), strict=True)
        if method == BASELINE
    }
    return [
        SitePrediction(
            split=split,
            stage=str(sites.stage[i]),
            method=method,
            bsz=place[0],
            prompt_len=place[1],
            output_len=place[2],
            count=int(sites.count[i]),
            measured_s=float(sites.time_s[i]),
            predicted_s=float(rows.predicted_s[i]),
            low_s=float(rows.predicted_s[i] * np.exp(-rows.width[i])),
            high_s=float(rows.predicted_s[i] * np.exp(rows.width[i])),
            copy_s=float(rows.copy_s[i]),
            fp16_measured_s=None if method == BASELINE else fp16_s.get(place),
            noise=float(rows.noise.loss[i]),
        )
        for i, (place, method) in enumerate(zip(places, sites.method.tolist(), strict=True))
    ]


def _cells(sites: Sequence[SitePrediction]) -> list[CellAccuracy]:
    """Return the accuracy of one stage by method, fp16 first."""
    methods = sorted({p.method for p in sites}, key=lambda method: (method != BASELINE, method))
    return [_cell([p for p in sites if p.method == method]) for method in methods]


def _cell(sites: Sequence[SitePrediction]) -> CellAccuracy:
    method = sites[0].method
    accuracy = _mean([_share(p.predicted_s, p) for p in sites])
    copy = _mean([_share(p.copy_s, p) for p in sites])
    measured = [_share(p.fp16_measured_s, p) for p in sites if p.fp16_measured_s is not None]
    return CellAccuracy(
        stage=sites[0].stage,
        method=method,
        n_sites=len(sites),
        accuracy=accuracy,
        ceiling=1 - _mean([p.noise for p in sites]),
        copy=copy,
        measured_copy=_mean(measured) if measured else None,
        skill=1 - (1 - accuracy) / (1 - copy) if method != BASELINE else None,
    )


def _share(time_s: float, site: SitePrediction) -> float:
    return 1 - abs(time_s / site.measured_s - 1)


def _skill(compressed: Sequence[CellAccuracy]) -> float | None:
    if not compressed:
        return None
    return 1 - _mean([1 - cell.accuracy for cell in compressed]) / _mean(
        [1 - cell.copy for cell in compressed]
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _worst_sites(predictions: Sequence[SitePrediction]) -> tuple[SitePrediction, ...]:
    worst: dict[tuple[object, ...], SitePrediction] = {}
    ordered = sorted(predictions, key=lambda p: -abs(p.error))
    for p in ordered:
        if p.split != COMPARISON_SPLIT:
            worst.setdefault((p.stage, p.method, p.bsz, p.prompt_len, p.output_len), p)
    return tuple(worst.values())[:_WORST_SHOWN]

"""Predictions that were written down first, judged by what was measured afterwards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from kvpred.data.runs import Run
from kvpred.data.sites import pool_sites
from kvpred.errors import DataError
from kvpred.evaluation.intervals import coverage
from kvpred.evaluation.live_report import LiveCell, LivePrediction, LiveReport, LiveSite, LiveStage
from kvpred.evaluation.noise import median_noise, median_of_normals
from kvpred.evaluation.ranking import TOLD_APART, Ranking
from kvpred.evaluation.verdict import LearntMethod, LearntStage, Verdict, method_verdict, overall_verdict
from kvpred.methods import BASELINE, get_method
from kvpred.predictors.calibration import ASSUMED_RUN_NOISE, canonical
from kvpred.predictors.greybox import STAGES

Floats = NDArray[np.float64]
_Key = tuple[str, str, int, int]


def judge_live(predictions: Sequence[LivePrediction], runs: Sequence[Run], *, level: float) -> LiveReport:
    """Judge predictions by runs that were made after them.

    Two methods are told apart at a site where the median of the log ratios of their times, taken repeat by
    repeat, exceeds `TOLD_APART` of its standard errors: what drifts through the measurement moves both runs
    of a repeat alike and cancels. The scatter of these ratios is pooled over the sites of a pair of methods.

    Parameters
    ----------
    predictions : sequence of LivePrediction
    runs : sequence of Run
        Of one model, device and engine; those at other sites are left aside.
    level : float
        Level of the predictions' intervals.

    Raises
    ------
    DataError
        If none of the predicted sites was measured.
    """
    of_site: defaultdict[_Key, list[Run]] = defaultdict(list)
    wanted = {_key(one) for one in predictions}
    for run in runs:
        key = (get_method(run.method_params).spec, run.stage, run.bsz, run.prompt_len)
        if key in wanted:
            of_site[key].append(run)
    if not of_site:
        raise DataError("none of the predicted sites was measured: run it again, with a larger --budget")
    sites = _sites(predictions, of_site)
    stages = [stage for stage in STAGES if any(site.predicted.stage == stage for site in sites)]
    judged = [run for group in of_site.values() for run in group]
    ratios = {stage: _ratios(stage, of_site) for stage in stages}
    of_stage = {stage: [site for site in sites if site.predicted.stage == stage] for stage in stages}
    cells = {stage: _cells(of_stage[stage], ratios[stage]) for stage in stages}
    return LiveReport(
        level=level,
        n_runs=len(judged),
        marked=sum(run.mark is not None for run in judged),
        stages=tuple(_stage(of_stage[one], cells[one], ratios[one], level=level) for one in stages),
        cells=tuple(cell for stage in stages for cell in cells[stage]),
        sites=tuple(sites),
        unmeasured=tuple(one for one in predictions if _key(one) not in of_site),
    )


def live_verdict(report: LiveReport) -> Verdict:
    """Judge a live validation as a calibration is judged, with the unseen sites for the left-out ones."""
    judged = []
    for method in dict.fromkeys(cell.method for cell in report.cells):
        stages = tuple(_as_learnt(cell) for cell in report.cells if cell.method == method)
        judged.append(LearntMethod(method, stages, method_verdict(stages)))
    return overall_verdict(judged)


def _as_learnt(cell: LiveCell) -> LearntStage:
    return LearntStage(
        stage=cell.stage,
        method=cell.method,
        n_sites=cell.n_sites,
        n_runs=cell.n_runs,
        terms=(),
        n_left_out=cell.n_sites,
        accuracy=cell.accuracy,
        copy=cell.copy,
        skill=cell.skill,
        noise=1 - cell.ceiling,
        half_width=cell.half_width,
        inside=cell.inside,
        speedups=cell.speedups,
        right_signs=cell.right_signs,
    )


def _key(one: LivePrediction) -> _Key:
    return (one.method, one.stage, one.bsz, one.prompt_len)


def _sites(predictions: Sequence[LivePrediction], of_site: Mapping[_Key, Sequence[Run]]) -> list[LiveSite]:
    table = canonical(pool_sites([run for group in of_site.values() for run in group], align_lengths=False))
    noise = median_noise(table)
    columns = (getattr(table, name).tolist() for name in ("method", "stage", "bsz", "prompt_len"))
    row = {key: number for number, key in enumerate(zip(*columns, strict=True))}
    return [
        LiveSite(
            predicted=one,
            measured_s=float(table.time_s[at]),
            count=int(table.count[at]),
            marked=sum(run.mark is not None for run in of_site[_key(one)]),
            error_of_median=float(noise.error[at]),
            expected_loss=float(noise.loss[at]),
        )
        for one in predictions
        if (at := row.get(_key(one))) is not None
    ]


@dataclass(frozen=True, slots=True)
class _Ratio:
    """Two methods at one site: the log ratio of their measured times, and whether it exceeds noise."""

    left: _Key
    right: _Key
    measured: float
    told: bool


def _ratios(stage: str, of_site: Mapping[_Key, Sequence[Run]]) -> list[_Ratio]:
    """Compare every two methods at every site that both were measured at."""
    places = sorted({key[2:] for key in of_site if key[1] == stage})
    methods = sorted({key[0] for key in of_site if key[1] == stage})
    ratios = []
    for left, right in combinations(methods, 2):
        pairs = [((left, stage, *place), (right, stage, *place)) for place in places]
        paired = {pair: _log_ratios(*(of_site.get(key, ()) for key in pair)) for pair in pairs}
        paired = {pair: values for pair, values in paired.items() if len(values)}
        scatter = _scatter(list(paired.values()))
        for (one, other), values in paired.items():
            measured = float(np.median(values))
            told = abs(measured) > TOLD_APART * scatter * median_of_normals(len(values))[1]
            ratios.append(_Ratio(one, other, measured, told))
    return ratios


def _log_ratios(left: Sequence[Run], right: Sequence[Run]) -> Floats:
    """Return the log ratios of the repeats that both have."""
    first, second = ({run.repeat: run.time_s for run in runs} for runs in (left, right))
    return np.array([np.log(first[repeat] / second[repeat]) for repeat in first if repeat in second])


def _scatter(groups: Sequence[Floats]) -> float:
    """Return the standard deviation of a log ratio about its site's, or the usual where none is repeated."""
    freedom = sum(len(values) - 1 for values in groups)
    if not freedom:
        return ASSUMED_RUN_NOISE * sqrt(2)
    return sqrt(sum(float(np.sum((values - values.mean()) ** 2)) for values in groups) / freedom)


def _cells(sites: Sequence[LiveSite], ratios: Sequence[_Ratio]) -> list[LiveCell]:
    """Return one stage by method, fp16 first."""
    methods = sorted({s.predicted.method for s in sites}, key=lambda method: (method != BASELINE, method))
    return [_cell([s for s in sites if s.predicted.method == method], ratios, sites) for method in methods]


def _cell(own: Sequence[LiveSite], ratios: Sequence[_Ratio], sites: Sequence[LiveSite]) -> LiveCell:
    method = own[0].predicted.method
    accuracy = _mean([1 - abs(site.error) for site in own])
    copy = _mean([1 - abs(site.predicted.copy_s / site.measured_s - 1) for site in own])
    with_fp16 = [r for r in ratios if method != BASELINE and {r.left[0], r.right[0]} == {method, BASELINE}]
    signs = _rank(own[0].predicted.stage, with_fp16, sites, lambda one: one.predicted_s)
    return LiveCell(
        stage=own[0].predicted.stage,
        method=method,
        n_sites=len(own),
        n_runs=sum(site.count for site in own),
        accuracy=accuracy,
        copy=copy,
        ceiling=1 - _mean([site.expected_loss for site in own]),
        error_of_median=_mean([site.error_of_median for site in own]),
        skill=None if method == BASELINE else _skill(accuracy, copy),
        half_width=_mean([_half_width(site.predicted) for site in own]),
        inside=sum(site.inside for site in own),
        speedups=signs.speedups,
        right_signs=signs.right_signs,
    )


def _half_width(said: LivePrediction) -> float:
    return (said.high_s - said.low_s) / (2 * said.predicted_s)


def _stage(
    own: Sequence[LiveSite],
    cells: Sequence[LiveCell],
    ratios: Sequence[_Ratio],
    *,
    level: float,
) -> LiveStage:
    stage = own[0].predicted.stage
    compressed = [cell for cell in cells if cell.method != BASELINE]
    width = np.array([np.log(site.predicted.high_s / site.predicted.low_s) / 2 for site in own])
    return LiveStage(
        stage=stage,
        accuracy=_mean([cell.accuracy for cell in cells]),
        ceiling=_mean([cell.ceiling for cell in cells]),
        error_of_median=_mean([cell.error_of_median for cell in cells]),
        skill=_skill(*(_mean([getattr(cell, name) for cell in compressed]) for name in ("accuracy", "copy")))
        if compressed
        else None,
        intervals=coverage(stage, np.array([site.inside for site in own]), width, level=level),
        ranking=_rank(stage, ratios, own, lambda one: one.predicted_s),
        copy_ranking=_rank(stage, ratios, own, lambda one: one.copy_s),
    )


def _rank(
    stage: str,
    ratios: Sequence[_Ratio],
    sites: Sequence[LiveSite],
    time_s: Callable[[LivePrediction], float],
) -> Ranking:
    """Count the pairs that are told apart, and those of them that are predicted in the measured order."""
    said = {_key(site.predicted): time_s(site.predicted) for site in sites}
    asked = [ratio for ratio in ratios if ratio.told]
    predicted = np.array([np.log(said[ratio.left] / said[ratio.right]) for ratio in asked])
    agreement = np.sign([ratio.measured for ratio in asked]) * np.sign(predicted)
    against_fp16 = np.array([BASELINE in (ratio.left[0], ratio.right[0]) for ratio in asked], dtype=bool)
    right, wrong = int(np.sum(agreement > 0)), int(np.sum(agreement < 0))
    ordered = right + wrong
    return Ranking(
        stage=stage,
        all_pairs=len(ratios),
        pairs=len(asked),
        right=right,
        wrong=wrong,
        tau_b=(right - wrong) / sqrt(ordered * len(asked)) if ordered else None,
        speedups=int(against_fp16.sum()),
        right_signs=int(np.sum(agreement[against_fp16] > 0)),
    )


def _skill(accuracy: float, copy: float) -> float | None:
    return 1 - (1 - accuracy) / (1 - copy) if copy < 1 else None


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))

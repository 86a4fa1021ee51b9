"""What a calibration learnt of each method, how far off it is where nothing was measured, and one word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvpred.data.sites import SiteTable
from kvpred.errors import UsageError
from kvpred.evaluation.accuracy import evaluate
from kvpred.evaluation.accuracy_report import AccuracyReport, SitePrediction
from kvpred.evaluation.noise import median_noise
from kvpred.evaluation.ranking import rank_methods
from kvpred.methods import BASELINE
from kvpred.predictors.calibration import Profiles, predict_sites
from kvpred.predictors.crossval import SITE_BY_SITE
from kvpred.predictors.greybox import STAGES
from kvpred.predictors.predictor import Predictor

GOOD, USABLE, UNRELIABLE = WORDS = ("good", "usable", "unreliable")

# Largest mean error on left-out sites, relative to the measured time. 6 % is what a decode step is to be
# predicted within; beyond 15 % the prediction cannot tell the speed-ups that are usual (0.8 to 1.2) apart.
GOOD_ERROR, USABLE_ERROR = 0.06, 0.15
# Mean half-width of the intervals: beyond the first a speed-up of 1.3 drowns in it, beyond the second nearly
# one of two.
GOOD_WIDTH, USABLE_WIDTH = 0.25, 0.60
# Share of right signs among speed-ups that stand out of the noise.
GOOD_SIGNS, USABLE_SIGNS = 0.9, 0.7
# Expected deviation of a measured median from the true one: beyond this, the truth itself is not known.
GOOD_NOISE, USABLE_NOISE = 0.06, 0.15
# Sites below which leaving one out says little: of fp16, whose three terms need as many, and of a method.
FEWEST_FP16_SITES, FEWEST_SITES = 6, 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """One word, and the reason for it.

    Parameters
    ----------
    word : {"good", "usable", "unreliable"}
    reason : str
    """

    word: str
    reason: str


@dataclass(frozen=True, slots=True)
class LearntTerm:
    """What one term of a step's time costs under a method.

    Parameters
    ----------
    name : str
        What the term counts.
    seconds, seconds_error : float
        Per unit, with its standard error.
    multiplier, multiplier_error : float or None
        On what the term costs under fp16; None where fp16 shows no such cost.
    """

    name: str
    seconds: float
    seconds_error: float
    multiplier: float | None
    multiplier_error: float | None


@dataclass(frozen=True, slots=True)
class LearntStage:
    """One method's stage: what was learnt, and how it stands on sites that were left out.

    Parameters
    ----------
    stage, method : str
    n_sites, n_runs : int
        Learnt from.
    terms : tuple of LearntTerm
    n_left_out : int
        Sites that were left out once each, and predicted from the others.
    accuracy, copy : float or None
        Mean of 1 - |error| there, of the predictor and of fp16's own fit; None if no site could be left out.
    skill : float or None
        1 - error / error of the copy; None for fp16.
    noise : float
        Expected relative deviation of the measured medians from the true ones, by their repeats.
    half_width : float or None
        Mean half-width of the intervals, relative to the predicted time.
    inside : int
        Left-out sites inside their interval.
    speedups, right_signs : int
        Differences from fp16 that stand out of the noise, and those whose sign is foretold.
    """

    stage: str
    method: str
    n_sites: int
    n_runs: int
    terms: tuple[LearntTerm, ...]
    n_left_out: int
    accuracy: float | None
    copy: float | None
    skill: float | None
    noise: float
    half_width: float | None
    inside: int
    speedups: int
    right_signs: int


@dataclass(frozen=True, slots=True)
class LearntMethod:
    """One method: its stages and its verdict.

    Parameters
    ----------
    method : str
        Full method string.
    stages : tuple of LearntStage
    verdict : Verdict
    """

    method: str
    stages: tuple[LearntStage, ...]
    verdict: Verdict


def judge_calibration(
    predictor: Predictor, *, level: float = 0.9, profiles: Profiles | None = None
) -> tuple[LearntMethod, ...]:
    """Say what a predictor learnt from its few sites, and leave each out in turn to see how far it is off.

    Every coefficient is fitted anew without the site; the form of the times stays. fp16 comes first.

    Parameters
    ----------
    predictor : Predictor
        Fitted to runs of both stages.
    level : float
        Level of the intervals.
    profiles : mapping of str to DeviceTimes, optional
        Profiled operators that it rests on besides.
    """
    report = _left_out(predictor.sites, level=level, profiles=profiles)
    methods = [BASELINE, *sorted(set(predictor.methods) - {BASELINE})]
    found = []
    for method in methods:
        stages = tuple(_stage(predictor, stage, method, report, level=level) for stage in STAGES)
        found.append(LearntMethod(method, stages, method_verdict(stages)))
    return tuple(found)


def overall_verdict(methods: Sequence[LearntMethod]) -> Verdict:
    """Return the weakest method's verdict, which names it."""
    worst = max(methods, key=lambda one: WORDS.index(one.verdict.word))
    if worst.verdict.word == GOOD:
        return Verdict(GOOD, f"so is each of {len(methods)} methods")
    return Verdict(worst.verdict.word, f"{worst.method.partition(':')[0]}: {worst.verdict.reason}")


def method_verdict(stages: Sequence[LearntStage]) -> Verdict:
    """Judge a method by its weakest stage; the reason is the first thing that keeps it from a better word."""
    faults = [fault for stage in stages for fault in _faults(stage)]
    for word in (UNRELIABLE, USABLE):
        if reasons := [reason for found, reason in faults if found == word]:
            return Verdict(word, reasons[0])
    errors = [1 - stage.accuracy for stage in stages if stage.accuracy is not None]
    return Verdict(GOOD, f"left-out sites are off by {100 * max(errors):.1f} % on average, or less")


def _faults(stage: LearntStage) -> list[tuple[str, str]]:
    """Return what keeps a stage from being good, each with the best word that it allows."""
    fewest = FEWEST_FP16_SITES if stage.method == BASELINE else FEWEST_SITES
    if stage.n_sites < fewest:
        return [
            (UNRELIABLE, f"{stage.n_sites} sites of {stage.stage} are too few to be judged: measure {fewest}")
        ]
    if stage.accuracy is None or stage.half_width is None:
        return [(UNRELIABLE, f"no site of {stage.stage} can be left out: measure fp16 at more sites")]
    error = 1 - stage.accuracy
    checks = [
        (stage.noise, GOOD_NOISE, USABLE_NOISE, f"repeats of {stage.stage} scatter: the median is off by"),
        (error, GOOD_ERROR, USABLE_ERROR, f"{stage.stage} of left-out sites is off by"),
        (stage.half_width, GOOD_WIDTH, USABLE_WIDTH, f"intervals of {stage.stage} reach to"),
    ]
    faults = [
        (UNRELIABLE if value > usable else USABLE, f"{text} {100 * value:.0f} %")
        for value, good, usable, text in checks
        if value > good
    ]
    right = stage.right_signs / stage.speedups if stage.speedups else 1.0
    if right < GOOD_SIGNS:
        # One wrong sign among few sites may be chance.
        chance = stage.speedups - stage.right_signs == 1
        word = USABLE if chance or right >= USABLE_SIGNS else UNRELIABLE
        told = f"{stage.right_signs} of {stage.speedups}"
        faults.append((word, f"the sign of the {stage.stage} speed-up is right at {told} left-out sites"))
    return faults


def _left_out(sites: SiteTable, *, level: float, profiles: Profiles | None) -> AccuracyReport | None:
    try:
        return evaluate(sites, splits=(SITE_BY_SITE,), level=level, profiles=profiles)
    except UsageError:
        return None


def _stage(
    predictor: Predictor, stage: str, method: str, report: AccuracyReport | None, *, level: float
) -> LearntStage:
    table = predictor.sites
    rows = (table.stage == stage) & (table.method == method)
    left_out = [p for p in report.sites if (p.stage, p.method) == (stage, method)] if report else []
    cells = [c for split in report.splits for c in split.cells] if report else []
    cell = next((c for c in cells if (c.stage, c.method) == (stage, method)), None)
    speedups, right = _signs(predictor, stage, method, report)
    return LearntStage(
        stage=stage,
        method=method,
        n_sites=int(rows.sum()),
        n_runs=int(table.count[rows].sum()),
        terms=_terms(predictor, stage, method),
        n_left_out=len(left_out),
        accuracy=cell.accuracy if cell else None,
        copy=cell.copy if cell else None,
        skill=cell.skill if cell else None,
        noise=float(np.mean(median_noise(table).loss[rows])),
        half_width=_half_width(predictor, stage, rows, level=level) if left_out else None,
        inside=sum(p.low_s <= p.measured_s <= p.high_s for p in left_out),
        speedups=speedups,
        right_signs=right,
    )


def _half_width(predictor: Predictor, stage: str, rows: NDArray[np.bool_], *, level: float) -> float:
    """Return the mean half-width of the intervals at measured sites, relative to the predicted time."""
    calibration, table = predictor.stages[stage], predictor.sites
    _, error = predict_sites(calibration.fits, table, rows)
    length = table.prompt_len if stage == "prefill" else table.kv_len
    width = calibration.log_half_width(error, bsz=table.bsz[rows], length=length[rows], level=level)
    return float(np.mean(np.sinh(width)))


def _terms(predictor: Predictor, stage: str, method: str) -> tuple[LearntTerm, ...]:
    fits = predictor.stages[stage].fits
    fit, baseline = fits.fits[method], fits.fits[BASELINE].coef
    error = fits.site_error[method] * np.sqrt(np.diag(fit.covariance))
    return tuple(
        LearntTerm(
            name=name,
            seconds=float(fit.coef[k]),
            seconds_error=float(error[k]),
            multiplier=float(fit.coef[k] / baseline[k]) if baseline[k] > 0 else None,
            multiplier_error=float(error[k] / baseline[k]) if baseline[k] > 0 else None,
        )
        for k, name in enumerate(fit.form.term_names)
    )


def _signs(predictor: Predictor, stage: str, method: str, report: AccuracyReport | None) -> tuple[int, int]:
    """Count the left-out differences from fp16 that stand out, and those whose sign is foretold."""
    if report is None or method == BASELINE:
        return 0, 0
    table = predictor.sites
    predicted = {_place(p): p.predicted_s for p in report.sites if p.stage == stage}
    places = list(
        zip(
            table.method.tolist(),
            table.bsz.tolist(),
            table.prompt_len.tolist(),
            table.output_len.tolist(),
            strict=True,
        )
    )
    asked = (table.stage == stage) & np.isin(table.method, (method, BASELINE))
    rows = np.array([i for i in np.flatnonzero(asked) if places[i] in predicted], dtype=np.int64)
    if not len(rows):
        return 0, 0
    ranking = rank_methods(
        table.select(rows),
        np.array([predicted[places[i]] for i in rows]),
        median_noise(table).error[rows],
        stage=stage,
    )
    return ranking.speedups, ranking.right_signs


def _place(site: SitePrediction) -> tuple[str, int, int, int]:
    return site.method, site.bsz, site.prompt_len, site.output_len

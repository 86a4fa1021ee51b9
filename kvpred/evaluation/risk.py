"""Can it be told beforehand which requests a method breaks? Task type and sizes against the base rate.

Requests of one dataset are alike, so each dataset is predicted from the others alone, and so is the base rate
that predictions must beat. A dataset that breaks often leaves the others a high base rate and itself a low
one: held-out base rates rank datasets the wrong way round, and their pooled AUC, as that of whatever adds
little to them, lies below 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvpred.data.longbench import Task
from kvpred.data.risk import ALL_TASKS, SIZES, Sizes
from kvpred.errors import DataError
from kvpred.evaluation.length_shift import Bounded
from kvpred.evaluation.negatives import Negatives
from kvpred.evaluation.risk_classifier import Requests, base_rate, classify, held_out, requests_of
from kvpred.evaluation.risk_scores import (
    CalibrationBin,
    Floats,
    auc,
    brier,
    calibration,
    log_loss,
    share_interval,
    skill,
)

BEATS, NO_BETTER = VERDICTS = ("beats base rate", "no better")
# Share of the baseline's score whose loss breaks a request.
THRESHOLD = 0.1
RESAMPLES = 2000
# All of so many datasets fall to the better side by chance once in 2**5 = 32; fewer tell nothing at 90 %.
FEWEST_DATASETS = 5
# The digits beyond depend on where in an array a request stands, and equal predictions must stay equal.
_DIGITS = 9


@dataclass(frozen=True, slots=True)
class TaskRisk:
    """How many benign requests of a task type were broken.

    Parameters
    ----------
    task : str
        A value of `Task`, or ``all``.
    datasets, benign, broken : int
    low, high : float
        See `kvpred.evaluation.risk_scores.share_interval`.
    """

    task: str
    datasets: int
    benign: int
    broken: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """Broken over benign."""
        return self.broken / self.benign


@dataclass(frozen=True, slots=True)
class RiskStudy:
    """What can be told beforehand of the requests that a method breaks.

    Parameters
    ----------
    run, label : str
        The run's name, or those of several that break the same requests; and for people.
    known : tuple of str
        What predictions rest on.
    threshold : float
        Share of the baseline's score whose loss breaks a request.
    shares : tuple of TaskRisk
        By task type; the last is of all.
    auc : Bounded
        Chance that of a broken and a kept request the broken one has the higher held-out probability.
    base_auc : float
        The held-out base rate's.
    skill, brier_skill : Bounded
        Share of the base rate's log loss, and of its Brier score, that the predictions save.
    bins : tuple of CalibrationBin
        Of the held-out probabilities.
    level : float
        Of the intervals, which are over datasets.
    missing : tuple of str
        Datasets that a run lacks.
    """

    run: str
    label: str
    known: tuple[str, ...]
    threshold: float
    shares: tuple[TaskRisk, ...]
    auc: Bounded
    base_auc: float
    skill: Bounded
    brier_skill: Bounded
    bins: tuple[CalibrationBin, ...]
    level: float
    missing: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """`BEATS` only if all of the interval of the log-loss skill is above 0."""
        return BEATS if self.skill.low > 0 else NO_BETTER


def judge_risk(
    negatives: Negatives,
    *,
    sizes: Sizes | None = None,
    label: str | None = None,
    level: float = 0.9,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> RiskStudy:
    """Predict each dataset's broken requests from the other datasets, and compare with their base rate.

    Parameters
    ----------
    negatives : Negatives
    sizes : mapping, optional
        See `kvpred.data.risk.read_sizes`; without, the task type alone is known.
    label : str, optional
        The runs' names, if not given.
    level : float
    resamples, seed : int
        Of the bootstrap, which draws datasets.

    Raises
    ------
    DataError
        If fewer than `FEWEST_DATASETS` datasets hold benign requests, or there are sizes, but not of one of
        these requests.
    MissingExtraError
        If scikit-learn is not installed.
    """
    run = " + ".join(negatives.methods)
    requests = requests_of(negatives, sizes)
    broken = requests.broken
    datasets, number = np.unique(requests.dataset, return_inverse=True)
    n = len(datasets)
    if n < FEWEST_DATASETS:
        raise DataError(
            f"the risk of {run} cannot be judged: requests that the baseline answers well are of {n} "
            f"dataset{'s' * (n != 1)}, and it takes {FEWEST_DATASETS}"
        )
    rng = np.random.default_rng(seed)
    # The first row is the data as they are.
    weights = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), size=resamples)])
    own, base = (_rounded(held_out(requests, predict)) for predict in (classify, base_rate))
    skills = [
        _bounded(skill(loss(own, broken), loss(base, broken), number, weights), level)
        for loss in (log_loss, brier)
    ]
    return RiskStudy(
        run=run,
        label=label or run,
        known=("task type", *(name.replace("_", " ") for name in SIZES if sizes is not None)),
        threshold=negatives.threshold,
        shares=_shares(requests, level=level, resamples=resamples, rng=rng),
        auc=_bounded(auc(own, broken, number, weights), level),
        base_auc=float(auc(base, broken, number, weights[:1])[0]),
        skill=skills[0],
        brier_skill=skills[1],
        bins=calibration(own, broken),
        level=level,
        missing=negatives.missing,
    )


def _rounded(probability: Floats) -> Floats:
    least = 10.0**-_DIGITS
    return np.clip(np.round(probability, _DIGITS), least, 1 - least)


def _bounded(values: Floats, level: float) -> Bounded:
    """Return the first value, and the interval of the others that are known."""
    drawn = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) if len(drawn) else (np.nan, np.nan)
    return Bounded(float(values[0]), float(low), float(high))


def _shares(
    requests: Requests, *, level: float, resamples: int, rng: np.random.Generator
) -> tuple[TaskRisk, ...]:
    there = set(requests.task.tolist())
    found = []
    for task in (*(task.value for task in Task if task in there), ALL_TASKS):
        own = requests if task == ALL_TASKS else requests.where(requests.task == task)
        names, number = np.unique(own.dataset, return_inverse=True)
        benign, broken = np.bincount(number), np.bincount(number[own.broken], minlength=len(names))
        low, high = share_interval(benign, broken, level=level, resamples=resamples, rng=rng)
        found.append(TaskRisk(task, len(names), int(benign.sum()), int(broken.sum()), low, high))
    return tuple(found)

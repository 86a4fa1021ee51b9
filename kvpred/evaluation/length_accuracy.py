"""How good predictions of response lengths are: scores with intervals over resampled conversations.

Answers that were cut count with the length that is left of them, except where a score says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvpred.data.conversations import Turn
from kvpred.errors import MissingExtraError
from kvpred.evaluation.length_totals import total_errors
from kvpred.predictors.length.base import LEVELS, LengthDistributions, pinball

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Interval = tuple[float, float, float]
CONSTANT = "constant"
INTERVAL = 0.9
SHORT_TOKENS = 20
N_RESAMPLES = 1000
# Of scores that are no ratio of sums, which must be worked out anew for each.
N_SLOW_RESAMPLES = 200
BOUNDS = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Score:
    """One score of one model.

    Parameters
    ----------
    turns : str
        ``all``, ``first`` or ``later``.
    model, metric : str
    value, low, high : float
        With its 95 % interval; NaN where there are too few answers.
    answers, conversations : int
    """

    turns: str
    model: str
    metric: str
    value: float
    low: float
    high: float
    answers: int
    conversations: int


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What the answers really were.

    Parameters
    ----------
    tokens : array, shape (n,)
    cut : array of bool, shape (n,)
    group : array of int, shape (n,)
        Conversation, 0 … number of conversations - 1.
    """

    tokens: Floats
    cut: NDArray[np.bool_]
    group: Ints

    @classmethod
    def of(cls, turns: Sequence[Turn]) -> Truth:
        """Take it from answered turns."""
        _, group = np.unique([turn.group for turn in turns], return_inverse=True)
        return cls(
            np.array([turn.response_tokens for turn in turns], dtype=np.float64),
            np.array([turn.censored for turn in turns], dtype=np.bool_),
            group.astype(np.int64),
        )

    def draws(self, number: int, seed: int) -> Ints:
        """Draw conversations with replacement, shape (number, n_conversations): how often each is drawn."""
        n_groups = int(self.group.max()) + 1
        return np.random.default_rng(seed).multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=number)

    def sums(self, values: Floats) -> Floats:
        """Add values up by conversation."""
        return np.asarray(np.bincount(self.group, weights=values), dtype=np.float64)


def slices(turns: Sequence[Turn]) -> dict[str, Ints]:
    """Return the rows of all, first and later turns; those without any left out."""
    first = np.array([turn.first for turn in turns], dtype=np.bool_)
    kinds = {"all": np.ones(len(turns), dtype=np.bool_), "first": first, "later": ~first}
    return {name: np.flatnonzero(mask) for name, mask in kinds.items() if mask.any()}


def constant_baseline(turns: Sequence[Turn], folds: Ints) -> LengthDistributions:
    """Return what answers to conversations of the other folds say: the same for all of a fold."""
    tokens = Truth.of(turns).tokens
    quantiles, mean = np.empty((len(turns), len(LEVELS))), np.empty(len(turns))
    for fold in np.unique(folds):
        own = folds == fold
        others = tokens[~own] if not own.all() else tokens
        quantiles[own], mean[own] = np.quantile(others, LEVELS), others.mean()
    return LengthDistributions(quantiles, mean)


def published_accuracy(tokens: Floats, point: Floats) -> Floats:
    """Return each answer's accuracy as the paper scores it, (1 - |predicted - true| / true) · 100."""
    return 100 * (1 - np.abs(point - tokens) / tokens)


def best_constant(tokens: Floats) -> float:
    """Return the one length that the paper's accuracy likes best: the median weighted with 1 / true."""
    ordered = np.sort(tokens)
    weights = np.cumsum(1 / ordered)
    return float(ordered[np.searchsorted(weights, weights[-1] / 2)])


def ratio_scores(truth: Truth, predicted: LengthDistributions) -> dict[str, tuple[Floats, Floats]]:
    """Return the scores that are one sum over another, as both sums' terms per answer.

    ``rmse_log`` is the square root of its ratio. A cut answer is covered if it may lie in the interval: if
    what is left of it is no longer than the interval's end.
    """
    tokens, one = truth.tokens, np.ones_like(truth.tokens)
    miss = np.abs(predicted.median - tokens)
    low, high = predicted.interval(INTERVAL)
    covered = (tokens <= high) & (truth.cut | (tokens >= low))
    whole = (~truth.cut).astype(np.float64)
    accuracy = published_accuracy(tokens, predicted.median)
    short = (tokens < SHORT_TOKENS).astype(np.float64)
    return {
        "mae": (miss, one),
        "mae_uncut": (miss * whole, whole),
        "rmse_log": ((np.log1p(predicted.median) - np.log1p(tokens)) ** 2, one),
        "pinball": (pinball(tokens, predicted.quantiles), one),
        "coverage": (covered.astype(np.float64), one),
        "width": (high - low, one),
        "bias_mean": (predicted.mean - tokens, tokens),
        "bias_median": (predicted.median - tokens, tokens),
        "paper_accuracy": (accuracy, one),
        "paper_accuracy_clipped": (np.maximum(accuracy, 0.0), one),
        "paper_negative": ((accuracy < 0).astype(np.float64), one),
        "paper_loss_short": ((100 - accuracy) * short, 100 - accuracy),
        "short_answers": (short, one),
    }


def length_scores(
    turns: Sequence[Turn], predicted: Mapping[str, LengthDistributions], *, seed: int = 0
) -> tuple[Score, ...]:
    """Score all models on all, first and later turns.

    Parameters
    ----------
    turns : sequence of Turn
    predicted : mapping of str to LengthDistributions
        Of the same turns, by model; with ``constant``, skill over it is scored too.
    seed : int
        Of the resampling.

    Raises
    ------
    MissingExtraError
        If SciPy is not installed.
    """
    found: list[Score] = []
    for name, rows in slices(turns).items():
        truth = Truth.of([turns[row] for row in rows])
        constant = predicted[CONSTANT][rows] if CONSTANT in predicted else None
        for model, distributions in predicted.items():
            scored = _scores(truth, distributions[rows], constant, seed)
            found += [
                Score(name, model, metric, *numbers, len(rows), int(truth.group.max()) + 1)
                for metric, numbers in scored.items()
            ]
    return tuple(found)


def _scores(
    truth: Truth, predicted: LengthDistributions, constant: LengthDistributions | None, seed: int
) -> dict[str, Interval]:
    ratios = ratio_scores(truth, predicted)
    if constant is not None:
        miss, base = (np.abs(each.median - truth.tokens) for each in (predicted, constant))
        ratios["skill"] = (base - miss, base)
    draws = truth.draws(N_RESAMPLES, seed)
    found: dict[str, Interval] = {}
    for metric, (above, below) in ratios.items():
        if not below.any():
            found[metric] = (np.nan, np.nan, np.nan)
            continue
        # A resample may hold none of the answers that a score is about.
        many = (draws @ truth.sums(above)) / np.maximum(draws @ truth.sums(below), 1e-12)
        numbers = np.array([above.sum() / below.sum(), *np.quantile(many, BOUNDS)])
        found[metric] = _three(np.sqrt(numbers) if metric == "rmse_log" else numbers)
    return found | _slow_scores(truth, predicted, draws[:N_SLOW_RESAMPLES], seed)


def _slow_scores(truth: Truth, predicted: LengthDistributions, draws: Ints, seed: int) -> dict[str, Interval]:
    """Return the scores that are no ratio of sums; a drawn conversation counts with all its turns."""
    median, tokens = predicted.median, truth.tokens
    miss = np.abs(median - tokens)
    samples = [np.arange(len(miss)), *(np.repeat(np.arange(len(miss)), draw[truth.group]) for draw in draws)]
    many = {
        "median_error": [float(np.median(miss[rows])) for rows in samples],
        "tau": [kendall_tau(median[rows], tokens[rows]) for rows in samples],
    }
    found = {name: _three(np.array([v[0], *np.quantile(v[1:], BOUNDS)])) for name, v in many.items()}
    for point, values in (("mean", predicted.mean), ("median", median)):
        for whole in (False, True):
            name = f"total_{point}_{'conversations' if whole else 'random'}"
            found[name] = _total(truth, values, draws, whole=whole, seed=seed)
    return found


def _total(truth: Truth, values: Floats, draws: Ints, *, whole: bool, seed: int) -> Interval:
    """Return the mean absolute relative error of groups' totals."""
    errors = total_errors(truth.tokens, values, truth.group, whole=whole, seed=seed)
    if not len(errors):
        return np.nan, np.nan, np.nan
    many = []
    for draw in draws:
        copies = draw[truth.group]
        rows = np.repeat(np.arange(len(values)), copies)
        # Copies of one conversation are conversations of their own, or one could fill a group alone.
        copy = np.concatenate([np.arange(number) for number in copies])
        _, group = np.unique(truth.group[rows] + copy * (truth.group.max() + 1), return_inverse=True)
        own = total_errors(truth.tokens[rows], values[rows], group, whole=whole, seed=seed, repeats=4)
        many.append(np.abs(own).mean() if len(own) else np.nan)
    return _three(np.array([np.abs(errors).mean(), *np.nanquantile(many, BOUNDS)]))


def kendall_tau(predicted: Floats, tokens: Floats) -> float:
    """Return Kendall's τ-b; 0 where predictions do not differ, as of a constant."""
    try:
        from scipy.stats import kendalltau
    except ModuleNotFoundError:
        raise MissingExtraError("scipy", "train") from None

    value = float(kendalltau(predicted, tokens).statistic)
    return 0.0 if np.isnan(value) else value


def _three(numbers: Floats) -> Interval:
    value, low, high = map(float, numbers)
    return value, low, high

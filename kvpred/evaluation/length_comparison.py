"""Which of two predictors of response lengths is better, judged on the same answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from kvpred.data.conversations import Turn
from kvpred.evaluation.length_accuracy import BOUNDS, N_RESAMPLES, Truth, ratio_scores, slices
from kvpred.predictors.length.base import LengthDistributions

METRICS = ("mae", "pinball")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One model's mean loss less another's, over the same answers.

    Parameters
    ----------
    turns : str
        ``all``, ``first`` or ``later``.
    metric : str
        ``mae`` or ``pinball``; both in tokens, less is better.
    model, other : str
    difference, low, high : float
        Tokens, with the 95 % interval over resampled conversations.
    """

    turns: str
    metric: str
    model: str
    other: str
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` if the interval leaves out zero, else ``no different``."""
        if self.low <= 0 <= self.high:
            return "no different"
        return "better" if self.difference < 0 else "worse"


def compare_lengths(
    turns: Sequence[Turn], predicted: Mapping[str, LengthDistributions], *, seed: int = 0
) -> tuple[Comparison, ...]:
    """Compare every two models on the same resampled conversations, on all, first and later turns."""
    found = []
    for name, rows in slices(turns).items():
        truth = Truth.of([turns[row] for row in rows])
        losses = {model: ratio_scores(truth, each[rows]) for model, each in predicted.items()}
        draws = truth.draws(N_RESAMPLES, seed)
        answers = draws @ truth.sums(np.ones(len(rows)))
        for metric in METRICS:
            for model, other in combinations(predicted, 2):
                gap = losses[model][metric][0] - losses[other][metric][0]
                low, high = map(float, np.quantile(draws @ truth.sums(gap) / answers, BOUNDS))
                found.append(Comparison(name, metric, model, other, float(gap.mean()), low, high))
    return tuple(found)

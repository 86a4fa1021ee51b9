"""Intervals that hold: quantile levels corrected by what held-out conversations showed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvpred.data.conversations import Turn
from kvpred.predictors.length.base import LEVELS, Floats, LengthDistributions, conversation_weights


@dataclass(frozen=True, slots=True)
class Recalibration:
    """The level at which to read a predicted distribution, for each of `LEVELS`.

    Split-conformal prediction on the probability scale (Chernozhukov, Wüthrich and Zhu, "Distributional
    conformal prediction", PNAS 2021): if a tenth of held-out answers lie below the predicted 14 % quantile,
    then the 10 % quantile is read there.

    Parameters
    ----------
    read_at : array, shape (len(LEVELS),)
        Never falling, within 0 … 1.
    mean_factor : float
        Held-out answers' total over the predicted one.
    """

    read_at: Floats
    mean_factor: float

    @classmethod
    def fit(cls, predicted: LengthDistributions, turns: Sequence[Turn]) -> Recalibration:
        """Learn from answers of conversations that the predictor has not seen.

        A conversation counts as in training, and the finite number of conversations widens the outer
        levels, as conformal prediction does: the (1 - a) quantile of n scores is read at (1 - a)(n + 1) / n.
        """
        tokens = np.array([turn.response_tokens for turn in turns], dtype=np.float64)
        ranks = predicted.share_below(tokens)
        weights = conversation_weights(turns)
        order = np.argsort(ranks, kind="stable")
        shares = (np.cumsum(weights[order]) - weights[order] / 2) / weights.sum()
        n = len({turn.group for turn in turns})
        wanted = np.clip(0.5 + (LEVELS - 0.5) * (n + 1) / n, 0.0, 1.0)
        factor = float(weights @ tokens / (weights @ predicted.mean))
        return cls(np.interp(wanted, shares, ranks[order]), factor)

    def apply(self, predicted: LengthDistributions) -> LengthDistributions:
        """Return the corrected distributions."""
        quantiles = np.column_stack([predicted.quantile(level) for level in self.read_at])
        return LengthDistributions(quantiles, predicted.mean * self.mean_factor, predicted.limit)

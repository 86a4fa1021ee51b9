"""The stack: the fast predictor, told besides what another model says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from kvpred.data.conversations import Turn
from kvpred.data.journal import Progress
from kvpred.errors import DataError
from kvpred.predictors.length import bundle
from kvpred.predictors.length.base import Floats, LengthDistributions, LengthPredictor, Messages
from kvpred.predictors.length.fast import FastPredictor
from kvpred.predictors.length.model import LengthModel

_BASE, _FAST = "base", "fast"
# Of the base model's distribution: what the fast one is told, besides the mean.
_TOLD_LEVELS = (0.1, 0.5, 0.9)


class StackedPredictor(LengthPredictor):
    """A `FastPredictor` with the distribution that a base model predicts among its features.

    For answers that the base model has learnt from, its out-of-fold predictions are used, in training as well
    as in `predict_held_out`: what it says of answers it knows would teach too much trust. Folds are the same
    for both, so a base prediction may come from a model that saw conversations of the fold under judgement in
    its own training; as in all stacking on one set of folds, held-out figures are that much too good.

    Parameters
    ----------
    base : LengthModel
    seed : int
    """

    name: ClassVar[str] = "stacked"

    def __init__(self, base: LengthModel, *, seed: int = 0) -> None:
        self.base = base
        self._fast = FastPredictor(seed=seed)

    def fit(self, turns: Sequence[Turn], *, progress: Callable[[Progress], None] | None = None) -> Self:
        """Fit the fast model; the base model stays as it is.

        Raises
        ------
        DataError
            If the base model was not trained on these turns.
        """
        self._fast.fit(turns, beside=self._told_of(turns), progress=progress)
        self.limit_ = self._fast.limit_
        return self

    def predict(self, conversations: Sequence[Messages]) -> LengthDistributions:
        """Return one distribution per conversation."""
        return self._fast.predict(conversations, beside=_told(self.base.predictor.predict(conversations)))

    def predict_held_out(self, turns: Sequence[Turn]) -> LengthDistributions:
        """Return the distributions of answers that were not learnt from, by either model."""
        return self._fast.predict([turn.messages for turn in turns], beside=self._told_of(turns))

    def save(self, folder: Path) -> None:
        """Write both models."""
        (folder / _FAST).mkdir()
        self._fast.save(folder / _FAST)
        bundle.save(self.base, folder / _BASE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        predictor = cls(bundle.load(folder / _BASE))
        predictor._fast = FastPredictor.load(folder / _FAST)
        predictor.limit_ = predictor._fast.limit_
        return predictor

    def _told_of(self, turns: Sequence[Turn]) -> Floats:
        rows = self.base.out_of_fold.rows(turns)
        if (missing := np.flatnonzero(rows < 0)).size:
            raise DataError(
                f"the {self.base.name} model to stack on was not trained on {turns[missing[0]].piece} and "
                f"{missing.size - 1} other answers: train both on the same files."
            )
        return _told(self.base.out_of_fold.predicted[rows])


def _told(predicted: LengthDistributions) -> Floats:
    return np.log(np.column_stack([predicted.mean, *map(predicted.quantile, _TOLD_LEVELS)]))

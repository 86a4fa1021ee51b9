"""The stack: quantiles of the fast predictor and of another model, averaged with a weight that was learnt."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from kvpred.data.conversations import Turn
from kvpred.data.files import read_text, write_text
from kvpred.data.journal import Progress
from kvpred.errors import DataError
from kvpred.predictors.length import bundle
from kvpred.predictors.length.base import (
    LengthDistributions,
    LengthPredictor,
    Messages,
    conversation_weights,
    fold_of,
    pinball,
)
from kvpred.predictors.length.fast import FastPredictor
from kvpred.predictors.length.model import LengthModel

_BASE, _FAST, _STATE = "base", "fast", "stacked.json"
# Parts of the training set that are held out in turn to learn the weight.
_INNER_FOLDS = 3
_WEIGHTS = np.linspace(0, 1, 21)


class StackedPredictor(LengthPredictor):
    """A `FastPredictor` and a base model, their quantiles averaged (Vincent averaging).

    The weight is the one of least pinball loss on training answers that neither has learnt from: within the
    training set the fast model is fitted to all parts but one, and the base model's out-of-fold predictions
    are taken. Folds are the same for both, so a base prediction may come from a model that saw conversations
    of the fold under judgement in its own training; one number is learnt from them.

    Parameters
    ----------
    base : LengthModel
    seed : int

    Attributes
    ----------
    weight_ : float
        Of the base model, 0 to 1.
    """

    name: ClassVar[str] = "stacked"

    def __init__(self, base: LengthModel, *, seed: int = 0) -> None:
        self.base = base
        self._fast = FastPredictor(seed=seed)

    def fit(self, turns: Sequence[Turn], *, progress: Callable[[Progress], None] | None = None) -> Self:
        """Learn the weight, and fit the fast model; the base model stays as it is.

        Raises
        ------
        DataError
            If the base model was not trained on these turns.
        """
        base = self._base_held_out(turns)
        folds = np.array([fold_of(f"stack {turn.group}", _INNER_FOLDS) for turn in turns])
        quantiles = np.empty_like(base.quantiles)
        for fold in np.unique(folds):
            own = np.flatnonzero(folds == fold).tolist()
            learnt = [turns[row] for row in np.flatnonzero(folds != fold).tolist()]
            fitted = FastPredictor(seed=self._fast.seed).fit(learnt)
            quantiles[own] = fitted.predict([turns[row].messages for row in own]).quantiles
        tokens = np.array([turn.response_tokens for turn in turns])
        counts = conversation_weights(turns)
        losses = [counts @ pinball(tokens, (1 - w) * quantiles + w * base.quantiles) for w in _WEIGHTS]
        self.weight_ = float(_WEIGHTS[int(np.argmin(losses))])
        self._fast.fit(turns, progress=progress)
        self.limit_ = self._fast.limit_
        return self

    def predict(self, conversations: Sequence[Messages]) -> LengthDistributions:
        """Return one distribution per conversation."""
        return self._pooled(self._fast.predict(conversations), self.base.distributions(conversations))

    def predict_held_out(self, turns: Sequence[Turn]) -> LengthDistributions:
        """Return the distributions of answers that were not learnt from, by either model."""
        return self._pooled(self._fast.predict_held_out(turns), self._base_held_out(turns))

    def save(self, folder: Path) -> None:
        """Write both models and the weight."""
        (folder / _FAST).mkdir()
        self._fast.save(folder / _FAST)
        bundle.save(self.base, folder / _BASE)
        write_text(folder / _STATE, json.dumps({"weight": self.weight_}) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        predictor = cls(bundle.load(folder / _BASE))
        predictor._fast = FastPredictor.load(folder / _FAST)
        predictor.limit_ = predictor._fast.limit_
        predictor.weight_ = float(json.loads(read_text(folder / _STATE))["weight"])
        return predictor

    def _base_held_out(self, turns: Sequence[Turn]) -> LengthDistributions:
        rows = self.base.out_of_fold.rows(turns)
        if (missing := np.flatnonzero(rows < 0)).size:
            raise DataError(
                f"the {self.base.name} model to stack on was not trained on {turns[missing[0]].piece} and "
                f"{missing.size - 1} other answers: train both on the same files."
            )
        return self.base.recalibration.apply(self.base.out_of_fold.predicted[rows])

    def _pooled(self, fast: LengthDistributions, base: LengthDistributions) -> LengthDistributions:
        weight = self.weight_
        return LengthDistributions(
            (1 - weight) * fast.quantiles + weight * base.quantiles,
            (1 - weight) * fast.mean + weight * base.mean,
            self.limit_,
        )

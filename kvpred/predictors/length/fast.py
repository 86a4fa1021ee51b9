"""The fast predictor: one boosted model of the whole distribution of lengths, without torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from kvpred.data.conversations import Turn
from kvpred.data.files import read_text, write_text
from kvpred.data.journal import Progress
from kvpred.errors import MissingExtraError
from kvpred.predictors.length.base import (
    Floats,
    LengthDistributions,
    LengthPredictor,
    Messages,
    check_enough,
    conversation_weights,
    cut_of,
    fold_of,
    telling,
)
from kvpred.predictors.length.features import SOFT_TOKENS, features
from kvpred.predictors.length.text_scores import TextScores

_BOOSTER, _TEXT, _STATE = "lightgbm.txt", "text_scores.json", "fast.json"
# Thresholds: these shares of the training answers lie below them. Dense at both ends, where intervals end.
_SHARES = np.array([0.01, 0.02, 0.04, 0.07, *np.arange(0.1, 0.91, 0.08), 0.94, 0.96, 0.98, 0.995])
# Tried on grouped folds: 8 to 48 leaves, 200 to 400 trees at this rate, 300 to 1,000 rows a leaf: within a
# token of mean absolute error of each other.
_TREES = 200
_PARAMETERS = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 12,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.5,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}
# Rows a leaf must hold, as a share of all: a small set needs smaller leaves.
_LEAF_SHARE, _MOST_IN_LEAF = 0.006, 400
# Folds within the training set for the scores of its own prompts' words, which must not have seen the answer.
_INNER_FOLDS = 5
# Answers of few and of many tokens, in shares of the training answers: what the words are asked besides the
# logarithm of the length.
_FEW, _MANY = 0.12, 0.83


class FastPredictor(LengthPredictor):
    """LightGBM on the conversation's surface and history, asked for P(answer ≤ n) at thresholds n.

    The threshold is a feature like the others, so that one model gives the whole distribution: quantiles do
    not cross, and a cut answer tells all that it can, which is that it passed every threshold below the cut.

    Parameters
    ----------
    seed : int
    """

    name: ClassVar[str] = "lightgbm"

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def fit(
        self,
        turns: Sequence[Turn],
        *,
        progress: Callable[[Progress], None] | None = None,
    ) -> Self:
        """Fit the words' scores, then the trees; deterministic for a given seed.

        Parameters
        ----------
        turns : sequence of Turn
        progress : callable, optional

        Raises
        ------
        DataError
            If there are fewer than 20 conversations.
        MissingExtraError
            Without LightGBM or scikit-learn.
        """
        lightgbm = _lightgbm()
        check_enough(turns)
        tokens = np.array([turn.response_tokens for turn in turns], dtype=np.float64)
        self.limit_ = cut_of(turns)
        self._thresholds = telling(np.round(np.quantile(tokens, _SHARES)), self.limit_)
        self._most = float(tokens.max())
        weights = conversation_weights(turns)
        below = tokens[:, None] <= self._thresholds
        shares = weights @ below / weights.sum()
        self._prior = np.log(shares / (1 - shares).clip(1e-3))
        words = self._fit_text(turns, tokens, weights, progress)
        data = lightgbm.Dataset(
            self._rows(_numbers([turn.messages for turn in turns], words)),
            below.ravel().astype(np.float64),
            weight=np.repeat(weights, len(self._thresholds)),
            init_score=np.tile(self._prior, len(turns)),
        )
        leaf = min(_MOST_IN_LEAF, max(20, int(_LEAF_SHARE * below.size)))
        parameters = _PARAMETERS | {"seed": self.seed, "min_data_in_leaf": leaf}
        self._booster = lightgbm.train(parameters, data, _TREES)
        return self

    def predict(self, conversations: Sequence[Messages]) -> LengthDistributions:
        """Return one distribution per conversation."""
        words = self._text.predict([messages[-1].content for messages in conversations])
        rows = self._rows(_numbers(conversations, words))
        scores = self._booster.predict(rows, raw_score=True).reshape(len(conversations), -1) + self._prior
        below = np.maximum.accumulate(1 / (1 + np.exp(-scores)), axis=1)
        return LengthDistributions.from_shares(below, self._thresholds, most=self._most, limit=self.limit_)

    def save(self, folder: Path) -> None:
        """Write LightGBM's text and JSON."""
        write_text(folder / _BOOSTER, self._booster.model_to_string())
        self._text.save(folder / _TEXT)
        state = {"seed": self.seed, "limit": self.limit_ if np.isfinite(self.limit_) else None}
        state |= {"thresholds": self._thresholds.tolist(), "prior": self._prior.tolist(), "most": self._most}
        write_text(folder / _STATE, json.dumps(state) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        state = json.loads(read_text(folder / _STATE))
        predictor = cls(seed=int(state["seed"]))
        predictor.limit_ = np.inf if state["limit"] is None else float(state["limit"])
        predictor._thresholds, predictor._prior = np.array(state["thresholds"]), np.array(state["prior"])
        predictor._most = float(state["most"])
        predictor._text = TextScores.load(folder / _TEXT)
        predictor._booster = _lightgbm().Booster(model_str=read_text(folder / _BOOSTER))
        return predictor

    def _fit_text(
        self,
        turns: Sequence[Turn],
        tokens: Floats,
        weights: Floats,
        progress: Callable[[Progress], None] | None,
    ) -> Floats:
        """Fit the words' scores; return those of the training prompts, each from other conversations."""
        few, many = np.quantile(tokens, [_FEW, _MANY])
        targets = np.column_stack([np.log(tokens + SOFT_TOKENS), tokens <= few, tokens > many]).astype(float)
        texts = [turn.messages[-1].content for turn in turns]
        # Another assignment than that of the folds which judge a model.
        folds = np.array([fold_of(f"words of {turn.group}", _INNER_FOLDS) for turn in turns])
        scores = np.empty_like(targets)
        for fold in np.unique(folds):
            own = folds == fold
            learnt = [text for text, out in zip(texts, own, strict=True) if not out]
            fitted = TextScores().fit(learnt, targets[~own], weights=weights[~own])
            scores[own] = fitted.predict([text for text, out in zip(texts, own, strict=True) if out])
        self._text = TextScores().fit(texts, targets, weights=weights)
        return scores

    def _rows(self, numbers: Floats) -> Floats:
        """Return every conversation's features once for each threshold."""
        count = len(self._thresholds)
        return np.column_stack([np.repeat(numbers, count, axis=0), np.tile(self._thresholds, len(numbers))])


def _numbers(conversations: Sequence[Messages], words: Floats) -> Floats:
    found = np.array([list(features(messages).values()) for messages in conversations], dtype=np.float64)
    return np.column_stack([found, words])


def _lightgbm() -> Any:
    try:
        import lightgbm
    except ModuleNotFoundError:
        raise MissingExtraError("lightgbm", "train") from None
    return lightgbm

"""Regressor `auto`: whichever regressor predicts whole held-out batch sizes and lengths best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kvpred.predictors.operators.base import OperatorRegressor, State, make_regressor, restored
from kvpred.predictors.operators.features import FloatArray
from kvpred.predictors.operators.folds import varying_axes, whole_value_folds
from kvpred.predictors.operators.physics import PhysicsRegressor

SCORE_DIGITS = 6
"""Scores that agree to this many digits are equal: one millionth of an operator's time is no difference."""


class AutoRegressor(OperatorRegressor):
    """The best of several regressors by grouped cross-validation, made to extrapolate.

    The score is the mean absolute log error over held-out whole values of each input. Outside the range of
    the training the winner's time at the nearest edge grows in proportion to what physics says, because trees
    alone would stand still there.

    Parameters
    ----------
    family : str
        ``tokens``, ``decode`` or ``prefill``.
    candidates : sequence of str
        Names of regressors; the first of equals wins, or where nothing can be held out.
    n_folds : int
        Folds per input.
    random_state : int
        Deals values out to folds.

    Attributes
    ----------
    best_ : OperatorRegressor
    physics_ : PhysicsRegressor
    scores_ : dict of str to float
        Mean absolute log error of each candidate.
    """

    name = "auto"
    physics_: OperatorRegressor

    def __init__(
        self,
        *,
        family: str = "tokens",
        candidates: Sequence[str] = ("physics", "hybrid", "lightgbm"),
        n_folds: int = 4,
        random_state: int = 0,
    ) -> None:
        self.family = family
        self.candidates = candidates
        self.n_folds = n_folds
        self.random_state = random_state

    def _fit(self, inputs: FloatArray, time_ms: FloatArray) -> None:
        self.scores_ = {name: self._score(name, inputs, time_ms) for name in self.candidates}
        best = min(self.scores_, key=lambda name: round(self.scores_[name], SCORE_DIGITS))
        self.best_ = make_regressor(best, family=self.family).fit(inputs, time_ms)
        self.physics_ = PhysicsRegressor(family=self.family).fit(inputs, time_ms)

    def _score(self, name: str, inputs: FloatArray, time_ms: FloatArray) -> float:
        errors = [np.zeros(1)]
        for axis in varying_axes(inputs):
            for test in whole_value_folds(inputs[:, axis], self.n_folds, seed=self.random_state):
                model = make_regressor(name, family=self.family).fit(inputs[~test], time_ms[~test])
                errors.append(np.abs(np.log(model.predict(inputs[test]) / time_ms[test])))
        return float(np.concatenate(errors).mean())

    def _predict(self, inputs: FloatArray) -> FloatArray:
        inside = np.clip(inputs, self.low_, self.high_)
        growth = self.physics_.predict(inputs) / self.physics_.predict(inside)
        return self.best_.predict(inside) * growth

    def _learnt(self) -> State:
        best = self.best_.state()
        values = {"best": best.values, "physics": self.physics_.state().values, "scores": self.scores_}
        return State(values, best.files)

    def _restore(self, learnt: State) -> None:
        self.best_ = restored(State(learnt.values["best"], learnt.files))
        self.physics_ = restored(State(learnt.values["physics"]))
        self.scores_ = dict(learnt.values["scores"])

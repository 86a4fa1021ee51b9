"""Regressor `hybrid`: physics, corrected by boosted trees on the log of what it leaves over."""

from __future__ import annotations

import numpy as np

from kvpred.predictors.operators.base import OperatorRegressor, State, restored
from kvpred.predictors.operators.boosting import BoostedRegressor
from kvpred.predictors.operators.features import FloatArray
from kvpred.predictors.operators.physics import PhysicsRegressor


class HybridRegressor(BoostedRegressor):
    """Physics times a correction learnt on the log residual. Parameters are those of `BoostedRegressor`.

    Outside the range of its training the correction stays what it is at the nearest edge, so that the time
    grows as physics says.

    Attributes
    ----------
    physics_ : PhysicsRegressor
    """

    name = "hybrid"
    physics_: OperatorRegressor

    def _fit(self, inputs: FloatArray, time_ms: FloatArray) -> None:
        self.physics_ = PhysicsRegressor(family=self.family).fit(inputs, time_ms)
        self.booster_ = self._boost(inputs, np.log(time_ms / self.physics_.predict(inputs)))

    def _predict(self, inputs: FloatArray) -> FloatArray:
        inside = np.clip(inputs, self.low_, self.high_)
        time_ms: FloatArray = self.physics_.predict(inputs) * np.exp(self._boosted(inside))
        return time_ms

    def _learnt(self) -> State:
        return State({"physics": self.physics_.state().values}, super()._learnt().files)

    def _restore(self, learnt: State) -> None:
        super()._restore(learnt)
        self.physics_ = restored(State(learnt.values["physics"]))

"""Regressor `lightgbm`: boosted trees on the log of the time; flat outside the range that it has seen."""

from __future__ import annotations

import numpy as np

from kvpred.predictors.operators.boosting import BoostedRegressor
from kvpred.predictors.operators.features import FloatArray


class LightGBMRegressor(BoostedRegressor):
    """Boosted trees alone. Parameters are those of `BoostedRegressor`."""

    name = "lightgbm"

    def _fit(self, inputs: FloatArray, time_ms: FloatArray) -> None:
        self.booster_ = self._boost(inputs, np.log(time_ms))

    def _predict(self, inputs: FloatArray) -> FloatArray:
        time_ms: FloatArray = np.exp(self._boosted(inputs))
        return time_ms

"""Boosted trees on a log target: what the regressors `lightgbm` and `hybrid` have in common."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvpred.predictors.operators.base import OperatorRegressor, State, import_extra
from kvpred.predictors.operators.features import FloatArray

MODEL_FILE = "lightgbm.txt"


class BoostedRegressor(OperatorRegressor):
    """Base of regressors with gradient-boosted trees on the family's inputs and tile fills.

    Parameters
    ----------
    family : str
        ``tokens``, ``decode`` or ``prefill``.
    n_estimators, num_leaves : int
        Number of trees, and of leaves in each.
    n_jobs : int
        Threads. The result does not depend on it.
    random_state : int
    """

    def __init__(
        self,
        *,
        family: str = "tokens",
        n_estimators: int = 200,
        num_leaves: int = 31,
        n_jobs: int = 1,
        random_state: int = 0,
    ) -> None:
        self.family = family
        self.n_estimators = n_estimators
        self.num_leaves = num_leaves
        self.n_jobs = n_jobs
        self.random_state = random_state

    def _learnt(self) -> State:
        return State({}, {MODEL_FILE: self.booster_.model_to_string().encode()})

    def _restore(self, learnt: State) -> None:
        lgb = import_extra("lightgbm")
        self.booster_ = lgb.Booster(model_str=learnt.files[MODEL_FILE].decode())
        n_features = self._family.learnt(self.high_[None, :]).shape[1]
        if self.booster_.num_feature() != n_features:
            raise ValueError(f"the trees have {self.booster_.num_feature()} features, expected {n_features}")

    def _boosted(self, inputs: FloatArray) -> FloatArray:
        features = self._family.learnt(inputs)
        return np.asarray(self.booster_.predict(features, num_threads=self.n_jobs), dtype=np.float64)

    def _boost(self, inputs: FloatArray, target: FloatArray) -> Any:
        """Return trees fitted to `target`.

        Leaves and bins as small as two and one row, because a profile's grid is sparse and little noisy.
        """
        lgb = import_extra("lightgbm")
        params = {
            "objective": "l2",
            "learning_rate": 0.1,
            "num_leaves": self.num_leaves,
            "min_data_in_leaf": 2,
            "min_data_in_bin": 1,
            "num_threads": self.n_jobs,
            "seed": self.random_state,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }
        data = lgb.Dataset(self._family.learnt(inputs), target, params=params)
        return lgb.train(params, data, num_boost_round=self.n_estimators)

"""Regressor `forest`: Vidur's random forest; flat outside the range that it has seen."""

from __future__ import annotations

from zipfile import ZIP_DEFLATED

import numpy as np

from kvpred.predictors.operators.base import OperatorRegressor, State, import_extra
from kvpred.predictors.operators.features import FloatArray

MODEL_FILE = "forest.skops"
# The only type of a forest that skops does not trust by itself; `_check_tree` guards what it could do.
TRUSTED_TYPES = ("sklearn.tree._tree.Tree",)


class ForestRegressor(OperatorRegressor):
    """A random forest on Vidur's features, with one setting from Vidur's grid.

    Saved twice, it predicts the same, but its files differ: skops writes times and object numbers into them.

    Parameters
    ----------
    family : str
        ``tokens``, ``decode`` or ``prefill``.
    n_estimators, max_depth, min_samples_split : int
        As scikit-learn's `RandomForestRegressor`.
    round_queries : bool
        Whether to predict at inputs rounded up as Vidur's simulator does it, to 8 tokens and 256 cached
        tokens. Costs accuracy, and shows what Vidur would say.
    n_jobs : int
        Threads of the fit. The result does not depend on it.
    random_state : int
    """

    name = "forest"

    def __init__(
        self,
        *,
        family: str = "tokens",
        n_estimators: int = 250,
        max_depth: int = 16,
        min_samples_split: int = 2,
        round_queries: bool = False,
        n_jobs: int = 1,
        random_state: int = 0,
    ) -> None:
        self.family = family
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.min_samples_split = min_samples_split
        self.round_queries = round_queries
        self.n_jobs = n_jobs
        self.random_state = random_state

    def _fit(self, inputs: FloatArray, time_ms: FloatArray) -> None:
        forest = import_extra("sklearn.ensemble").RandomForestRegressor(
            n_estimators=self.n_estimators,
            max_depth=self.max_depth,
            min_samples_split=self.min_samples_split,
            n_jobs=self.n_jobs,
            random_state=self.random_state,
        )
        self.forest_ = forest.fit(self._family.vidur(inputs), np.log(time_ms))
        # Threads would add the trees up in the order in which they finish.
        self.forest_.set_params(n_jobs=1)

    def _predict(self, inputs: FloatArray) -> FloatArray:
        if self.round_queries:
            inputs = np.ceil(inputs / self._family.vidur_rounding) * self._family.vidur_rounding
        time_ms: FloatArray = np.exp(self.forest_.predict(self._family.vidur(inputs)))
        return time_ms

    def _learnt(self) -> State:
        skops = import_extra("skops.io")
        return State({}, {MODEL_FILE: skops.dumps(self.forest_, compression=ZIP_DEFLATED)})

    def _restore(self, learnt: State) -> None:
        self.forest_ = import_extra("skops.io").loads(learnt.files[MODEL_FILE], trusted=list(TRUSTED_TYPES))
        n_features = self._family.vidur(self.high_[None, :]).shape[1]
        for tree in self.forest_.estimators_:
            _check_tree(tree.tree_, n_features)


def _check_tree(tree: object, n_features: int) -> None:
    """Raise ValueError unless every branch leads down to a node and a feature that exist.

    scikit-learn follows these numbers unchecked.
    """
    left, right, feature = (getattr(tree, name) for name in ("children_left", "children_right", "feature"))
    branch = np.flatnonzero(left != -1)
    for children in (left[branch], right[branch]):
        if (children <= branch).any() or (children >= len(left)).any():
            raise ValueError("a tree's branches lead nowhere")
    if (feature[branch] < 0).any() or (feature[branch] >= n_features).any():
        raise ValueError(f"a tree asks for a feature beyond the {n_features} there are")

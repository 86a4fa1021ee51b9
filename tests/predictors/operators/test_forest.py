from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from kvpred.predictors.operators import ForestRegressor
from kvpred.predictors.operators.forest import _check_tree
from tests.predictors.operators.conftest import DECODE_SITES, decode_law

LEAF = -1


def forest(*, round_queries: bool = False) -> ForestRegressor:
    model = ForestRegressor(family="decode", n_estimators=20, round_queries=round_queries)
    return model.fit(DECODE_SITES, decode_law(*DECODE_SITES.T))


def test_a_forest_stands_still_beyond_its_range() -> None:
    edge, beyond = forest().predict([[32, 2048], [64, 8192]])
    assert beyond == edge


def test_rounded_queries_are_looked_up_as_vidur_does() -> None:
    plain, rounded = forest(), forest(round_queries=True)
    assert rounded.predict([[4, 257]]) == plain.predict([[4, 512]])
    assert rounded.predict([[4, 256]]) == plain.predict([[4, 256]])


@pytest.mark.parametrize(
    ("left", "right", "feature", "message"),
    [
        ([1, LEAF, LEAF], [7, LEAF, LEAF], [0, -2, -2], "nowhere"),
        ([0, LEAF, LEAF], [2, LEAF, LEAF], [0, -2, -2], "nowhere"),
        ([1, LEAF, LEAF], [2, LEAF, LEAF], [2, -2, -2], "beyond the 2"),
        ([1, LEAF, LEAF], [2, LEAF, LEAF], [-2, -2, -2], "beyond the 2"),
    ],
    ids=["child beyond the end", "child is its parent", "feature beyond the end", "negative feature"],
)
def test_a_tree_that_would_crash_scikit_learn_is_refused(
    left: list[int], right: list[int], feature: list[int], message: str
) -> None:
    tree = SimpleNamespace(
        children_left=np.array(left), children_right=np.array(right), feature=np.array(feature)
    )
    with pytest.raises(ValueError, match=message):
        _check_tree(tree, 2)

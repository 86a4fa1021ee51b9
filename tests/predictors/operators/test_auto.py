from __future__ import annotations

import numpy as np
import pytest

from kvpred.predictors.operators import AutoRegressor
from tests.predictors.operators.conftest import DECODE_SITES, decode_law


def test_auto_takes_physics_where_physics_is_exact() -> None:
    model = AutoRegressor(family="decode").fit(DECODE_SITES, decode_law(*DECODE_SITES.T))
    assert model.best_.name == "physics"
    assert model.scores_["physics"] < 1e-6 < model.scores_["lightgbm"]


def test_auto_takes_trees_where_no_law_holds() -> None:
    tokens = np.arange(8, 4097, 8)
    plateaus = np.where(tokens // 500 % 2, 1.0, 5.0)
    model = AutoRegressor().fit(tokens[:, None], plateaus)
    assert model.best_.name in ("lightgbm", "hybrid")


def test_trees_chosen_by_auto_still_grow_beyond_the_range() -> None:
    tokens = np.arange(64, 2049, 64)
    model = AutoRegressor(candidates=("lightgbm",)).fit(tokens[:, None], 0.001 * tokens)
    assert model.best_.name == "lightgbm"
    assert model.predict([[8192]]) == pytest.approx([8.192], rel=0.02)


def test_auto_is_the_winner_itself_inside_the_range() -> None:
    model = AutoRegressor(family="decode", candidates=("lightgbm",)).fit(
        DECODE_SITES, decode_law(*DECODE_SITES.T)
    )
    assert model.predict(DECODE_SITES).tolist() == model.best_.predict(DECODE_SITES).tolist()


def test_the_first_candidate_is_taken_where_nothing_can_be_held_out() -> None:
    assert AutoRegressor().fit([[64], [64]], [1.0, 1.2]).best_.name == "physics"

from __future__ import annotations

import numpy as np
import pytest

from kvpred.predictors.operators import HybridRegressor, LightGBMRegressor, PhysicsRegressor
from tests.predictors.operators.conftest import DECODE_SITES, decode_law


def stepped(bsz: np.ndarray, kv_len: np.ndarray) -> np.ndarray:
    """A law with a dent that no physics term has: 20 % faster at 512 to 1,024 tokens."""
    return decode_law(bsz, kv_len) * np.where((kv_len >= 512) & (kv_len <= 1024), 0.8, 1.0)


def test_hybrid_learns_what_physics_leaves_over() -> None:
    measured = stepped(*DECODE_SITES.T)
    errors = {
        regressor: np.abs(
            regressor(family="decode").fit(DECODE_SITES, measured).predict(DECODE_SITES) / measured - 1
        ).max()
        for regressor in (PhysicsRegressor, HybridRegressor)
    }
    assert errors[PhysicsRegressor] > 0.1
    assert errors[HybridRegressor] < 0.01


def test_hybrid_grows_with_physics_beyond_its_range_where_lightgbm_stands_still() -> None:
    measured = stepped(*DECODE_SITES.T)
    far, edge = np.array([[128, 8192]]), np.array([[32, 2048]])
    hybrid = HybridRegressor(family="decode").fit(DECODE_SITES, measured)
    trees = LightGBMRegressor(family="decode").fit(DECODE_SITES, measured)
    assert hybrid.predict(far) == pytest.approx(stepped(*far.T), rel=0.05)
    assert trees.predict(far) == trees.predict(edge)


def test_the_correction_stays_that_of_the_nearest_edge() -> None:
    hybrid = HybridRegressor(family="decode").fit(DECODE_SITES, stepped(*DECODE_SITES.T))
    far, edge = np.array([[128, 8192]]), np.array([[32, 2048]])
    assert hybrid.predict(far) / hybrid.physics_.predict(far) == pytest.approx(
        hybrid.predict(edge) / hybrid.physics_.predict(edge)
    )

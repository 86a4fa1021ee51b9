from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from kvpred.predictors.operators import PhysicsRegressor
from tests.predictors.operators.conftest import DECODE_SITES, decode_law

times = st.lists(st.floats(1e-3, 1e3), min_size=8, max_size=8)


def test_coefficients_of_an_exact_law_are_recovered() -> None:
    tokens = np.array([[1], [8], [64], [100], [300], [1000]])
    model = PhysicsRegressor().fit(tokens, 0.02 + 0.003 * tokens[:, 0])
    assert model.coef_["1"] == pytest.approx(0.02)
    assert_allclose(model.predict([[100_000]]), [300.02], rtol=1e-3)


def test_decode_extrapolates_sixteenfold() -> None:
    model = PhysicsRegressor(family="decode").fit(DECODE_SITES, decode_law(*DECODE_SITES.T))
    far = np.array([[128, 8192]])
    assert_allclose(model.predict(far), decode_law(*far.T), rtol=0.02)


def test_small_and_large_times_weigh_alike() -> None:
    tokens = np.array([[1], [2], [3], [4000], [4001], [4002]])
    measured = np.array([0.01, 0.01, 0.01, 40.0, 40.0, 40.0])
    assert_allclose(PhysicsRegressor().fit(tokens, measured).predict(tokens), measured, rtol=0.01)


@given(times)
def test_coefficients_are_positive_and_longer_work_never_gets_cheaper(measured: list[float]) -> None:
    tokens = np.array([[1], [7], [33], [64], [200], [513], [1024], [4096]])
    model = PhysicsRegressor().fit(tokens, measured)
    assert min(model.coef_.values()) > 0
    everywhere = model.predict(np.arange(1, 10_000, 7)[:, None])
    assert (np.diff(everywhere) >= -1e-9 * everywhere[1:]).all()


@pytest.mark.parametrize("seed", range(5))
def test_few_noisy_points_of_a_line_are_taken_for_a_line(seed: int) -> None:
    def law(tokens: np.ndarray) -> np.ndarray:
        return 0.02 + 1e-4 * tokens

    noise = np.exp(np.random.default_rng(seed).normal(scale=0.01, size=6))
    seen, unseen = np.array([[1], [4], [64], [256], [1024], [2048]]), np.array([[2], [128], [512]])
    model = PhysicsRegressor().fit(seen, law(seen[:, 0]) * noise)
    np.testing.assert_allclose(model.predict(unseen), law(unseen[:, 0]), rtol=0.04)

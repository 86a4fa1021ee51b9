from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls as scipy_nnls

from kvpred.predictors.nnls import nnls


@given(
    seed=st.integers(0, 2**32 - 1),
    n_rows=st.integers(3, 40),
    n_terms=st.integers(1, 6),
    magnitudes=st.floats(0.0, 4.0),
)
def test_it_solves_what_scipy_solves(seed: int, n_rows: int, n_terms: int, magnitudes: float) -> None:
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(n_rows, n_terms)) * 10.0 ** rng.uniform(-magnitudes, magnitudes, n_terms)
    target = rng.normal(size=n_rows)
    _, least = scipy_nnls(design / np.linalg.norm(design, axis=0), target)
    coef = nnls(design, target)
    assert np.all(coef >= 0)
    assert np.linalg.norm(design @ coef - target) == pytest.approx(least, rel=1e-8)


def test_well_posed_coefficients_equal_scipys() -> None:
    rng = np.random.default_rng(5)
    for _ in range(100):
        design, target = rng.normal(size=(20, 4)), rng.normal(size=20)
        np.testing.assert_allclose(nnls(design, target), scipy_nnls(design, target)[0], atol=1e-10)


def test_terms_of_any_magnitude_are_recovered() -> None:
    design = np.random.default_rng(0).uniform(size=(30, 3)) * [1.0, 1e6, 1e12]
    coef = np.array([0.05, 1.7e-4, 1.3e-8])
    np.testing.assert_allclose(nnls(design, design @ coef), coef, rtol=1e-9)


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e30])
def test_the_targets_unit_does_not_matter(unit: float) -> None:
    design = np.random.default_rng(0).uniform(size=(30, 3))
    np.testing.assert_allclose(nnls(design, design @ [1.0, 2.0, 3.0] * unit), np.array([1, 2, 3]) * unit)


def test_a_term_that_only_hurts_stays_out() -> None:
    assert nnls(np.array([[1.0, -1.0], [1.0, -2.0]]), np.array([1.0, 1.0])).tolist() == pytest.approx(
        [1.0, 0.0]
    )


def test_a_term_that_is_always_zero_gets_nothing() -> None:
    assert nnls(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([2.0, 2.0])).tolist() == pytest.approx(
        [2.0, 0.0]
    )


def test_twin_terms_share_their_job() -> None:
    column = np.array([[1.0], [2.0], [3.0]])
    assert nnls(np.hstack([column, column]), column[:, 0]).sum() == pytest.approx(1.0)


def test_nothing_to_explain_needs_nothing() -> None:
    assert nnls(np.eye(3), np.zeros(3)).tolist() == [0.0, 0.0, 0.0]

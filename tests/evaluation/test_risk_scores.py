"""Scores of probabilities, by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.metrics import log_loss as sklearn_log_loss

from kvpred.evaluation.risk_scores import auc, brier, calibration, log_loss, share_interval, skill

ONE = np.ones((1, 1))


@pytest.mark.parametrize(
    ("probability", "broken", "expected"),
    [
        pytest.param([0.2, 0.8], [0, 1], 1.0, id="the broken one is higher"),
        pytest.param([0.8, 0.2], [0, 1], 0.0, id="the kept one is higher"),
        pytest.param([0.3, 0.3, 0.3], [0, 1, 1], 0.5, id="all equal"),
        pytest.param([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1], 3.5 / 4, id="one tie of four pairs"),
        pytest.param([0.9, 0.1, 0.5], [1, 1, 0], 0.5, id="one of two pairs"),
    ],
)
def test_auc_is_the_share_of_pairs_in_order(
    probability: list[float], broken: list[int], expected: float
) -> None:
    number = np.zeros(len(broken), dtype=int)
    (found,) = auc(np.array(probability), np.array(broken, dtype=bool), number, ONE)
    assert found == expected


@given(st.integers(0, 2**32 - 1))
def test_auc_is_scikit_learns_with_datasets_taken_several_times(seed: int) -> None:
    rng = np.random.default_rng(seed)
    number = rng.integers(4, size=60)
    probability, broken = rng.integers(5, size=60) / 4, rng.random(60) < 0.4
    weights = rng.integers(1, 4, size=(3, 4)).astype(float)
    expected = [roc_auc_score(broken, probability, sample_weight=row[number]) for row in weights]
    assert auc(probability, broken, number, weights) == pytest.approx(expected)


def test_auc_without_both_kinds_is_not_known() -> None:
    number = np.array([0, 0, 1])
    # The second draw takes the first dataset alone, in which nothing is broken.
    found = auc(np.array([0.1, 0.2, 0.3]), np.array([False, False, True]), number, np.array([[1, 1], [2, 0]]))
    assert found[0] == 1
    assert np.isnan(found[1])


def test_losses_are_scikit_learns() -> None:
    probability, broken = np.array([0.9, 0.2, 0.6, 0.05]), np.array([True, False, False, True])
    assert log_loss(probability, broken).mean() == pytest.approx(sklearn_log_loss(broken, probability))
    assert brier(probability, broken).mean() == pytest.approx(brier_score_loss(broken, probability))


def test_skill_is_the_share_of_the_loss_that_is_saved() -> None:
    loss, base, number = np.array([1.0, 1.0, 4.0]), np.array([2.0, 3.0, 4.0]), np.array([0, 0, 1])
    # 6 of 9; with the first dataset taken twice 8 of 14; the second alone 4 of 4.
    found = skill(loss, base, number, np.array([[1.0, 1.0], [2.0, 1.0], [0.0, 2.0]]))
    assert found == pytest.approx([3 / 9, 6 / 14, 0])


def test_calibration_bins_hold_equal_predictions_together() -> None:
    probability = np.repeat([0.1, 0.3, 0.7], [50, 30, 20])
    broken = np.concatenate([np.arange(50) < 4, np.arange(30) < 12, np.arange(20) < 15])
    found = [(one.requests, one.predicted, one.observed) for one in calibration(probability, broken)]
    assert found == [
        (50, pytest.approx(0.1), 4 / 50),
        (30, pytest.approx(0.3), 12 / 30),
        (20, pytest.approx(0.7), 15 / 20),
    ]


def interval(benign: list[int], broken: list[int]) -> tuple[float, float]:
    return share_interval(benign, broken, level=0.9, resamples=20000, rng=np.random.default_rng(0))


@pytest.mark.parametrize(("benign", "broken"), [(40, 10), (40, 0), (7, 7)])
def test_of_one_dataset_the_interval_is_jeffreys(benign: int, broken: int) -> None:
    low, high = beta.ppf([0.05, 0.95], broken + 0.5, benign - broken + 0.5)
    expected = (min(low, broken / benign), max(high, broken / benign))
    assert interval([benign], [broken]) == pytest.approx(expected, abs=0.005)


def test_datasets_that_differ_widen_the_interval() -> None:
    alike, apart = interval([50] * 6, [10] * 6), interval([50] * 6, [0, 0, 0, 20, 20, 20])
    assert apart[0] < alike[0] < 0.2 < alike[1] < apart[1]

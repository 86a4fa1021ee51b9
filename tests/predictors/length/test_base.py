"""Distributions of lengths: their quantiles, their mean, the probability of stopping."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.data.conversations import Turn
from kvpred.errors import DataError
from kvpred.predictors.length.base import (
    LEVELS,
    LengthDistributions,
    check_enough,
    conversation_weights,
    fold_of,
)


def uniform(most: float, *, limit: float = np.inf) -> LengthDistributions:
    """Every length up to `most` alike."""
    thresholds = np.linspace(0, most, 11)[1:-1]
    return LengthDistributions.from_shares(thresholds[None] / most, thresholds, most=most, limit=limit)


def test_a_uniform_distribution_has_its_mean_and_quantiles() -> None:
    found = uniform(200)
    np.testing.assert_allclose(found.mean, [100])
    np.testing.assert_allclose(found.median, [100])
    np.testing.assert_allclose(found.quantiles[0], 200 * LEVELS)
    assert [bound[0] for bound in found.interval(0.8)] == pytest.approx([20, 180])


def test_stopping_is_known_up_to_where_answers_were_cut() -> None:
    found = uniform(200, limit=150)
    assert found.stopped_by(50)[0] == pytest.approx(0.25)
    assert found.stopped_by(150)[0] == pytest.approx(0.75)
    assert np.isnan(found.stopped_by(151)[0])


@given(st.lists(st.floats(1, 5000), min_size=len(LEVELS), max_size=len(LEVELS)), st.floats(0, 6000))
def test_a_longer_limit_is_never_less_likely_to_be_kept(quantiles: list[float], tokens: float) -> None:
    found = LengthDistributions(np.sort([quantiles]), np.array([100.0]))
    first, second = found.share_below(np.array([tokens]))[0], found.share_below(np.array([tokens + 10]))[0]
    assert 0 <= first <= second <= 1


@given(st.floats(0.025, 0.975))
def test_the_share_below_a_quantile_is_its_level(level: float) -> None:
    found = uniform(1000)
    assert found.share_below(found.quantile(level))[0] == pytest.approx(level)


def test_folds_depend_on_the_name_alone_and_are_about_even() -> None:
    folds = np.array([fold_of(f"conversation {number}", 3) for number in range(3000)])
    assert np.bincount(folds).min() > 900
    assert fold_of("conversation 7", 3) == folds[7]


def test_a_conversation_never_counts_for_more_than_ten_answers(turns: list[Turn]) -> None:
    many = [turns[0]] * 62 + [turns[-1]]
    weights = conversation_weights(many)
    assert weights[:-1].sum() == pytest.approx(10)
    assert weights[-1] == 1


def test_nineteen_conversations_are_too_few(turns: list[Turn]) -> None:
    groups = sorted({turn.group for turn in turns})[:19]
    with pytest.raises(DataError, match="19 conversations"):
        check_enough([turn for turn in turns if turn.group in groups])


def test_a_cap_takes_the_tail_from_the_mean() -> None:
    # The integral of 1 - t / 200 from 0 to 100; the outermost quantiles are linear to their ends only nearly.
    np.testing.assert_allclose(uniform(200).mean_up_to(100), [75.0], rtol=0.01)
    np.testing.assert_allclose(uniform(200).mean_up_to(1000), [100.0], rtol=0.01)

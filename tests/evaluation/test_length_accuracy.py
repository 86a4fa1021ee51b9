"""Scores of predicted lengths against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.data.conversations import Message, Turn
from kvpred.evaluation.length_accuracy import (
    CONSTANT,
    Truth,
    best_constant,
    constant_baseline,
    length_scores,
    published_accuracy,
    ratio_scores,
)
from kvpred.evaluation.length_comparison import compare_lengths
from kvpred.evaluation.length_totals import total_errors
from kvpred.predictors.length.base import LEVELS, LengthDistributions, pinball


def answers(tokens: list[int], groups: list[int] | None = None, cut: tuple[int, ...] = ()) -> list[Turn]:
    messages = (Message("user", "Name a river."),)
    places = groups or list(range(len(tokens)))
    return [
        Turn(f"c{g}", f"c{g}", 0, messages, 4, n, censored=i in cut, first=i == 0 or places[i - 1] != g)
        for i, (n, g) in enumerate(zip(tokens, places, strict=True))
    ]


def exactly(points: list[float]) -> LengthDistributions:
    mean = np.array(points, dtype=np.float64)
    return LengthDistributions(np.repeat(mean[:, None], len(LEVELS), axis=1), mean)


def value(scores, metric: str, *, model: str = "m", turns: str = "all") -> float:
    (found,) = [s.value for s in scores if (s.metric, s.model, s.turns) == (metric, model, turns)]
    return found


def test_scores_match_a_count_by_hand() -> None:
    scores = length_scores(answers([10, 100, 200, 300], cut=(3,)), {"m": exactly([20, 90, 200, 260])})

    assert value(scores, "mae") == pytest.approx((10 + 10 + 0 + 40) / 4)
    assert value(scores, "mae_uncut") == pytest.approx(20 / 3)
    assert value(scores, "median_error") == 10
    assert value(scores, "tau") == 1
    assert value(scores, "bias_mean") == pytest.approx((570 - 610) / 610)
    assert value(scores, "paper_accuracy") == pytest.approx((0 + 90 + 100 + 100 * 260 / 300) / 4)
    assert value(scores, "paper_loss_short") == pytest.approx(100 / (100 + 10 + 100 * 40 / 300))
    assert np.isnan(value(scores, "total_mean_random"))


def test_a_cut_answer_is_covered_if_the_interval_reaches_it() -> None:
    truth = Truth.of(answers([50, 50], cut=(0,)))

    covered, _ = ratio_scores(truth, exactly([80, 80]))["coverage"]

    assert covered.tolist() == [1, 0]


def test_pinball_of_one_answer_by_hand() -> None:
    assert pinball(np.array([30.0]), exactly([20.0]).quantiles) == pytest.approx(10 * LEVELS.mean())


def test_one_word_answers_rule_the_published_accuracy() -> None:
    assert published_accuracy(np.array([1.0]), np.array([101.0])) == -9900
    # Weights 1, 1/2, 1/100: half of their sum is reached at the first.
    assert best_constant(np.array([100.0, 1.0, 2.0])) == 1


@given(st.lists(st.integers(1, 1000), min_size=4, max_size=12, unique=True))
def test_a_perfect_predictor_misses_nothing(tokens: list[int]) -> None:
    truth, perfect = Truth.of(answers(tokens)), exactly([float(n) for n in tokens])

    found = {
        name: above.sum() / max(below.sum(), 1)
        for name, (above, below) in ratio_scores(truth, perfect).items()
    }

    assert (found["mae"], found["bias_mean"], found["coverage"], found["width"]) == (0, 0, 1, 0)
    assert found["paper_accuracy"] == 100


def test_the_constant_is_learnt_from_other_folds() -> None:
    constant = constant_baseline(answers([10, 20, 90, 110]), np.array([0, 0, 1, 1]))

    assert constant.mean.tolist() == [100, 100, 15, 15]


def test_resampling_never_splits_a_conversation() -> None:
    truth = Truth.of(answers([1, 2, 3, 4], groups=[0, 0, 0, 1]))
    drawn = truth.draws(50, seed=1)

    counts = drawn[:, truth.group]

    assert (counts[:, :3] == counts[:, :1]).all()
    assert (drawn.sum(axis=1) == 2).all()


def test_intervals_hold_the_population_value_about_as_often_as_they_say() -> None:
    inside = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        # The error is shared by a conversation's answers: mean |error| of N(0, 20) is 20 * sqrt(2 / pi).
        error = np.repeat(rng.normal(0, 20, 80), 3)
        truth = Truth(np.full(240, 500.0), np.zeros(240, dtype=bool), np.repeat(np.arange(80), 3))
        sums = truth.draws(400, seed) @ truth.sums(np.abs(error))
        low, high = np.quantile(sums / 240, (0.025, 0.975))
        inside += low <= 20 * np.sqrt(2 / np.pi) <= high

    assert 51 <= inside <= 60


def test_whole_conversations_fill_a_group() -> None:
    group = np.repeat(np.arange(4), 30)

    errors = total_errors(np.full(120, 10.0), np.full(120, 11.0), group, whole=True, repeats=1)

    assert errors == pytest.approx([0.1, 0.1])


def test_a_clearly_better_model_is_called_so() -> None:
    turns = answers(list(range(100, 160)))
    near, far = exactly([n + 1.0 for n in range(100, 160)]), exactly([n + 50.0 for n in range(100, 160)])

    found = compare_lengths(turns, {"near": near, "far": far, "same": near})

    verdicts = {(c.model, c.other): c.verdict for c in found if c.metric == "mae" and c.turns == "all"}
    assert verdicts == {("near", "far"): "better", ("near", "same"): "no different", ("far", "same"): "worse"}


def test_skill_of_the_constant_over_itself_is_none() -> None:
    turns = answers([10, 20, 90, 110])

    scores = length_scores(turns, {CONSTANT: constant_baseline(turns, np.array([0, 1, 0, 1]))})

    assert value(scores, "skill", model=CONSTANT) == 0

"""Finished models: held-out answers, corrected intervals, shifts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kvpred.data.conversations import Turn
from kvpred.errors import DataError
from kvpred.predictors.length.base import LengthDistributions
from kvpred.predictors.length.model import LengthModel, shifted
from kvpred.predictors.length.recalibration import Recalibration
from kvpred.predictors.length.shift import LengthShift

SHIFT = LengthShift("h2o", 1.25, 1.15, 1.35, 0.9, "transferred", "invented", True)


def covered(found: LengthDistributions, turns: list[Turn], level: float = 0.9) -> float:
    tokens = np.array([turn.response_tokens for turn in turns])
    low, high = found.interval(level)
    return float(np.mean((low <= tokens) & (tokens <= high)))


def test_intervals_of_new_conversations_hold_about_what_they_say(
    model: LengthModel, new_turns: list[Turn]
) -> None:
    found = model.distributions([turn.messages for turn in new_turns])
    assert 0.85 <= covered(found, new_turns) <= 0.96


def test_far_too_narrow_predictions_are_widened(turns: list[Turn], new_turns: list[Turn]) -> None:
    def narrow(answers: list[Turn]) -> LengthDistributions:
        spread = np.linspace(-20, 20, 13)
        return LengthDistributions(
            np.maximum(100 + spread + np.zeros((len(answers), 1)), 1), np.full(len(answers), 50.0)
        )

    corrected = Recalibration.fit(narrow(turns), turns)
    assert covered(narrow(new_turns), new_turns) < 0.3
    assert corrected.read_at[1] < 0.05 and corrected.read_at[-2] > 0.95
    total = sum(turn.response_tokens for turn in new_turns)
    assert corrected.apply(narrow(new_turns)).mean.sum() == pytest.approx(total, rel=0.1)


def test_answers_learnt_from_are_judged_out_of_fold(model: LengthModel, turns: list[Turn]) -> None:
    seen = model.distributions([turn.messages for turn in turns])
    tokens = np.array([turn.response_tokens for turn in turns])
    held_out = model.held_out(turns)
    assert np.abs(held_out.median - tokens).mean() > np.abs(seen.median - tokens).mean()


def test_new_and_known_answers_can_be_judged_together(
    model: LengthModel, turns: list[Turn], new_turns: list[Turn]
) -> None:
    new = [replace(turn, piece=f"new{turn.piece}", group=f"new{turn.group}") for turn in new_turns[:5]]
    found = model.held_out([turns[0], *new])
    np.testing.assert_array_equal(found.mean[1:], model.distributions([turn.messages for turn in new]).mean)
    np.testing.assert_array_equal(found.mean[:1], model.held_out(turns[:1]).mean)


def test_an_unknown_answer_of_a_known_conversation_cannot_be_judged(
    model: LengthModel, turns: list[Turn]
) -> None:
    with pytest.raises(DataError, match="neither new nor held out"):
        model.held_out([replace(turns[0], index=98)])


def test_a_shift_scales_and_widens(model: LengthModel, turns: list[Turn]) -> None:
    asked = [turns[0].messages]
    plain, other = model.estimates(asked)[0], model.estimates(asked, shift=SHIFT)[0]
    assert other.mean_tokens == pytest.approx(1.25 * plain.mean_tokens)
    assert other.median_tokens == pytest.approx(1.25 * plain.median_tokens)
    assert other.high_tokens / other.low_tokens > plain.high_tokens / plain.low_tokens
    assert (plain.method, plain.basis) == ("fp16", "calibrated")
    assert other.method.startswith("h2o") and other.basis == "transferred"
    assert other.limit_tokens == pytest.approx(1.25 * plain.limit_tokens)


def test_a_certain_shift_of_one_changes_nothing(model: LengthModel, turns: list[Turn]) -> None:
    found = model.distributions([turn.messages for turn in turns[:20]])
    same = shifted(found, replace(SHIFT, multiplier=1.0, low=1.0, high=1.0))
    np.testing.assert_allclose(same.quantiles, found.quantiles)

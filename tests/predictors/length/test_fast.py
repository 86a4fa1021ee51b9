"""The fast predictor: better than a constant on new conversations, and the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kvpred.data.conversations import Message, Turn
from kvpred.errors import DataError
from kvpred.predictors.length.fast import FastPredictor
from kvpred.predictors.length.model import LengthModel
from tests.predictors.length.conftest import CUT, invented_turns


def error(median: np.ndarray, turns: list[Turn]) -> float:
    return float(np.abs(median - [turn.response_tokens for turn in turns]).mean())


def test_new_conversations_are_predicted_far_better_than_by_a_constant(
    model: LengthModel, turns: list[Turn], new_turns: list[Turn]
) -> None:
    constant = np.median([turn.response_tokens for turn in turns])
    found = model.distributions([turn.messages for turn in new_turns])
    assert error(found.median, new_turns) < 0.65 * error(np.full(len(new_turns), constant), new_turns)


def test_history_tells_the_chatty_from_the_terse(model: LengthModel) -> None:
    ask = Message("user", "Write a long essay about bees.")
    chatty, terse = Message("assistant", "word " * 390), Message("assistant", "word " * 60)
    found = model.distributions([(ask, chatty, ask), (ask, terse, ask)])
    assert found.median[0] > 2 * found.median[1]


def test_summed_means_are_right_where_summed_medians_are_low(
    model: LengthModel, new_turns: list[Turn]
) -> None:
    found = model.distributions([turn.messages for turn in new_turns])
    total = sum(turn.response_tokens for turn in new_turns)
    assert abs(found.mean.sum() / total - 1) < 0.1
    assert found.median.sum() < found.mean.sum()


def test_what_was_cut_is_known_as_the_limit(model: LengthModel) -> None:
    assert model.predictor.limit_ == CUT
    assert FastPredictor().fit(invented_turns(40, cut=None)).limit_ == np.inf


def test_the_same_data_and_seed_give_the_same_model(turns: list[Turn], tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        FastPredictor().fit(turns[:150]).save(tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_a_saved_predictor_predicts_the_same(model: LengthModel, turns: list[Turn], tmp_path: Path) -> None:
    model.predictor.save(tmp_path)
    asked = [turn.messages for turn in turns]
    found = FastPredictor.load(tmp_path).predict(asked)
    np.testing.assert_array_equal(found.quantiles, model.predictor.predict(asked).quantiles)
    np.testing.assert_array_equal(found.mean, model.predictor.predict(asked).mean)


def test_too_few_conversations_are_refused() -> None:
    with pytest.raises(DataError, match="at least 20"):
        FastPredictor().fit(invented_turns(12))


def test_the_share_that_reaches_a_cap_is_kept(turns: list[Turn]) -> None:
    capped = invented_turns(150, cut=150)
    share = np.mean([turn.censored for turn in capped])
    found = FastPredictor().fit(capped).predict([turn.messages for turn in capped])
    assert np.mean(1 - found.stopped_by(149)) == pytest.approx(share, abs=0.08)

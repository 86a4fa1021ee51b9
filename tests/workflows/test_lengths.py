"""Models of lengths from files of conversations: what they state, and which answers can judge them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from kvpred.data.conversations import Turn
from kvpred.errors import DataError
from kvpred.predictors.length.model import LengthModel
from kvpred.workflows.lengths import Answered, Training, judge_lengths, read_answered, train_length
from tests.predictors.length.conftest import invented_turns

SIDES = {"user": "human", "assistant": "gpt"}


def write(path: Path, conversations: Mapping[str, Turn]) -> Path:
    """Write conversations in ShareGPT's shape, by id, each from its last turn."""
    found = []
    for name, turn in conversations.items():
        said = [{"from": SIDES[message.role], "value": message.content} for message in turn.messages]
        answer = {"from": "gpt", "value": " ".join(["word"] * turn.response_tokens)}
        found.append({"id": name, "conversations": [*said, answer]})
    path.write_text(json.dumps(found))
    return path


@pytest.fixture(scope="module")
def last() -> dict[str, Turn]:
    """Whole conversations by their first piece's id: their last turns."""
    turns = {turn.piece: turn for turn in invented_turns(80)}
    return {f"made{number:03d}_0": turn for number, turn in enumerate(turns.values())}


@pytest.fixture(scope="module")
def learnt(last: dict[str, Turn], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("learnt") / "conversations.json", last)


@pytest.fixture(scope="module")
def model(learnt: Path) -> LengthModel:
    return train_length(Answered([learnt]), Training(n_folds=2))


def test_a_model_states_its_accuracy_and_its_domain(model: LengthModel, learnt: Path) -> None:
    turns = read_answered(Answered([learnt])).turns
    tokens = np.array([turn.response_tokens for turn in turns])
    miss = np.abs(model.held_out(turns).median - tokens).mean()
    assert model.facts["accuracy"]["mae_tokens"] == pytest.approx(miss, abs=1e-5)
    assert model.facts["accuracy"]["interval_level"] == 0.9
    assert 0.8 < model.facts["accuracy"]["coverage"] <= 1
    assert model.facts["domain"]["response_tokens"] == [tokens.min(), tokens.max()]
    assert model.facts["domain"]["messages"][0] == 1


def test_other_answers_of_conversations_learnt_from_are_left_out_and_counted(
    model: LengthModel, last: dict[str, Turn], tmp_path: Path
) -> None:
    first, second, third = list(last.values())[:3]
    asked = {"made000_0": first, "made001_7": second, "new0000_0": third}
    path = write(tmp_path / "asked.json", asked)
    answers = read_answered(Answered([path])).turns
    judged = judge_lengths(Answered([path]), [(Path("bundle"), model)])
    left_out = sum(turn.piece == "made001_7" for turn in answers)
    assert {turn.piece for turn in judged.table.turns} == {"made000_0", "new0000_0"}
    assert len(judged.predicted["lightgbm"]) == len(judged.folds) == len(answers) - left_out
    assert judged.notes[0].startswith(f"{left_out} of {len(answers)} answers are left out")


def test_nothing_left_to_judge_is_refused(model: LengthModel, last: dict[str, Turn], tmp_path: Path) -> None:
    path = write(tmp_path / "asked.json", {"made001_7": last["made001_0"]})
    with pytest.raises(DataError, match="neither new nor held out"):
        judge_lengths(Answered([path]), [(Path("bundle"), model)])

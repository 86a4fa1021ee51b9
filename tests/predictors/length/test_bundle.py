"""Bundles of lengths: they predict the same when opened, and damage is found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kvpred
from kvpred.data.conversations import Turn
from kvpred.errors import DataError, UsageError
from kvpred.predictors import bundle as throughput
from kvpred.predictors.length import bundle
from kvpred.predictors.length.crossfit import cross_fit
from kvpred.predictors.length.model import LengthModel
from kvpred.predictors.length.stacked import StackedPredictor


@pytest.fixture
def saved(model: LengthModel, tmp_path: Path) -> Path:
    bundle.save(model, tmp_path / "lengths")
    return tmp_path / "lengths"


def test_a_bundle_predicts_what_the_model_did(saved: Path, model: LengthModel, turns: list[Turn]) -> None:
    opened = kvpred.load(saved)
    assert isinstance(opened, LengthModel)
    asked = [turn.messages for turn in turns]
    np.testing.assert_array_equal(opened.distributions(asked).quantiles, model.distributions(asked).quantiles)
    np.testing.assert_allclose(opened.held_out(turns).mean, model.held_out(turns).mean, atol=0.1)
    assert (opened.groups, opened.provenance) == (model.groups, model.provenance)


def test_a_bundle_states_what_it_rests_on(model: LengthModel, tmp_path: Path) -> None:
    facts = {"answers": 3, "accuracy": {"mae_tokens": 50.0}, "domain": {"prompt_tokens": [1, 9]}}
    bundle.save(replace(model, facts=facts), tmp_path / "lengths")
    index = json.loads((tmp_path / "lengths" / "bundle.json").read_text())
    assert (index["basis"], index["facts"]) == ("calibrated", {"answers": 3})
    assert (index["accuracy"], index["domain"]) == (facts["accuracy"], facts["domain"])
    assert bundle.load(tmp_path / "lengths").facts == facts


def test_a_bundle_without_them_is_read_too(saved: Path) -> None:
    index = json.loads((saved / "bundle.json").read_text())
    assert "accuracy" not in index and "domain" not in index
    assert bundle.load(saved).facts == {}


def test_nothing_that_was_said_is_in_a_bundle(saved: Path, turns: list[Turn]) -> None:
    text = "".join(path.read_text() for path in saved.rglob("*") if path.is_file())
    assert "long essay" not in text and "clocks" not in text


def test_the_packaged_bundle_is_small_and_needs_no_torch() -> None:
    size = sum(path.stat().st_size for path in kvpred.PACKAGED_LENGTHS.rglob("*") if path.is_file())
    assert size < 3e6
    assert bundle.load(kvpred.PACKAGED_LENGTHS).name == "lightgbm"


def test_a_changed_file_is_refused(saved: Path) -> None:
    file = saved / "predictor" / "lightgbm.txt"
    file.write_text(file.read_text().replace("leaf_value", "leaf_velue", 1))
    with pytest.raises(DataError, match=r"lightgbm\.txt.*changed"):
        kvpred.load(saved)


def test_a_missing_file_is_refused(saved: Path) -> None:
    (saved / "out_of_fold.csv").unlink()
    with pytest.raises(DataError, match=r"out_of_fold\.csv.*incomplete"):
        kvpred.load(saved)


def test_a_bundle_of_another_kind_is_named(saved: Path) -> None:
    with pytest.raises(UsageError, match="kind length, expected one of the kind throughput"):
        throughput.load(saved)
    with pytest.raises(UsageError, match="kind throughput, expected one of the kind length"):
        bundle.load(kvpred.PACKAGED)


def test_a_stack_saves_both_and_learns_from_the_base_out_of_fold(
    model: LengthModel, turns: list[Turn], tmp_path: Path
) -> None:
    stacked = cross_fit(lambda part: StackedPredictor(model), turns, n_folds=3, provenance="invented")
    bundle.save(stacked, tmp_path / "stacked")
    opened = bundle.load(tmp_path / "stacked")
    asked = [turn.messages for turn in turns[:30]]
    np.testing.assert_allclose(
        opened.distributions(asked).quantiles, stacked.distributions(asked).quantiles, rtol=1e-6
    )
    tokens = np.array([turn.response_tokens for turn in turns])
    errors = [np.abs(m.held_out(turns).median - tokens).mean() for m in (stacked, model)]
    assert errors[0] < 1.1 * errors[1]


def test_a_stack_on_other_answers_is_refused(model: LengthModel, new_turns: list[Turn]) -> None:
    strangers = [turn for turn in new_turns if model.out_of_fold.rows([turn])[0] < 0]
    with pytest.raises(DataError, match="was not trained on"):
        StackedPredictor(model).fit(strangers)

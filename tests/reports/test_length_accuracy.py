"""The report on predicted lengths."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kvpred.data.conversations import Message, Turn
from kvpred.predictors.length.base import LEVELS, LengthDistributions
from kvpred.reports.length_accuracy import LengthAccuracy, length_accuracy, length_record, length_sheets
from kvpred.reports.length_figures import length_figures


@pytest.fixture(scope="module")
def found() -> LengthAccuracy:
    """Sixty answers of thirty conversations, and a model that knows them to a tenth."""
    tokens = np.random.default_rng(0).integers(5, 500, 60)
    messages = (Message("user", "Name a lake."),)
    turns = [
        Turn(f"c{i // 2}", f"c{i // 2}", 2 * (i % 2), messages, 4, int(n), first=i % 2 == 0)
        for i, n in enumerate(tokens)
    ]
    near = LengthDistributions(np.outer(tokens, 1 + 0.2 * (LEVELS - 0.5)), tokens.astype(np.float64))
    return length_accuracy(turns, {"near": near}, np.arange(60) // 2 % 3)


def test_tables_have_a_row_per_turns_and_model(found: LengthAccuracy) -> None:
    accuracy = length_sheets(found)[0]

    assert [row[:2] for row in accuracy.rows] == [
        (turns, model) for turns in ("all", "first", "later") for model in ("constant", "near")
    ]


def test_the_record_is_plain_json_without_nan(found: LengthAccuracy) -> None:
    assert "scores" in json.loads(json.dumps(length_record(found), allow_nan=False))


def test_every_figure_has_its_data(found: LengthAccuracy) -> None:
    pytest.importorskip("plotly")

    figures, data = length_figures(found.turns, found.predicted)

    assert {name for figure in figures for name in figure.sheets} == {table.name for table in data}
    assert all(table.rows for table in data)

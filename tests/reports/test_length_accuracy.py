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


def test_totals_are_summed_up_rather_than_listed(found: LengthAccuracy) -> None:
    pytest.importorskip("plotly")

    totals = next(
        table for table in length_figures(found.turns, found.predicted)[1] if table.name == "totals"
    )
    near = [row for row in totals.records() if row["model"] == "near"]

    assert [(row["sum_of"], row["groups"]) for row in near] == [
        ("mean", "random"), ("mean", "conversations"), ("median", "random"), ("median", "conversations")
    ]  # fmt: skip
    assert all(abs(row["off"]) < 1e-12 and row["q0.05"] <= row["q0.5"] <= row["q0.95"] for row in near)


def test_the_title_of_predicted_against_true_says_how_far_predictions_tell_answers_apart(
    found: LengthAccuracy,
) -> None:
    pytest.importorskip("plotly")

    figures, data = length_figures(found.turns, found.predicted)
    finding = next(figure.finding for figure in figures if figure.name == "predicted_true")
    trues = [row["true"] for table in data if table.name == "predicted_true" for row in table.records()]

    assert finding.endswith(f"near {trues[0]:.0f} to {trues[-1]:.0f} tokens")

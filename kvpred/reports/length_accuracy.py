"""The accuracy of predicted response lengths as tables, as one JSON object, and as a folder with a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kvpred.data.conversations import Turn
from kvpred.evaluation.length_accuracy import (
    CONSTANT,
    SHORT_TOKENS,
    Ints,
    Score,
    Truth,
    best_constant,
    constant_baseline,
    length_scores,
    published_accuracy,
)
from kvpred.evaluation.length_comparison import Comparison, compare_lengths
from kvpred.predictors.length.base import LengthDistributions
from kvpred.reports.folder import Written, write_report
from kvpred.reports.length_figures import length_figures
from kvpred.reports.sheets import Column, Sheet, decimal, percent, sheet, signed_percent

_TURNS, _MODEL = Column("turns", "Turns"), Column("model", "Model")
_ACCURACY = (
    Column("mae", "MAE, tokens", decimal),
    Column("skill", "Skill over constant %", percent),
    Column("median_error", "Median error, tokens", decimal),
    Column("tau", "Kendall τ", decimal),
    Column("rmse_log", "RMSE of log", decimal),
    Column("pinball", "Pinball, tokens", decimal),
    Column("mae_uncut", "MAE, uncut", decimal),
)
_DISTRIBUTION = (
    Column("coverage", "90 % interval covers %", percent),
    Column("width", "Width, tokens", decimal),
    Column("bias_mean", "Bias of summed mean %", signed_percent),
    Column("bias_median", "of summed median %", signed_percent),
    Column("total_mean_random", "Total of 50, random %", percent),
    Column("total_mean_conversations", "conversations %", percent),
)
_PAPER = (
    Column("paper_accuracy", "Paper's accuracy", decimal),
    Column("paper_accuracy_clipped", "clipped at 0", decimal),
    Column("paper_negative", "Below 0 %", percent),
    Column("short_answers", f"Answers < {SHORT_TOKENS} tokens %", percent),
    Column("paper_loss_short", "their part of the loss %", percent),
)


@dataclass(frozen=True, slots=True, eq=False)
class LengthAccuracy:
    """What is known of some models' accuracy; made by `length_accuracy`."""

    turns: Sequence[Turn]
    predicted: Mapping[str, LengthDistributions]
    scores: tuple[Score, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]


def length_accuracy(
    turns: Sequence[Turn],
    predicted: Mapping[str, LengthDistributions],
    folds: Ints,
    *,
    notes: Sequence[str] = (),
    seed: int = 0,
) -> LengthAccuracy:
    """Score and compare models, a constant learnt from the other folds among them.

    Parameters
    ----------
    turns : sequence of Turn
    predicted : mapping of str to LengthDistributions
        Of the same turns, held out, by model.
    folds : array of int, shape (n,)
        By conversation; for the constant.
    notes : sequence of str
        On where the predictions are from.
    seed : int
    """
    everyone = {CONSTANT: constant_baseline(turns, folds), **predicted}
    tokens = Truth.of(turns).tokens
    fixed = best_constant(tokens)
    own_notes = (
        "Intervals: 95 %, over resampled conversations with all their turns.",
        f"{sum(turn.censored for turn in turns):,} of {len(turns):,} answers were cut: they count with what "
        "is left of them, are covered if the interval reaches as far, and are left out of 'MAE, uncut'.",
        f"The paper's accuracy rewards guessing short: always saying {fixed:.0f} tokens scores "
        f"{published_accuracy(tokens, np.full(len(tokens), fixed)).mean():.1f}.",
    )
    return LengthAccuracy(
        turns,
        everyone,
        length_scores(turns, everyone, seed=seed),
        compare_lengths(turns, everyone, seed=seed),
        (*notes, *own_notes),
    )


def length_sheets(found: LengthAccuracy) -> list[Sheet]:
    """Return the tables that a terminal and the page show."""
    return [
        _wide("accuracy", "Accuracy of the predicted median", found, _ACCURACY),
        _wide("distribution", "Intervals, and totals over 50 requests", found, _DISTRIBUTION),
        _wide("paper", "The paper's accuracy is ruled by short answers", found, _PAPER),
        sheet(
            "comparison",
            "Every two models on the same answers: difference of the mean loss in tokens",
            (
                _TURNS,
                Column("metric", "Loss"),
                _MODEL,
                Column("other", "against"),
                Column("difference", "Difference", decimal),
                Column("low", "from", decimal),
                Column("high", "to", decimal),
                Column("verdict", "Model is"),
            ),
            [
                (c.turns, c.metric, c.model, c.other, c.difference, c.low, c.high, c.verdict)
                for c in found.comparisons
            ],
        ),
    ]


def scores_sheet(found: LengthAccuracy) -> Sheet:
    """Return every score with its interval."""
    columns = (
        _TURNS,
        _MODEL,
        Column("metric", "Score"),
        Column("value", "Value", decimal),
        Column("low", "from", decimal),
        Column("high", "to", decimal),
        Column("answers", "Answers", str),
        Column("conversations", "Conversations", str),
    )
    rows = [
        (s.turns, s.model, s.metric, *map(_known, (s.value, s.low, s.high)), s.answers, s.conversations)
        for s in found.scores
    ]
    return sheet("scores", "All scores with their intervals", columns, rows)


def length_record(found: LengthAccuracy) -> dict[str, Any]:
    """Return everything as one object that JSON can hold."""
    tables = (scores_sheet(found), length_sheets(found)[-1])
    return {"notes": list(found.notes), **{table.name: table.records() for table in tables}}


def write_length_report(found: LengthAccuracy, folder: Path) -> Written:
    """Write the page, its tables as CSV and its figures as PNG into a folder, in one step.

    Raises
    ------
    UsageError, MissingExtraError
        See `kvpred.reports.folder.write_report`.
    """
    figures, data = length_figures(found.turns, found.predicted)
    return write_report(
        folder,
        title="Accuracy of predicted response lengths",
        notes=found.notes,
        parts=[*length_sheets(found), *figures],
        data=[scores_sheet(found), *data],
    )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _wide(name: str, title: str, found: LengthAccuracy, columns: Sequence[Column]) -> Sheet:
    """Return one row per turns and model, one column per score."""
    by_row: dict[tuple[str, str], dict[str, float]] = {}
    for score in found.scores:
        by_row.setdefault((score.turns, score.model), {})[score.metric] = score.value
    rows = [(*key, *(_known(own[c.name]) for c in columns)) for key, own in by_row.items()]
    return sheet(name, title, (_TURNS, _MODEL, *columns), rows)

"""A calibration as terminal tables and as one JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from kvpred.evaluation.verdict import LearntMethod, LearntStage, LearntTerm, Verdict
from kvpred.reports.sheets import Column, Sheet, decimal, percent, sheet
from kvpred.reports.style import method_label

_METHOD, _STAGE = Column("method", "Method", method_label), Column("stage", "Stage")


def left_out_sheet(methods: Sequence[LearntMethod]) -> Sheet:
    """Return one row per method and stage: the error on left-out sites, beside noise and the copy of fp16."""
    columns = (
        _METHOD,
        _STAGE,
        Column("n_sites", "Sites", str),
        Column("n_runs", "Runs", str),
        Column("accuracy", "Accuracy %", percent),
        Column("copy", "Copy of fp16 %", percent),
        Column("skill", "Skill %", percent),
        Column("noise", "Noise %", percent),
        Column("half_width", "Interval ± %", percent),
        Column("inside", "Inside", str),
        Column("speedups", "Speed-ups", str),
        Column("right_signs", "Sign right", str),
    )
    names = [column.name for column in columns]
    rows = [[getattr(stage, name) for name in names] for method in methods for stage in method.stages]
    return sheet("left_out", "Each site left out once and predicted from the others", columns, rows)


def terms_sheet(methods: Sequence[LearntMethod]) -> Sheet:
    """Return one row per method, stage and term: what it costs, alone and on fp16's terms."""
    columns = (
        _METHOD,
        _STAGE,
        Column("term", "Term"),
        Column("seconds", "Cost µs", _microseconds),
        Column("seconds_error", "± µs", _microseconds),
        Column("multiplier", "Times fp16's", decimal),
        Column("multiplier_error", "±", decimal),
    )
    rows = [
        (stage.method, stage.stage, term.name, term.seconds, term.seconds_error, *_on_fp16(stage, term))
        for method in methods
        for stage in method.stages
        for term in stage.terms
    ]
    return sheet("terms", "What was learnt: cost of each term, with its standard error", columns, rows)


def verdict_sheet(methods: Sequence[LearntMethod]) -> Sheet:
    """Return one row per method: the word and its reason."""
    columns = (_METHOD, Column("word", "Verdict"), Column("reason", "Reason"))
    rows = [(method.method, method.verdict.word, method.verdict.reason) for method in methods]
    return sheet("verdicts", "Verdicts", columns, rows)


def calibration_sheets(methods: Sequence[LearntMethod]) -> list[Sheet]:
    """Return the tables that a terminal shows."""
    return [terms_sheet(methods), left_out_sheet(methods), verdict_sheet(methods)]


def calibration_record(
    methods: Sequence[LearntMethod],
    *,
    verdict: Verdict,
    level: float,
    next_run: dict[str, Any] | None,
    notes: Sequence[str],
    bundle: str,
) -> dict[str, Any]:
    """Return everything as one object that JSON can hold."""
    return {
        "bundle": bundle,
        "verdict": verdict.word,
        "reason": verdict.reason,
        "next_run": next_run,
        "interval_level": level,
        "methods": [
            {"method": one.method, "verdict": one.verdict.word, "reason": one.verdict.reason}
            | {"stages": [asdict(stage) for stage in one.stages]}
            for one in methods
        ],
        "notes": list(notes),
    }


def _on_fp16(stage: LearntStage, term: LearntTerm) -> tuple[float | None, float | None]:
    """Return the multiplier and its error; for fp16 itself there is nothing to compare with."""
    own = stage.skill is None and term.multiplier == 1.0
    return (None, None) if own else (term.multiplier, term.multiplier_error)


def _microseconds(value: float) -> str:
    return f"{1e6 * value:,.3g}" if value < 1 else f"{1e6 * value:,.0f}"

"""What can be told beforehand of the requests that methods break, as tables and as one record per method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple
from math import isnan
from typing import Any

from kvpred.evaluation.length_shift import Bounded
from kvpred.evaluation.risk import BEATS, RiskStudy
from kvpred.reports.sheets import Column, Sheet, decimal, percent, sheet, signed_percent

_METHOD = Column("method", "Method")


def _interval(name: str, heading: str, show: Any) -> tuple[Column, ...]:
    return (
        Column(name, heading, show),
        Column(f"{name}_low", "from", show),
        Column(f"{name}_high", "to", show),
    )


_JUDGED = (
    _METHOD,
    Column("benign", "Benign", "{:,}".format),
    Column("share", "Broken %", percent),
    *_interval("auc", "AUC", decimal),
    Column("base_auc", "Base AUC", decimal),
    *_interval("skill", "Log-loss skill %", signed_percent),
    Column("brier_skill", "Brier skill %", signed_percent),
    Column("verdict", "Verdict"),
)
_SHARES = (
    _METHOD,
    Column("task", "Task type"),
    Column("datasets", "Datasets", str),
    Column("benign", "Benign", "{:,}".format),
    Column("broken", "Broken", "{:,}".format),
    *_interval("share", "Broken %", percent),
)
_BINS = (
    _METHOD,
    Column("requests", "Requests", "{:,}".format),
    Column("predicted", "Predicted %", percent),
    Column("observed", "Broken %", percent),
)


def risk_sheets(studies: Sequence[RiskStudy]) -> list[Sheet]:
    """Return the tables: predictions against the base rate, their calibration, and shares by task type.

    Parameters
    ----------
    studies : sequence of RiskStudy
        At least one; all of the same threshold, level and knowledge.
    """
    first = studies[0]
    known, level = ", ".join(first.known), f"{first.level:.0%} intervals over datasets"
    said = f"from {known}; broken: {first.threshold:.0%} of the score is lost; {level}"
    return [
        sheet(
            "risk",
            f"{_finding(studies)} ({said})",
            _JUDGED,
            [
                (
                    one.label,
                    one.shares[-1].benign,
                    one.shares[-1].share,
                    *_bounds(one.auc),
                    one.base_auc,
                    *_bounds(one.skill),
                    _bounds(one.brier_skill)[0],
                    one.verdict,
                )
                for one in studies
            ],
        ),
        sheet(
            "risk_calibration",
            "Held-out probabilities against what was broken",
            _BINS,
            [
                (one.label, each.requests, each.predicted, each.observed)
                for one in studies
                for each in one.bins
            ],
        ),
        sheet(
            "risk_shares",
            f"Requests that the baseline answers well and a method breaks ({level})",
            _SHARES,
            [
                (
                    one.label,
                    each.task,
                    each.datasets,
                    each.benign,
                    each.broken,
                    each.share,
                    each.low,
                    each.high,
                )
                for one in studies
                for each in one.shares
            ],
        ),
    ]


def _bounds(bounded: Bounded) -> list[float | None]:
    return [None if isnan(value) else value for value in astuple(bounded)]


def _finding(studies: Sequence[RiskStudy]) -> str:
    better = [one.label for one in studies if one.verdict == BEATS]
    if not better:
        return "Which requests break cannot be told beforehand better than by the base rate"
    if len(better) == len(studies):
        return "Which requests break can be told beforehand better than by the base rate"
    return f"Which requests break can be told beforehand better than by the base rate for {', '.join(better)}"


def risk_records(studies: Sequence[RiskStudy]) -> list[dict[str, Any]]:
    """Return everything as one record per method that JSON can hold."""
    return [
        {
            "run": one.run,
            "method": one.label,
            "known": list(one.known),
            "threshold": one.threshold,
            "auc": one.auc.value,
            "auc_interval": [one.auc.low, one.auc.high],
            "base_rate_auc": one.base_auc,
            "log_loss_skill": one.skill.value,
            "log_loss_skill_interval": [one.skill.low, one.skill.high],
            "brier_skill": one.brier_skill.value,
            "brier_skill_interval": [one.brier_skill.low, one.brier_skill.high],
            "interval_level": one.level,
            "verdict": one.verdict,
            "missing": list(one.missing),
            "shares": [asdict(each) | {"share": each.share} for each in one.shares],
            "calibration": [asdict(each) for each in one.bins],
        }
        for one in studies
    ]

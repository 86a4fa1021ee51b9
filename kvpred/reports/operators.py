"""Held-out errors of operator regressors as a table."""

from __future__ import annotations

from collections.abc import Sequence

from kvpred.predictors.operators.evaluate import HeldOutError
from kvpred.reports.sheets import Column, Sheet, sheet


def errors_sheet(errors: Sequence[HeldOutError]) -> Sheet:
    """Return one row per operator, split and regressor: relative errors beside those of rounding alone."""
    columns = (
        Column("operator", "Operator"),
        Column("split", "Held out"),
        Column("regressor", "Regressor"),
        Column("n_rows", "Rows", str),
        Column("median", "Median error %", _percent),
        Column("mean", "Mean error %", _percent),
        Column("median_rounding", "Of rounding alone %", _percent),
    )
    rows = [(e.operator, e.split, e.regressor, e.n_rows, e.median, e.mean, e.median_rounding) for e in errors]
    return sheet("operators", "Relative errors of operator times on rows that were held out", columns, rows)


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"

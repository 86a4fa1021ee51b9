"""What validating an operator profile found, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvpred.evaluation.held_out_operators import HALF, MOST_NOISE, OperatorError
from kvpred.evaluation.premise import ALL_SHARED, ATTENTION, MethodRatio
from kvpred.evaluation.profile_accuracy import HeldOutCell, ProfileAccuracy
from kvpred.evaluation.step_sums import StepSum
from kvpred.predictors.operators.evaluate import HeldOutError
from kvpred.reports.sheets import Column, Sheet, decimal, percent, sheet, signed_percent
from kvpred.reports.style import method_label

_CELL = (Column("method", "Method", method_label), Column("stage", "Stage"))
# Operators that take less of a step are left out of the terminal's list of those that miss.
_LEAST_SHARE = 0.01

NOTES = (
    "Repeat noise: standard deviation of one repeat over the median, at the held-out points. That of the "
    "median of all repeats, which is what a prediction is compared with, is smaller; it stands in the JSON "
    "and CSV output.",
    "Drift: by how much the same shared work differs between sites, which repeats within a site do not show.",
    "Shared operators are predicted from fp16's at other sites, for every method; attention's from the "
    "method's own. A shared operator's row pools all sites at which as many tokens pass.",
)


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


def profile_sheets(result: ProfileAccuracy) -> list[Sheet]:
    """Return everything that in-place profiles were found to be."""
    return [
        _sums_sheet(result.sums),
        _cells_sheet(result.cells(HALF)),
        _operators_sheet(result.operators),
        _premise_sheet(result.premise),
    ]


def shown_sheets(result: ProfileAccuracy) -> list[Sheet]:
    """Return what a terminal shows: sums, held-out halves in short and what misses, the premise in short."""
    missed = [
        one
        for one in result.operators
        if one.split == HALF and one.within is False and one.share >= _LEAST_SHARE
    ]
    sheets = [
        _sums_sheet(result.sums),
        _cells_sheet(result.cells(HALF)),
        _missed_sheet(missed),
        _premise_sheet([one for one in result.premise if one.operator in (ALL_SHARED, ATTENTION)]),
    ]
    return [one for one in sheets if one.rows]


def profile_records(result: ProfileAccuracy) -> list[dict[str, Any]]:
    """Return every row of every table as one flat object that names its table."""
    return [{"table": one.name} | record for one in profile_sheets(result) for record in one.records()]


def _sums_sheet(sums: Sequence[StepSum]) -> Sheet:
    columns = (
        *_CELL,
        Column("n_sites", "Sites", str),
        Column("operators", "Operators % of step", percent),
        Column("overhead_ms", "Overhead ms", decimal),
        Column("error", "Error of sum %", percent),
        Column("target", "Allowed %", percent),
        Column("within", "Within", _yes_no),
        Column("noise", "Step's repeat noise %", percent),
        Column("drift", "Drift between sites %", percent),
        Column("hooks", "Hooks add %", signed_percent),
    )
    rows = [
        (
            *(s.method, s.stage, s.n_sites, s.operators, s.overhead_ms, s.error, s.target, s.within),
            *(s.noise, s.drift, s.hooks),
        )
        for s in sums
    ]
    title = "Operators and an overhead against whole steps, the overhead from the other half of the sites"
    return sheet("sums", title, columns, rows)


def _cells_sheet(cells: Sequence[HeldOutCell]) -> Sheet:
    columns = (
        *_CELL,
        Column("split", "Held out"),
        Column("n_operators", "Operators", str),
        Column("n_within", f"Within {MOST_NOISE} x noise", str),
        Column("share_within", "Of their time %", percent),
        Column("n_within_drift", "With drift", str),
        Column("error", "Error, by time %", percent),
        Column("worst", "Errs most"),
    )
    rows = [
        (
            *(c.method, c.stage, c.split, c.n_operators, c.n_within, c.share_within, c.n_within_drift),
            *(c.error, c.worst),
        )
        for c in cells
    ]
    return sheet("held_out", "Operators at sites that their fits did not see", columns, rows)


def _missed_sheet(missed: Sequence[OperatorError]) -> Sheet:
    columns = (
        *_CELL,
        Column("operator", "Operator"),
        Column("n_points", "Points", str),
        Column("share", "% of step", percent),
        Column("error", "Median error %", percent),
        Column("noise_single", "Repeat noise %", percent),
        Column("of_noise", "Error / noise", decimal),
        Column("of_noise_and_drift", "Error / noise and drift", decimal),
    )
    rows = [
        (
            *(one.method, one.stage, one.operator, one.n_points, one.share, one.error),
            one.noise.single if one.noise is not None else None,
            one.of_noise,
            one.of_noise_and_drift,
        )
        for one in missed
    ]
    title = f"Operators of at least 1 % of the step that err by more than {MOST_NOISE} times the repeat noise"
    return sheet("missed", title, columns, rows)


def _operators_sheet(operators: Sequence[OperatorError]) -> Sheet:
    columns = (
        *_CELL,
        Column("operator", "Operator"),
        Column("split", "Held out"),
        Column("n_points", "Points", str),
        Column("share", "% of step", percent),
        Column("error", "Median error %", percent),
        Column("noise_single", "Repeat noise %", percent),
        Column("noise_median", "Of the median %", percent),
        Column("of_noise", "Error / noise", decimal),
        Column("within", "Within", _yes_no),
        Column("drift", "Drift %", percent),
        Column("of_noise_and_drift", "Error / noise and drift", decimal),
    )
    rows = [
        (
            *(one.method, one.stage, one.operator, one.split, one.n_points, one.share, one.error),
            one.noise.single if one.noise is not None else None,
            one.noise.median if one.noise is not None else None,
            one.of_noise,
            one.within,
            one.drift,
            one.of_noise_and_drift,
        )
        for one in operators
    ]
    return sheet("operators", "Operators at points that their fits did not see", columns, rows)


def _premise_sheet(ratios: Sequence[MethodRatio]) -> Sheet:
    columns = (
        *_CELL,
        Column("operator", "Operator"),
        Column("n_points", "Points", str),
        Column("share", "% of step", percent),
        Column("ratio", "Time / fp16's", decimal),
        Column("low", "From", decimal),
        Column("high", "To", decimal),
        Column("least", "Least", decimal),
        Column("most", "Most", decimal),
        Column("differs", "Differs", _yes_no),
        Column("of_step", "Of the step %", signed_percent),
    )
    rows = [
        (
            *(r.method, r.stage, r.operator, r.n_points, r.share, r.ratio, r.low, r.high, r.least, r.most),
            r.differs,
            r.of_step,
        )
        for r in ratios
    ]
    title = "Does only attention differ? Times under each method over those under fp16, at the same points"
    return sheet("premise", title, columns, rows)


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"

"""Shifts of response lengths as tables, as one JSON object, and as a folder with a page and its data."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

from kvpred.evaluation.length_shift import Bounded, Comparison, Spread
from kvpred.evaluation.length_shift_report import ShiftStudy
from kvpred.reports.folder import Written, write_report
from kvpred.reports.length_shift_figures import (
    density_figure,
    density_sheet,
    multiplier_figure,
    ratio_figure,
    setup_label,
    shares_figure,
)
from kvpred.reports.sheets import Column, Sheet, decimal, percent, sheet, signed_percent


def _three(value: float) -> str:
    return f"{value:.3f}"


def _known(value: float) -> float | None:
    """Return None for what is not known."""
    return None if isnan(value) else value


def _bounds(bounded: Bounded | None) -> tuple[float | None, ...]:
    if bounded is None:
        return None, None, None
    return _known(bounded.value), _known(bounded.low), _known(bounded.high)


def _spread(spread: Spread | None) -> tuple[float | None, ...]:
    return (None,) * 3 if spread is None else (spread.mean, spread.much_longer, spread.much_shorter)


def _interval(name: str, heading: str, show: Any) -> tuple[Column, ...]:
    return (
        Column(name, heading, show),
        Column(f"{name}_low", "from", show),
        Column(f"{name}_high", "to", show),
    )


_COLUMNS = (
    Column("study", "Study"),
    Column("method", "Method", setup_label),
    Column("temperature", "T", "{:g}".format),
    Column("against_temperature", "against T", "{:g}".format),
    Column("prompts", "Prompts", str),
    Column("pairs", "Pairs", str),
    *_interval("multiplier", "Multiplier", _three),
    Column("verdict", "Verdict"),
    Column("p", "p (Holm)", _three),
    Column("standard_error", "Standard error %", percent),
    Column("detectable", "Could find %", percent),
    Column("cut", "Cut %", percent),
    Column("cut_baseline", "Baseline cut %", percent),
    *_interval("uncut_multiplier", "Uncut multiplier", decimal),
    Column("longer", "Longer %", percent),
    Column("shorter", "Shorter %", percent),
    *_interval("longer_minus_shorter", "Longer − shorter %", signed_percent),
    Column("mean_d_same_seed", "Mean D, same seed %", signed_percent),
    Column("d_over_50_same_seed", "D ≥ 50 %, same seed %", percent),
    Column("d_under_minus_50_same_seed", "D ≤ −50 %, same seed %", percent),
    Column("mean_d_other_seed", "Mean D, other seed %", signed_percent),
    Column("d_over_50_other_seed", "D ≥ 50 %, other seed %", percent),
    Column("d_under_minus_50_other_seed", "D ≤ −50 %, other seed %", percent),
    Column("mean_d_floor", "Mean D of the floor %", signed_percent),
    Column("d_over_50_floor", "D ≥ 50 % of the floor %", percent),
    Column("d_under_minus_50_floor", "D ≤ −50 % of the floor %", percent),
    *_interval("excess_over_50", "Excess D ≥ 50 %", signed_percent),
    *_interval("excess_under_minus_50", "Excess D ≤ −50 %", signed_percent),
    Column("compression_ratio", "Compression ratio", decimal),
)
_TOTALS = (
    "method", "temperature", "prompts", "multiplier", "multiplier_low", "multiplier_high", "verdict",
    "detectable", "cut", "cut_baseline", "uncut_multiplier", "compression_ratio",
)  # fmt: skip
_SHARES = (
    "method", "temperature", "d_over_50_same_seed", "d_under_minus_50_same_seed", "d_over_50_other_seed",
    "d_over_50_floor", "excess_over_50", "excess_over_50_low", "excess_over_50_high",
    "d_under_minus_50_other_seed", "d_under_minus_50_floor", "excess_under_minus_50",
    "excess_under_minus_50_low", "excess_under_minus_50_high",
)  # fmt: skip


def shifts_sheet(study: ShiftStudy) -> Sheet:
    """Return one row per method and temperature, with everything; the floor's own row has no verdict."""
    rows = [] if study.floor is None else [_row(study, _NOISE_ROW, study.floor, floor=True)]
    rows += [
        _row(study, setup.method_params, found, temperature=setup.temperature)
        for setup, found in study.comparisons.items()
    ]
    return sheet(f"shift_{study.name}", study.sampled, _COLUMNS, rows)


_NOISE_ROW = "another seed"


def _row(
    study: ShiftStudy,
    method: str,
    found: Comparison,
    *,
    temperature: float | None = None,
    floor: bool = False,
) -> tuple[Any, ...]:
    own = study.baseline.temperature if temperature is None else temperature
    same_method = method in (study.baseline.method_params, _NOISE_ROW)
    return (
        study.name,
        method,
        own,
        study.baseline.temperature if same_method else own,
        found.n_prompts,
        found.n_pairs,
        *_bounds(found.multiplier),
        None if floor else found.verdict,
        None if floor else found.p,
        found.error,
        found.detectable,
        found.cut,
        found.base_cut,
        *_bounds(found.uncut),
        found.longer,
        found.shorter,
        *_bounds(found.sign),
        *_spread(None if floor else found.same),
        *_spread(found.other),
        *_spread(found.floor),
        *_bounds(None if floor else found.excess_longer),
        *_bounds(None if floor else found.excess_shorter),
        _known(found.compression),
    )


def _part(whole: Sheet, name: str, title: str, columns: Sequence[str]) -> Sheet:
    """Return some columns of a sheet, without those that hold nothing, or only what the title says."""
    usual = {"temperature": whole.rows[0][2]}
    kept = [
        number
        for wanted in columns
        for number, column in enumerate(whole.columns)
        if column.name == wanted and any(row[number] not in (None, usual.get(wanted)) for row in whole.rows)
    ]
    rows = [[row[number] for number in kept] for row in whole.rows]
    return sheet(name, title, [whole.columns[number] for number in kept], rows)


def shift_sheets(study: ShiftStudy) -> list[Sheet]:
    """Return the tables for people: totals, and shares of D."""
    whole = shifts_sheet(study)
    return [
        _part(whole, f"totals_{study.name}", f"{study.finding} ({study.sampled})", _TOTALS),
        _part(whole, f"shares_{study.name}", "Shares of answers much longer and much shorter", _SHARES),
    ]


def shift_record(study: ShiftStudy) -> dict[str, Any]:
    """Return everything as one object that JSON can hold."""
    return {
        "study": study.name,
        "model": study.model,
        "engine": study.engine,
        "baseline": study.baseline.method_params,
        "temperature": study.baseline.temperature,
        "interval_level": study.level,
        "prompts": study.n_prompts,
        "seeds": study.n_seeds,
        "caps": list(study.caps),
        "finding": study.finding,
        "smallest_detectable": study.detectable,
        "notes": list(study.notes),
        "shifts": shifts_sheet(study).records(),
    }


def write_shift_report(studies: Sequence[ShiftStudy], folder: Path) -> Written:
    """Write the page, its tables as CSV and its figures as PNG into a folder, in one step.

    Raises
    ------
    UsageError, MissingExtraError
        See `kvpred.reports.folder.write_report`.
    """
    parts: list[Any] = []
    for study in studies:
        totals, shares = shift_sheets(study)
        ratios = any(not isnan(found.compression) for found in study.methods.values())
        parts += [totals, multiplier_figure(study), shares, shares_figure(study), density_figure(study)]
        parts += [ratio_figure(study)] if ratios else []
    several = len(studies) > 1
    return write_report(
        folder,
        title="Do compressed models answer at greater length?",
        notes=[f"{study.sampled}: {note}" if several else note for study in studies for note in study.notes],
        parts=parts,
        data=[table for study in studies for table in (shifts_sheet(study), density_sheet(study))],
    )

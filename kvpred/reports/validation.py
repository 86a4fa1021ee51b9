"""A validation as terminal tables, as one JSON object, and as a folder with a page and its data."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from kvpred.evaluation.validation import Validation
from kvpred.reports import accuracy_sheets as sheets
from kvpred.reports.accuracy import write_accuracy_report
from kvpred.reports.folder import Written
from kvpred.reports.sheets import Sheet


def validation_sheets(result: Validation) -> list[Sheet]:
    """Return the tables that a terminal shows: summary, by method and stage, intervals, ranking, few-shot."""
    shown = [
        sheets.summary_sheet(result.report),
        sheets.cells_sheet(result.report),
        sheets.intervals_sheet(result.report),
        sheets.ranking_sheet(result.report),
        sheets.worst_sheet(result.report),
    ]
    if result.few_shot is not None:
        shown.append(sheets.few_shot_sheet(result.few_shot))
    if result.labels:
        shown.append(sheets.label_sheet(result.report, result.labels))
    if result.published is not None:
        shown.append(sheets.published_sheet(result.published))
    return shown


def validation_record(result: Validation) -> dict[str, Any]:
    """Return everything as one object that JSON can hold."""
    return {
        "predictor": result.name,
        "notes": list(result.notes),
        **result.report.as_dict(),
        "few_shot": asdict(result.few_shot) if result.few_shot is not None else None,
        "published_scoring": asdict(result.published) if result.published is not None else None,
        "labels": {name: dict(values) for name, values in result.labels.items()},
    }


def write_validation(result: Validation, folder: Path) -> Written:
    """Write the page, its tables as CSV and its figures as PNG into a folder, in one step."""
    return write_accuracy_report(
        result.report,
        folder,
        few_shot=result.few_shot,
        published=result.published,
        labels=result.labels,
        notes=result.notes,
    )

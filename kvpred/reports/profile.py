"""Operator profiles as one JSON object, and as a folder with a page and its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kvpred.evaluation.profile_views import ProfileViews
from kvpred.reports import profile_sheets as sheets
from kvpred.reports.figures import Figure
from kvpred.reports.folder import Written, write_report
from kvpred.reports.profile_curves import attention_figure, shares_figure, speedup_figure
from kvpred.reports.profile_panels import stages_of
from kvpred.reports.profile_steps import corners, explained_figure, parts_figure
from kvpred.reports.sheets import Sheet


def profile_record(views: ProfileViews) -> dict[str, Any]:
    """Return everything as one object that JSON can hold."""
    tables = [sheets.summary_sheet(views), *sheets.data_sheets(views)]
    return {
        "title": views.title,
        "caption": views.caption,
        "notes": list(views.notes),
        **{table.name: table.records() for table in tables},
        "noise": {method: dict(noise) for method, noise in views.noise.items()},
    }


def profile_figures(views: ProfileViews) -> list[Figure]:
    """Return all figures that the profiles have data for, in the order of reading."""
    compared = [step for step in views.steps if step.speedup is not None]
    parts = views.compositions
    found = [speedup_figure(views, stage) for stage in stages_of(compared)]
    found += [attention_figure(views, stage) for stage in stages_of(views.attention)]
    if parts:
        found.append(shares_figure(views))
    if any(corners(parts, stage) for stage in stages_of(parts)):
        found.append(parts_figure(views))
    if any(step.operators_ms and step.hooked_ms for step in views.steps):
        found.append(explained_figure(views))
    return found


def write_profile_report(views: ProfileViews, folder: Path) -> Written:
    """Write the page, its tables as CSV and its figures as PNG into a folder, in one step.

    Raises
    ------
    UsageError, MissingExtraError
        See `kvpred.reports.folder.write_report`.
    """
    tables: list[Sheet] = [*sheets.terminal_sheets(views)]
    if views.noise:
        tables.append(sheets.noise_sheet(views))
    return write_report(
        folder,
        title=views.title,
        notes=views.notes,
        parts=[*tables[:2], *profile_figures(views), *tables[2:]],
        data=sheets.data_sheets(views),
    )

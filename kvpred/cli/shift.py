"""``kvpred shift``: do compressed models give longer answers, beyond what chance does?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvpred.cli.app import JUDGE, Format, FormatOption, LevelOption, ReportOption, app
from kvpred.cli.output import announce, emit, note


@app.command("shift", rich_help_panel=JUDGE)
def shift_command(
    lengths: Annotated[
        list[Path] | None,
        typer.Option("--lengths", help="Collected lengths: a CSV file or a folder; may be repeated."),
    ] = None,
    scope: Annotated[
        Path | None, typer.Option("--scope", help="Lengths published by SCOPE, in one CSV file.")
    ] = None,
    baseline: Annotated[
        str, typer.Option("--baseline", help="Method that the others are compared with.")
    ] = "fp16",
    level: LevelOption = 0.9,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the resampled prompts.")] = 0,
    report: ReportOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="JSON file for the multipliers, which predict-length can apply."),
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Compare lengths of answers with fp16's to the same prompts, against what fp16's own seeds differ by.

    Example: kvpred shift --lengths data/measured/lengths --output shifts.json
    """
    from kvpred.reports.length_shift import shift_record, shift_sheets, shifts_sheet, write_shift_report
    from kvpred.reports.tables import rich_tables
    from kvpred.workflows.shifting import study_shifts

    if report is not None:
        from kvpred.reports.folder import check_report_folder

        check_report_folder(report)
    studies = study_shifts(
        lengths or (), scope=scope, baseline=baseline, level=level, seed=seed, output=output, progress=note
    )
    if report is not None:
        announce(write_shift_report(studies, report))
    if form is Format.csv:
        emit([row for study in studies for row in shifts_sheet(study).records()], form, lambda width: "")
    else:
        emit(
            [shift_record(study) for study in studies],
            form,
            lambda width: rich_tables(
                [sheet for study in studies for sheet in shift_sheets(study)],
                notes=[text for study in studies for text in study.notes],
            ),
        )

"""``kvpred validate`` and ``kvpred audit``: how good are the predictions, how real are the measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvpred.cli.app import JUDGE, Format, FormatOption, PredictorOption, app
from kvpred.cli.output import emit, note
from kvpred.errors import UsageError

RunsOption = Annotated[
    list[Path] | None,
    typer.Option("--runs", help="Runs that the predictor has not seen: CSV files, or folders of them."),
]


@app.command("validate", rich_help_panel=JUDGE)
def validate_command(
    predictor: PredictorOption = None,
    runs: RunsOption = None,
    pool_labels: Annotated[
        bool, typer.Option("--pool-labels", help="Take a published table's model names as repeats.")
    ] = False,
    profile: Annotated[
        Path | None, typer.Option("--profile", help="Judge this operator profile instead, or a root of them.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Device, if the profile does not say.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model, if the profile does not say.")] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="Method, if the profile does not say.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Folder for an HTML page, CSV files and PNG figures.")
    ] = None,
    level: Annotated[float, typer.Option("--level", help="Level of the intervals, 0.5 to 0.99.")] = 0.9,
    seed: Annotated[int, typer.Option("--seed", help="Of random rows and random sites.")] = 0,
    form: FormatOption = Format.table,
) -> None:
    """Hold out whole lengths and batches of a predictor's own sites, or judge it on runs it has not seen.

    Example: kvpred validate --report accuracy-report
    """
    from kvpred.reports.tables import rich_tables
    from kvpred.reports.validation import validation_record, validation_sheets, write_validation
    from kvpred.workflows.validation import validate

    if profile is not None:
        if runs or predictor or report:
            raise UsageError("--profile judges operators alone: leave --predictor, --runs and --report out")
        _validate_profile(profile, device=device, model=model, method=method, seed=seed, form=form)
        return
    result = validate(
        predictor, runs=runs or (), pool_labels=pool_labels, level=level, seed=seed, progress=note
    )
    if report is not None:
        written = write_validation(result, report)
        note(f"wrote {written.page} and {len(written.files) - 1} files beside it")
        if written.remark:
            note(written.remark)
    if form is Format.csv:
        emit(validation_sheets(result)[1].records(), form, lambda width: "")
    else:
        emit(
            [validation_record(result)],
            form,
            lambda width: rich_tables(validation_sheets(result), notes=result.notes),
        )


def _validate_profile(
    folder: Path, *, device: str | None, model: str | None, method: str | None, seed: int, form: Format
) -> None:
    from kvpred.reports import operators as reports
    from kvpred.reports.tables import rich_tables
    from kvpred.workflows.validation import validate_profile

    found = validate_profile(folder, device=device, model=model, method=method, seed=seed, progress=note)
    if isinstance(found, list):
        sheet = reports.errors_sheet(found)
        emit(sheet.records(), form, lambda width: rich_tables([sheet]))
        return
    emit(
        reports.profile_records(found),
        form,
        lambda width: rich_tables(reports.shown_sheets(found), notes=reports.NOTES),
    )


@app.command("audit", rich_help_panel=JUDGE)
def audit_command(
    paths: Annotated[
        list[Path], typer.Argument(help="Folders of operator profiles (searched), or CSV files of runs.")
    ],
    device: Annotated[str | None, typer.Option("--device", help="Device, if the data do not say.")] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="Engine, if the runs do not say.")] = None,
    form: FormatOption = Format.table,
) -> None:
    """Look for measurements that cannot be real: copies times a constant, impossible speeds, missing noise.

    Example: kvpred audit profiles/ runs.csv --device a6000 --engine lmdeploy
    """
    from dataclasses import asdict

    from kvpred.reports.lists import plain_table
    from kvpred.workflows.auditing import audit

    findings = audit(paths, device=device, engine=engine, progress=note)
    rows = [asdict(finding) for finding in findings]
    if not rows:
        note("nothing found")
    emit(
        rows, form, lambda width: plain_table(rows, ("severity", "check", "subject", "message"), width=width)
    )

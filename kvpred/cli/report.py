"""``kvpred report``: what was measured, as pages with figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvpred.cli.app import JUDGE, Format, FormatOption, TpOption, app
from kvpred.cli.output import announce, emit, note

report = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(report, name="report", rich_help_panel=JUDGE)


@report.callback()
def _report() -> None:
    """Draw what was measured: an HTML page, CSV files and PNG figures.

    Example: kvpred report profile my-profiles/compute/a100/llama-2-7b
    """


@report.command("profile")
def profile_command(
    folder: Annotated[Path, typer.Argument(help="Root of the profiles of one model and device.")],
    output: Annotated[Path, typer.Option("--output", help="Folder of the report to write.")] = Path(
        "profile-report"
    ),
    device: Annotated[
        str | None, typer.Option("--device", help="Device, if the profiles do not say.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Model, if the profiles do not say, or its config.json.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="Method of a single profile that does not say.")
    ] = None,
    tp: TpOption = 1,
    form: FormatOption = Format.table,
) -> None:
    """Draw operator profiles: attention against its roofline, shares of the step, speed-ups against fp16.

    Example: kvpred report profile my-profiles/compute/a100/llama-2-7b --output profile-report
    """
    from kvpred.reports.folder import check_report_folder
    from kvpred.reports.profile import profile_record, write_profile_report
    from kvpred.reports.profile_sheets import summary_sheet, terminal_sheets
    from kvpred.reports.tables import rich_tables
    from kvpred.workflows.profile_views import view_profiles

    check_report_folder(output)
    views = view_profiles(folder, device=device, model=model, method=method, tp=tp, progress=note)
    written = write_profile_report(views, output)
    announce(written)
    rows = summary_sheet(views).records() if form is Format.csv else [profile_record(views)]
    emit(rows, form, lambda width: rich_tables(terminal_sheets(views), notes=views.notes))


@report.command("throughput")
def throughput_command(
    runs: Annotated[
        list[Path], typer.Option("--runs", help="Runs of one model: CSV files, or folders of them.")
    ],
    output: Annotated[Path, typer.Option("--output", help="Folder of the report to write.")] = Path(
        "throughput-report"
    ),
    model: Annotated[str | None, typer.Option("--model", help="Model, if the runs do not say.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="Device, if the runs do not say.")] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="Engine, if the runs do not say.")] = None,
    pool_labels: Annotated[
        bool, typer.Option("--pool-labels", help="Take a published table's model names as repeats.")
    ] = False,
    form: FormatOption = Format.table,
) -> None:
    """Draw measured runs: throughput over lengths and batch sizes, speed-ups, engines side by side.

    Example: kvpred report throughput --runs openvino-runs.csv --runs transformers-runs.csv
    """
    from kvpred.reports.folder import check_report_folder
    from kvpred.reports.tables import rich_tables
    from kvpred.reports.throughput import (
        summary_sheet,
        terminal_sheets,
        throughput_record,
        write_throughput_report,
    )
    from kvpred.workflows.throughput import view_throughput

    check_report_folder(output)
    views = view_throughput(
        runs, model=model, device=device, engine=engine, pool_labels=pool_labels, progress=note
    )
    written = write_throughput_report(views, output)
    announce(written)
    rows = summary_sheet(views).records() if form is Format.csv else [throughput_record(views)]
    emit(rows, form, lambda width: rich_tables(terminal_sheets(views), notes=views.notes))

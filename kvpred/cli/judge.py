"""``kvpred validate`` and ``kvpred audit``: how good are the predictions, how real are the measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvpred.cli.app import JUDGE, Format, FormatOption, app
from kvpred.cli.output import emit, note


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
    emit(rows, form, lambda width: plain_table(rows, ("severity", "check", "subject", "message")))

"""``kvpred train`` and ``kvpred calibrate``: measurements in, a predictor bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvpred.cli.app import LEARN, Format, FormatOption, LevelOption, TpOption, app
from kvpred.cli.output import emit, note


@app.command("train", rich_help_panel=LEARN)
def train_command(
    output: Annotated[Path, typer.Option("--output", help="Folder of the bundle to write.")],
    runs: Annotated[
        list[Path] | None, typer.Option("--runs", help="CSV of runs, or a folder of them; may be repeated.")
    ] = None,
    profile: Annotated[
        list[Path] | None, typer.Option("--profile", help="Folder of operator profiles; may be repeated.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Model that was measured, if the data do not say.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="Device, if the data do not say.")] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="Engine, if the data do not say.")] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="Method of the profile, if its folder does not say.")
    ] = None,
    tp: TpOption = 1,
    pool_labels: Annotated[
        bool,
        typer.Option("--pool-labels", help="Take a published table's model names as repeats of --model."),
    ] = False,
    label: Annotated[
        str | None,
        typer.Option("--label", help="Also state the accuracy of the runs under this label alone."),
    ] = None,
    regressor: Annotated[
        str, typer.Option("--regressor", help="For a profile: physics, forest, lightgbm, hybrid or auto.")
    ] = "physics",
    provenance: Annotated[
        str | None, typer.Option("--provenance", help="One sentence: whose measurements these are.")
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Fit a predictor to measured runs, an operator profile, or both, and write it as a bundle.

    Example: kvpred train --runs runs.csv --device a6000 --engine lmdeploy --output my-bundle
    """
    from kvpred.predictors import bundle
    from kvpred.predictors.summary import summarise
    from kvpred.reports.lists import plain_table
    from kvpred.workflows.training import Measurements, check_bundle_folder, train

    check_bundle_folder(output)
    measured = Measurements(
        runs=runs or (),
        profiles=profile or (),
        model=model,
        device=device,
        engine=engine,
        method=method,
        tp=tp,
        pool_labels=pool_labels,
    )
    predictor = train(measured, regressor=regressor, label=label, provenance=provenance, progress=note)
    bundle.save(predictor, output)
    rows = [summarise(output)]
    columns = ("name", "model", "device", "engine", "methods", "sites", "runs", "accuracy_held_out_lengths")
    emit(rows, form, lambda width: plain_table(rows, columns, width=width))


@app.command("calibrate", rich_help_panel=LEARN)
def calibrate_command(
    runs: Annotated[
        list[Path], typer.Option("--runs", help="CSV of runs, or a folder of them; may be repeated.")
    ],
    output: Annotated[Path, typer.Option("--output", help="Folder of the bundle to write.")],
    profile: Annotated[
        list[Path] | None, typer.Option("--profile", help="Operator profiles to fit on top of.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Model that was measured, if the data do not say.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="Device, if the data do not say.")] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="Engine, if the data do not say.")] = None,
    pool_hosts: Annotated[
        bool,
        typer.Option("--pool-hosts", help="Take runs of several hosts or versions as repeats of one."),
    ] = False,
    level: LevelOption = 0.9,
    provenance: Annotated[
        str | None, typer.Option("--provenance", help="One sentence: whose measurements these are.")
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Fit a predictor to few runs, say what it learnt, how far to trust it and what to measure next.

    fp16 needs about eight sites, every other method two to four. Each site is left out once and predicted
    from the others: their error, the repeats' noise, the width of the intervals and the sign of the speed-ups
    give one word: good, usable or unreliable.

    Example: kvpred calibrate --runs runs.csv --output my-bundle
    """
    from dataclasses import asdict

    from kvpred.predictors import bundle
    from kvpred.reports.calibration import calibration_record, calibration_sheets, left_out_sheet
    from kvpred.reports.tables import rich_tables
    from kvpred.workflows.calibrating import calibrate
    from kvpred.workflows.training import Measurements, check_bundle_folder

    check_bundle_folder(output)
    measured = Measurements(runs=runs, profiles=profile or (), model=model, device=device, engine=engine)
    found = calibrate(measured, pool_hosts=pool_hosts, level=level, provenance=provenance, progress=note)
    bundle.save(found.predictor, output)
    if form is Format.csv:
        emit(left_out_sheet(found.methods).records(), form, lambda width: "")
        return
    record = calibration_record(
        found.methods,
        verdict=found.verdict,
        level=found.level,
        next_run=asdict(found.next_run) if found.next_run is not None else None,
        notes=found.notes,
        bundle=str(output),
    )
    emit([record], form, lambda width: rich_tables(calibration_sheets(found.methods), notes=found.summary))

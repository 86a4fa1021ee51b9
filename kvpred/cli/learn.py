"""``kvpred train``: measurements in, a predictor bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvpred.cli.app import LEARN, Format, FormatOption, TpOption, app
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

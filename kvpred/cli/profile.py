"""``kvpred profile``: operators, timed in place on this host."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from kvpred.cli.app import MEASURE, Format, FormatOption, ModelOption, app
from kvpred.cli.engine import DtypeOption
from kvpred.cli.output import emit, note, progress_bar
from kvpred.cli.values import seconds


@app.command("profile", rich_help_panel=MEASURE)
def profile_command(
    method: Annotated[
        str, typer.Option("--method", help="Methods separated by commas, or all; fp16 is always profiled.")
    ],
    model: ModelOption = "smollm2-135m",
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:0.")] = "cpu",
    grid: Annotated[str, typer.Option("--grid", help="smoke, default, full, or a TOML file.")] = "default",
    output: Annotated[Path, typer.Option("--output", help="Root folder of the profiles.")] = Path("profiles"),
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="Folder or GGUF file of real weights; random if not given."),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option("--layers", help="Layers of the stack; as many as the memory holds if not given."),
    ] = None,
    dtype: DtypeOption = "bfloat16",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of random weights and tokens.")] = 0,
    budget: Annotated[
        str | None, typer.Option("--budget", help="Time such as 90s, 10m or 2h; the best points come first.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Go on with the sweep that lies there, or replace it."),
    ] = True,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List the points, their memory and expected time; measure nothing."),
    ] = False,
    form: FormatOption = Format.table,
) -> None:
    """Time each operator of each method in place, inside a real stack of layers on this host.

    Every point is on disk before the next one starts: an interrupted call is repeated to go on.

    Example: kvpred profile --method h2o --grid smoke --output my-sweep --dry-run
    """
    from kvpred.reports.lists import plain_table
    from kvpred.workflows.profiling import ProfileRequest, list_points, profile

    request = ProfileRequest(
        methods=method,
        model=model,
        device=device,
        grid=grid,
        weights=weights,
        n_layers=layers,
        dtype=dtype,
        seed=seed,
    )
    budget_s = None if budget is None else seconds("--budget", budget)
    if dry_run:
        rows: list[dict[str, Any]] = [asdict(point) for point in list_points(request, output)]
        left = [row["expected_s"] for row in rows if row["fits"] and not row["done"]]
        note(f"{len(left)} of {len(rows)} points left, about {sum(left) / 60:.0f} minutes")
    else:
        with progress_bar() as progress:
            found = profile(request, output, resume=resume, budget_s=budget_s, progress=progress)
        rows = [{**asdict(summary), "folder": str(summary.folder)} for summary in found]
        note(f"profiles under {output}" if rows else "nothing timed: no point fits the memory and the budget")
    columns = [name for row in rows[:1] for name in row if name != "folder"]
    emit(rows, form, lambda width: plain_table(rows, columns, width=width))

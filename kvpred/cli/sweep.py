"""``kvpred predict --sweep``: a grid of requests to a file or to stdout."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvpred.cli.app import Format
from kvpred.cli.output import emit, note
from kvpred.errors import DoesNotFitError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kvpred.predictors.predictor import Predictor
    from kvpred.workflows.sweeps import Swept

SweepOption = Annotated[
    str | None,
    typer.Option(
        "--sweep",
        help="All combinations of KEY=VALUE|VALUE,...: model, device, engine, method, tp, bsz, prompt_len, "
        "output_len; ranges 1:8, 1:64:x2, 512:2048:512.",
    ),
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", help="File for --sweep: .csv or .parquet; stdout if not given.")
]
# Rows of a table for people.
_MOST_ROWS = 100


def predict_sweep(
    text: str,
    predictor: Predictor,
    *,
    usual: Mapping[str, str | int | None],
    output: Path | None,
    form: Format,
    strict: bool,
    **options: Any,
) -> None:
    """Predict all cells of a sweep, and write or print them."""
    from kvpred.data.columns import check_table_path, write_columns
    from kvpred.workflows.sweep_text import parse_sweep
    from kvpred.workflows.sweeps import run_sweep

    if output is not None:
        check_table_path(output)
    sweep = parse_sweep(text, usual=usual)
    swept = run_sweep(sweep, predictor, **options)
    longest = {axis: max(sweep.numbers[axis]) for axis in ("prompt_len", "output_len")}
    for model in sweep.names["model"]:
        note_context(model, **longest)
    for reason, cells in swept.reasons.items():
        note(f"{cells:,} cells have no estimate: {reason}")
    for what, cells in swept.dropped.items():
        note(f"left out {cells:,} cells of {what}, weaker than --min-basis")
    if output is not None:
        write_columns(output, swept.columns)
        note(f"wrote {len(swept):,} rows to {output}")
    elif form is Format.csv:
        from kvpred.data.files import format_table

        rows = zip(*swept.columns.values(), strict=True)
        sys.stdout.write(format_table(list(swept.columns), rows))
    elif form is Format.json:
        emit(list(swept.records()), form, lambda width: "")
    else:
        emit([], form, lambda width: _table(swept))
    if strict and swept.unfit:
        cells, asked = sum(swept.unfit.values()), len(swept) + sum(swept.dropped.values())
        raise DoesNotFitError(
            f"{cells:,} of {asked:,} cells do not fit: of {', '.join(swept.unfit)}; see the column fits"
        )


def note_context(model: str, *, prompt_len: int, output_len: int) -> None:
    """Remark on stderr that a request exceeds a model's context, if it does."""
    from kvpred.models import get_model
    from kvpred.predictors.estimate import beyond_context

    remark = beyond_context(get_model(model), prompt_len=prompt_len, output_len=output_len)
    if remark is not None:
        note(remark)


def _table(swept: Swept) -> RenderableType:
    from kvpred.reports.sweep import sweep_sheet
    from kvpred.reports.tables import rich_tables

    notes = []
    if len(swept) > _MOST_ROWS:
        notes = [f"The first {_MOST_ROWS} of {len(swept):,} rows: --format csv or --output holds them all."]
    return rich_tables([sweep_sheet(swept.columns, rows=_MOST_ROWS)], notes=notes)

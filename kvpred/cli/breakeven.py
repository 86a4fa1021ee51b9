"""``kvpred breakeven``: where does each method beat plain fp16?"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvpred.cli.app import (
    PREDICT,
    DeviceOption,
    EngineOption,
    Format,
    FormatOption,
    LevelOption,
    MethodOption,
    ModelOption,
    PredictorOption,
    TpOption,
    UtilizationOption,
    WeightBitsOption,
    app,
)
from kvpred.cli.output import announce, emit, note

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kvpred.predictors.breakeven_map import BreakEven


class Axes(StrEnum):
    """What a map spans."""

    bsz = "bsz,prompt_len"
    output_len = "output_len,prompt_len"


class At(StrEnum):
    """At which batches methods are compared."""

    equal = "equal"
    largest = "largest"
    both = "both"


@app.command("breakeven", rich_help_panel=PREDICT)
def breakeven_command(
    bsz: Annotated[
        str | None, typer.Option("--bsz", help="Sequences, LOW:HIGH; 1:64, or 8 if no axis, if not given.")
    ] = None,
    prompt_len: Annotated[
        str | None,
        typer.Option(
            "--prompt-len", help="Tokens, LOW:HIGH; 128:16384, or up to the model's context, if not given."
        ),
    ] = None,
    output_len: Annotated[
        str | None,
        typer.Option("--output-len", help="Tokens of fp16's answers; 256, or 16:2048 if an axis."),
    ] = None,
    axes: Annotated[Axes, typer.Option("--axes", help="What the map spans, across and up.")] = Axes.bsz,
    cells: Annotated[int, typer.Option("--cells", min=2, max=400, help="Along each axis, at most.")] = 40,
    at: Annotated[
        At,
        typer.Option("--at", help="Same batch for all, or each method's largest (up to --bsz), or both."),
    ] = At.both,
    method: MethodOption = "all",
    model: ModelOption = "llama-2-7b",
    device: DeviceOption = "a6000",
    engine: EngineOption = "lmdeploy",
    tp: TpOption = 1,
    predictor: PredictorOption = None,
    price_per_hour: Annotated[
        float | None, typer.Option("--price-per-hour", help="US dollars per device, for dollars per request.")
    ] = None,
    no_shift: Annotated[
        bool, typer.Option("--no-shift", help="Take answers to be as long as fp16's under every method.")
    ] = False,
    level: LevelOption = 0.9,
    weight_bits: WeightBitsOption = 16,
    memory_utilization: UtilizationOption = 0.9,
    report: Annotated[
        Path | None, typer.Option("--report", help="Folder for an HTML page, CSV files and PNG heat maps.")
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Map where each method beats fp16: decode, prefill, end to end and dollars, over batch and length.

    The table sums the map up; JSON and CSV hold every cell.

    Example: kvpred breakeven --method h2o,kivi --bsz 1:32 --prompt-len 256:4096 --price-per-hour 0.8
    """
    from kvpred.methods import split_methods
    from kvpred.models import get_model
    from kvpred.predictors.breakeven import break_even
    from kvpred.predictors.breakeven_map import BATCHES
    from kvpred.reports.breakeven_words import breakeven_notes
    from kvpred.workflows.grids import break_even_grid, predictor_at

    if report is not None:
        from kvpred.reports.folder import check_report_folder

        check_report_folder(report)
    found = break_even(
        predictor_at(predictor),
        break_even_grid(
            axes.name,
            bsz=bsz,
            prompt_len=prompt_len,
            output_len=output_len,
            cells=cells,
            context=get_model(model).max_position,
        ),
        methods=split_methods(method),
        model=model,
        device=device,
        engine=engine,
        tp=tp,
        batches=BATCHES if at is At.both else (at.value,),
        shifted=not no_shift,
        price_per_hour=price_per_hour,
        level=level,
        weight_bits=weight_bits,
        memory_utilization=memory_utilization,
    )
    if report is not None:
        from kvpred.reports.breakeven import write_breakeven_report

        announce(write_breakeven_report(found, report))
    if form is Format.table:
        emit([], form, lambda width: _table(found))
        return
    from kvpred.reports.breakeven import cell_records

    for remark in breakeven_notes(found):
        note(remark)
    emit(cell_records(found), form, lambda width: "")


def _table(found: BreakEven) -> RenderableType:
    from kvpred.reports.breakeven import breakeven_sheets
    from kvpred.reports.breakeven_words import breakeven_notes
    from kvpred.reports.tables import rich_tables

    return rich_tables(breakeven_sheets(found), notes=breakeven_notes(found))

"""``kvpred cost``: what one request takes, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvpred.cli.app import (
    PREDICT,
    BszOption,
    DeviceOption,
    EngineOption,
    Format,
    FormatOption,
    LevelOption,
    MethodOption,
    ModelOption,
    PredictorOption,
    StrictOption,
    TpOption,
    UtilizationOption,
    WeightBitsOption,
    app,
)
from kvpred.cli.output import emit, note
from kvpred.cli.replica import ShiftsOption
from kvpred.cli.workload import TooLongOption
from kvpred.errors import DoesNotFitError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kvpred.predictors.cost import RequestCost

PriceOption = Annotated[
    float, typer.Option("--price-per-hour", help="US dollars per device-hour, the only cost that is counted.")
]


@app.command("cost", rich_help_panel=PREDICT)
def cost_command(
    bsz: BszOption,
    price_per_hour: PriceOption,
    prompt_len: Annotated[
        int | None,
        typer.Option("--prompt-len", help="Tokens of each prompt; counted, or the trace's, if not given."),
    ] = None,
    output_len: Annotated[
        int | None,
        typer.Option("--output-len", help="Tokens of each answer under fp16; 256 if nothing else tells."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="A message, whose answer's length is predicted.")
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", help="Conversations to be answered, as for predict-length; may be repeated."),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace", help="Requests as they came: Azure CSV, Mooncake JSONL, or kvpred's own CSV."
        ),
    ] = None,
    too_long: TooLongOption = "refuse",
    shifts: ShiftsOption = None,
    method: MethodOption = "all",
    model: ModelOption = "llama-2-7b",
    device: DeviceOption = "a6000",
    engine: EngineOption = "lmdeploy",
    tp: TpOption = 1,
    predictor: PredictorOption = None,
    level: LevelOption = 0.9,
    samples: Annotated[int, typer.Option("--samples", help="Random samples, 100 to 1,000,000.")] = 10_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the samples.")] = 0,
    strict: StrictOption = False,
    weight_bits: WeightBitsOption = 16,
    memory_utilization: UtilizationOption = 0.9,
    form: FormatOption = Format.table,
) -> None:
    """Compare what one request costs under each method: latency, tokens and its share of the rented hour.

    A method may change how long answers are: by how much, on which basis, and what the cost would be without
    that is always told. Bands come from lengths that differ, and from what is unsure of shift and step times.

    Example: kvpred cost --bsz 8 --prompt-len 1024 --price-per-hour 0.8 --method fp16,h2o,kivi
    """
    import kvpred
    from kvpred.methods import split_methods
    from kvpred.predictors import bundle
    from kvpred.workflows.costing import CostRequest, cost_requests

    costs = cost_requests(
        CostRequest(
            prompt_len=prompt_len,
            output_len=output_len,
            text=prompt,
            files=file or (),
            trace=trace,
            too_long=too_long,
            shifts=shifts,
        ),
        split_methods(method),
        price_per_hour=price_per_hour,
        progress=note,
        model=model,
        bsz=bsz,
        predictor=bundle.load(predictor or kvpred.PACKAGED),
        device=device,
        engine=engine,
        tp=tp,
        level=level,
        samples=samples,
        seed=seed,
        weight_bits=weight_bits,
        memory_utilization=memory_utilization,
    )
    emit([cost.as_dict() for cost in costs], form, lambda width: _table(costs, width))
    misfits = [cost.method_params for cost in costs if cost.fits_share < 1]
    if strict and misfits:
        raise DoesNotFitError(f"does not fit: {', '.join(misfits)}; take a smaller --bsz, or more --tp")


def _table(costs: list[RequestCost], width: int) -> RenderableType:
    from kvpred.reports.cost import cost_table  # rich, which JSON and CSV do not need

    return cost_table(costs, width=width)

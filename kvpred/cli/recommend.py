"""``kvpred recommend``: which method and batch serve some requests cheapest within limits."""

from __future__ import annotations

from typing import Annotated

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
from kvpred.cli.cost import PriceOption
from kvpred.cli.output import emit, note
from kvpred.cli.values import share
from kvpred.cli.workload import (
    ConversationsOption,
    LengthsOption,
    OutputLenOption,
    PromptLenOption,
    RequestsOption,
    SeedOption,
    TokenizerOption,
    TooLongOption,
    TraceOption,
)


@app.command("recommend", rich_help_panel=PREDICT)
def recommend_command(
    price_per_hour: PriceOption,
    ttft_p99: Annotated[
        str | None, typer.Option("--ttft-p99", help="Most that the first token may take, such as 1s.")
    ] = None,
    tpot_p99: Annotated[
        str | None, typer.Option("--tpot-p99", help="Most per token after the first, such as 60ms.")
    ] = None,
    e2e_p99: Annotated[
        str | None, typer.Option("--e2e-p99", help="Most that a whole answer may take, such as 30s.")
    ] = None,
    slo: Annotated[
        str | None, typer.Option("--slo", help="Any limits, such as ttft-p50=500ms,e2e-p95=20s.")
    ] = None,
    max_quality_loss: Annotated[
        str | None,
        typer.Option("--max-quality-loss", help="Share of fp16's published score that may be lost: 2%."),
    ] = None,
    bsz_max: Annotated[int, typer.Option("--bsz-max", help="Largest batch to try.")] = 256,
    no_shift: Annotated[
        bool, typer.Option("--no-shift", help="Take all answers to be as long as fp16's.")
    ] = False,
    task: Annotated[
        str | None,
        typer.Option("--task", help="Type of the requests, such as few-shot, to show how many break."),
    ] = None,
    method: MethodOption = "all",
    model: ModelOption = "llama-2-7b",
    device: DeviceOption = "a6000",
    engine: EngineOption = "lmdeploy",
    tp: TpOption = 1,
    predictor: PredictorOption = None,
    level: LevelOption = 0.9,
    weight_bits: WeightBitsOption = 16,
    memory_utilization: UtilizationOption = 0.9,
    trace: TraceOption = None,
    conversations: ConversationsOption = None,
    lengths: LengthsOption = "file",
    tokenizer: TokenizerOption = "estimated",
    n_requests: RequestsOption = None,
    prompt_len: PromptLenOption = None,
    output_len: OutputLenOption = None,
    too_long: TooLongOption = "refuse",
    seed: SeedOption = 0,
    form: FormatOption = Format.table,
) -> None:
    """Rank methods by what requests cost, each at its cheapest batch within the limits, and say why not.

    Batches are static: arrivals and queues are for simulate and capacity. If no method keeps the limits, it
    says which limit is out of reach and by how much, and exits with 2; with 5 if nothing fits in memory.

    Example: kvpred recommend --ttft-p99 4s --tpot-p99 60ms --price-per-hour 0.8 --max-quality-loss 15%
    """
    import kvpred
    from kvpred.data.limits import make_limit, parse_limits
    from kvpred.evaluation.published_risk import get_task
    from kvpred.methods import split_methods
    from kvpred.predictors import bundle
    from kvpred.predictors.recommend import Terms
    from kvpred.reports.recommend import broken_notes, recommend_records, recommend_tables
    from kvpred.workflows.recommending import Asked, broken_among, explain, recommend
    from kvpred.workflows.workloads import WorkloadRequest

    named = {"ttft": ttft_p99, "tpot": tpot_p99, "e2e": e2e_p99}
    limits = [make_limit(metric, 99.0, text) for metric, text in named.items() if text is not None]
    kind = None if task is None else get_task(task)
    chosen = bundle.load(predictor or kvpred.PACKAGED)
    found = recommend(
        Asked(
            split_methods(method),
            WorkloadRequest(
                trace=trace,
                conversations=conversations or (),
                lengths=lengths,
                tokenizer=tokenizer,
                n_requests=n_requests,
                prompt_len=prompt_len,
                output_len=output_len,
                seed=seed,
                too_long=too_long,
            ),
            model=model,
            device=device,
            engine=engine,
            tp=tp,
            max_quality_loss=None
            if max_quality_loss is None
            else share("--max-quality-loss", max_quality_loss),
            shifted=not no_shift,
        ),
        Terms(
            (*limits, *(parse_limits(slo) if slo is not None else ())),
            price_per_hour,
            bsz_max=bsz_max,
            weight_bits=weight_bits,
            memory_utilization=memory_utilization,
            level=level,
            seed=seed,
        ),
        predictor=chosen,
    )
    explained = explain(found, predictor=chosen)
    broken = broken_among(found, task=kind)
    if form is not Format.table:
        for text in (*found.notes, *broken_notes(broken)):
            note(text)
    records = recommend_records(found, explained, broken, brief=form is Format.csv)
    emit(records, form, lambda width: recommend_tables(found, explained, broken))
    if not found.ranked:
        raise found.refusal()

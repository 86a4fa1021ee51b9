"""``kvpred simulate``: what a stream of requests meets under each method."""

from __future__ import annotations

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
    ReportOption,
    TpOption,
    UtilizationOption,
    WeightBitsOption,
    app,
)
from kvpred.cli.output import announce, emit, note
from kvpred.cli.replica import (
    ChunkTokensOption,
    HourPriceOption,
    MaxBatchTokensOption,
    MaxBszOption,
    NoShiftOption,
    SchedulerOption,
    ShiftsOption,
)
from kvpred.cli.workload import (
    ArrivalsOption,
    ConversationsOption,
    CvOption,
    LengthsOption,
    OutputLenOption,
    PromptLenOption,
    QpsOption,
    RequestsOption,
    SeedOption,
    TokenizerOption,
    TooLongOption,
    TraceOption,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kvpred.simulation.outcome import TrafficStudy


@app.command("simulate", rich_help_panel=PREDICT)
def simulate_command(
    trace: TraceOption = None,
    conversations: ConversationsOption = None,
    lengths: LengthsOption = "file",
    tokenizer: TokenizerOption = "estimated",
    arrivals: ArrivalsOption = None,
    qps: QpsOption = None,
    cv: CvOption = 1.0,
    requests: RequestsOption = None,
    prompt_len: PromptLenOption = None,
    output_len: OutputLenOption = None,
    too_long: TooLongOption = "refuse",
    seed: SeedOption = 0,
    method: MethodOption = "fp16",
    model: ModelOption = "llama-2-7b",
    device: DeviceOption = "a6000",
    engine: EngineOption = "lmdeploy",
    tp: TpOption = 1,
    replicas: Annotated[int, typer.Option("--replicas", help="Copies that share the requests.")] = 1,
    scheduler: SchedulerOption = "vllm",
    max_bsz: MaxBszOption = 64,
    max_batch_tokens: MaxBatchTokensOption = None,
    chunk_tokens: ChunkTokensOption = 512,
    no_shift: NoShiftOption = False,
    shifts: ShiftsOption = None,
    price_per_hour: HourPriceOption = None,
    predictor: PredictorOption = None,
    level: LevelOption = 0.9,
    weight_bits: WeightBitsOption = 16,
    memory_utilization: UtilizationOption = 0.9,
    report: ReportOption = None,
    save: Annotated[
        Path | None, typer.Option("--save", help="Folder for every request's times, as one CSV file.")
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Serve the same stream of requests under each method, by discrete events: latencies, queues, load.

    Vidur (extra vidur) turns the clock; step times, memory and lengths of answers are kvpred's. Bands come
    from serving everything again with slower and with faster steps.

    Example: kvpred simulate --qps 2 --requests 100 --prompt-len 1000 --output-len 100 --method fp16,h2o
    """
    import kvpred
    from kvpred.methods import split_methods
    from kvpred.predictors import bundle
    from kvpred.reports.simulation import traffic_rows
    from kvpred.workflows.server import Server
    from kvpred.workflows.simulating import SimulationRequest, save_requests, study_traffic
    from kvpred.workflows.workloads import WorkloadRequest

    if report is not None:
        from kvpred.reports.folder import check_report_folder

        check_report_folder(report)
    study = study_traffic(
        SimulationRequest(
            workload=WorkloadRequest(
                trace=trace,
                conversations=conversations or (),
                lengths=lengths,
                tokenizer=tokenizer,
                arrivals=arrivals,
                qps=qps,
                cv=cv,
                n_requests=requests,
                prompt_len=prompt_len,
                output_len=output_len,
                seed=seed,
                too_long=too_long,
            ),
            methods=split_methods(method),
            server=Server(
                model=model,
                device=device,
                engine=engine,
                tp=tp,
                scheduler=scheduler,
                max_bsz=max_bsz,
                max_batch_tokens=max_batch_tokens,
                chunk_tokens=chunk_tokens,
                weight_bits=weight_bits,
                memory_utilization=memory_utilization,
                shifted=not no_shift,
                shifts=shifts,
                level=level,
            ),
            replicas=replicas,
            price_per_hour=price_per_hour,
        ),
        predictor=bundle.load(predictor or kvpred.PACKAGED),
        progress=note,
    )
    if save is not None:
        note(f"wrote {save_requests(study, save)}")
    if report is not None:
        from kvpred.reports.simulation import write_traffic_report

        announce(write_traffic_report(study, report))
    emit(traffic_rows(study), form, lambda width: _table(study))


def _table(study: TrafficStudy) -> RenderableType:
    from kvpred.reports.simulation import table_notes, traffic_sheets
    from kvpred.reports.tables import rich_tables

    return rich_tables(traffic_sheets(study), notes=[*study.notes, *table_notes(study)])

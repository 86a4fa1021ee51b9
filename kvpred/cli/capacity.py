"""``kvpred capacity``: the largest rate per replica within limits, and the replicas that traffic takes."""

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
    RequestsOption,
    SeedOption,
    TokenizerOption,
    TooLongOption,
    TraceOption,
)


@app.command("capacity", rich_help_panel=PREDICT)
def capacity_command(
    slo: Annotated[
        str, typer.Option("--slo", help="Limits to keep, such as ttft-p99=1s,tpot-p99=60ms,e2e-p90=20s.")
    ],
    traffic_qps: Annotated[
        float | None,
        typer.Option("--traffic-qps", help="Requests per second that all replicas together serve."),
    ] = None,
    price_per_hour: HourPriceOption = None,
    method: MethodOption = "fp16",
    model: ModelOption = "llama-2-7b",
    device: DeviceOption = "a6000",
    engine: EngineOption = "lmdeploy",
    tp: TpOption = 1,
    predictor: PredictorOption = None,
    scheduler: SchedulerOption = "vllm",
    max_bsz: MaxBszOption = 64,
    max_batch_tokens: MaxBatchTokensOption = None,
    chunk_tokens: ChunkTokensOption = 512,
    no_shift: NoShiftOption = False,
    shifts: ShiftsOption = None,
    level: LevelOption = 0.9,
    weight_bits: WeightBitsOption = 16,
    memory_utilization: UtilizationOption = 0.9,
    trace: TraceOption = None,
    conversations: ConversationsOption = None,
    lengths: LengthsOption = "file",
    tokenizer: TokenizerOption = "estimated",
    arrivals: ArrivalsOption = None,
    cv: CvOption = 1.0,
    n_requests: RequestsOption = None,
    prompt_len: PromptLenOption = None,
    output_len: OutputLenOption = None,
    too_long: TooLongOption = "refuse",
    seed: SeedOption = 0,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes of this host; one per core if not given.")
    ] = None,
    backend: Annotated[
        str, typer.Option("--backend", help="local, or ray: the cluster of RAY_ADDRESS, else this host's.")
    ] = "local",
    report: ReportOption = None,
    form: FormatOption = Format.table,
) -> None:
    """Find the largest rate per replica that meets every limit, and the replicas that traffic takes.

    Simulates the same requests at rate after rate, by bisection. If no method meets the limits, it says which
    one is missed and by how much, and exits with 2; with 5 if nothing fits in memory.

    Example: kvpred capacity --slo ttft-p99=1s --method fp16 --requests 100 --output-len 32 --workers 1
    """
    import kvpred
    from kvpred.data.limits import parse_limits
    from kvpred.methods import split_methods
    from kvpred.predictors import bundle
    from kvpred.reports.capacity import capacity_notes, capacity_records, capacity_tables
    from kvpred.workflows.server import Server
    from kvpred.workflows.sizing import CapacityRequest, study_capacity
    from kvpred.workflows.workloads import WorkloadRequest

    if report is not None:
        from kvpred.reports.folder import check_report_folder

        check_report_folder(report)
    study = study_capacity(
        CapacityRequest(
            WorkloadRequest(
                trace=trace,
                conversations=conversations or (),
                lengths=lengths,
                tokenizer=tokenizer,
                arrivals=arrivals,
                cv=cv,
                n_requests=n_requests,
                prompt_len=prompt_len,
                output_len=output_len,
                seed=seed,
                too_long=too_long,
            ),
            parse_limits(slo),
            split_methods(method),
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
            traffic_qps=traffic_qps,
            price_per_hour=price_per_hour,
            curve=report is not None,
            backend=backend,
            workers=workers,
        ),
        predictor=bundle.load(predictor or kvpred.PACKAGED),
        progress=note,
    )
    if report is not None:
        from kvpred.reports.capacity import write_capacity_report

        announce(write_capacity_report(study, report))
    if form is not Format.table:
        for text in capacity_notes(study):
            note(text)
    emit(capacity_records(study), form, lambda width: capacity_tables(study))
    if study.best is None:
        raise study.refusal()

"""``kvpred predict`` and ``kvpred memory``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

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
from kvpred.cli.sweep import OutputOption, SweepOption, note_context, predict_sweep
from kvpred.errors import DoesNotFitError, NotCoveredError, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kvpred.predictors.estimate import Estimate
    from kvpred.predictors.predictor import Predictor
    from kvpred.predictors.scaling import Place

PromptOption = Annotated[int, typer.Option("--prompt-len", help="Tokens of each prompt.")]
OutputLenOption = Annotated[int, typer.Option("--output-len", help="Tokens generated per sequence.")]
BasisOption = Annotated[
    str | None,
    typer.Option("--min-basis", help="Weakest basis to show: calibrated, profiled, transferred or roofline."),
]
ExplainOption = Annotated[
    bool, typer.Option("--explain", help="Add what others measured, and what each prediction rests on.")
]

SweptBszOption = Annotated[int | None, typer.Option("--bsz", help="Sequences in the batch.")]
SweptPromptOption = Annotated[int | None, typer.Option("--prompt-len", help="Tokens of each prompt.")]


@app.command("predict", rich_help_panel=PREDICT)
def predict_command(
    bsz: SweptBszOption = None,
    prompt_len: SweptPromptOption = None,
    method: MethodOption = "all",
    model: ModelOption = "llama-2-7b",
    device: DeviceOption = "a6000",
    engine: EngineOption = "lmdeploy",
    output_len: OutputLenOption = 256,
    tp: TpOption = 1,
    predictor: PredictorOption = None,
    level: LevelOption = 0.9,
    min_basis: BasisOption = None,
    strict: StrictOption = False,
    weight_bits: WeightBitsOption = 16,
    memory_utilization: UtilizationOption = 0.9,
    explain: ExplainOption = False,
    sweep: SweepOption = None,
    output: OutputOption = None,
    form: FormatOption = Format.table,
) -> None:
    """Compare what serving a batch costs under each compression method.

    Example: kvpred predict --bsz 32 --prompt-len 2048 --method fp16,h2o,kivi:bits=2
    """
    import kvpred
    from kvpred.methods import split_methods
    from kvpred.predictors import bundle
    from kvpred.predictors.steps import BASES

    if min_basis is not None and min_basis not in BASES:
        raise UsageError(f"--min-basis {min_basis} is not known: use one of {', '.join(BASES)}")
    chosen = bundle.load(predictor) if predictor else None
    if sweep is not None:
        if explain:
            raise UsageError("--explain is of one request: leave --sweep out")
        predict_sweep(
            sweep,
            chosen or bundle.load(kvpred.PACKAGED),
            usual={
                "method": method,
                "model": model,
                "device": device,
                "engine": engine,
                "tp": tp,
                "bsz": bsz,
                "prompt_len": prompt_len,
                "output_len": output_len,
            },
            output=output,
            form=form,
            strict=strict,
            min_basis=min_basis,
            level=level,
            weight_bits=weight_bits,
            memory_utilization=memory_utilization,
        )
        return
    if output is not None:
        raise UsageError("--output is the file of a --sweep; give one")
    if bsz is None or prompt_len is None:
        raise UsageError("give --bsz and --prompt-len, or --sweep")
    estimates = [
        kvpred.predict(
            method=name,
            bsz=bsz,
            prompt_len=prompt_len,
            predictor=chosen,
            model=model,
            device=device,
            engine=engine,
            output_len=output_len,
            tp=tp,
            level=level,
            weight_bits=weight_bits,
            memory_utilization=memory_utilization,
        )
        for name in split_methods(method)
    ]
    weakest = BASES.index(min_basis) if min_basis else len(BASES)
    kept = [estimate for estimate in estimates if BASES.index(estimate.basis) <= weakest]
    for estimate in estimates:
        if estimate not in kept:
            note(f"left out {estimate.method_params}: its basis is {estimate.basis}, weaker than {min_basis}")
    if not kept:
        raise NotCoveredError(
            f"no method has a basis of {min_basis} or better for {model} on {device} with {engine}: "
            f"measure some runs and fit them with `kvpred train --runs`"
        )
    note_context(model, prompt_len=prompt_len, output_len=output_len)
    rows = [estimate.as_dict() for estimate in kept]
    if explain:
        from kvpred.hardware import get_device
        from kvpred.models import get_model
        from kvpred.predictors.scaling import Place

        place = Place(get_model(model), get_device(device), tp)
        _explain(kept, rows, form, predictor=chosen or bundle.load(kvpred.PACKAGED), place=place)
    else:
        emit(rows, form, lambda width: _table(kept, width))
    if strict:
        _refuse([estimate.method_params for estimate in estimates if not estimate.fits])


def _table(estimates: list[Estimate], width: int) -> RenderableType:
    from kvpred.reports.requests import prediction_table  # rich, which JSON and CSV do not need

    return prediction_table(estimates, width=width)


def _explain(
    estimates: list[Estimate], rows: list[dict[str, Any]], form: Format, *, predictor: Predictor, place: Place
) -> None:
    """Print predictions with the nearest published measurements of each method."""
    from kvpred.evaluation.evidence import beside
    from kvpred.methods import get_method
    from kvpred.predictors.steps import coverage
    from kvpred.reports.evidence import Explained, explanation, explanation_tables, rests_on

    explained = []
    for estimate, row in zip(estimates, rows, strict=True):
        known = coverage(predictor, get_method(estimate.method_params), place, estimate.engine)
        explained.append(Explained(estimate, rests_on(known), tuple(beside(estimate))))
        row.update(explanation(explained[-1], brief=form is Format.csv))

    def draw(width: int) -> RenderableType:
        from rich.console import Group

        return Group(_table(estimates, width), "", explanation_tables(explained))

    emit(rows, form, draw)


@app.command("memory", rich_help_panel=PREDICT)
def memory_command(
    bsz: BszOption,
    prompt_len: PromptOption,
    method: MethodOption = "all",
    model: ModelOption = "llama-2-7b",
    device: DeviceOption = "a6000",
    engine: EngineOption = "lmdeploy",
    output_len: OutputLenOption = 256,
    tp: TpOption = 1,
    strict: StrictOption = False,
    weight_bits: WeightBitsOption = 16,
    memory_utilization: UtilizationOption = 0.9,
    form: FormatOption = Format.table,
) -> None:
    """Break down the bytes that a batch needs, and the largest batch that fits.

    Example: kvpred memory --bsz 8 --prompt-len 4096 --model llama-3.1-70b --tp 4 --weight-bits 4
    """
    from kvpred.hardware import get_device, get_engine_spec
    from kvpred.methods import get_method, split_methods
    from kvpred.models import get_model
    from kvpred.predictors.memory import predict_memory
    from kvpred.reports.requests import memory_row, memory_table

    place, served, spec = get_device(device), get_model(model), get_engine_spec(engine)
    rows = []
    for name in split_methods(method):
        compression = get_method(name)
        memory = predict_memory(
            served,
            compression,
            place,
            bsz=bsz,
            prompt_len=prompt_len,
            output_len=output_len,
            tp=tp,
            weight_bits=weight_bits,
            block_tokens=spec.block_tokens,
            prefill_tokens=spec.prefill_tokens,
            reserve_bytes=spec.reserve_bytes,
            memory_utilization=memory_utilization,
        )
        request = {
            "method": compression.name,
            "method_params": compression.spec,
            "model": served.name,
            "device": place.name,
            "engine": engine,
            "tp": tp,
            "weight_bits": weight_bits,
            "bsz": bsz,
            "prompt_len": prompt_len,
            "output_len": output_len,
        }
        rows.append(memory_row(request, memory))
    note_context(model, prompt_len=prompt_len, output_len=output_len)
    emit(rows, form, lambda width: memory_table(rows, width=width))
    if strict:
        _refuse([row["method_params"] for row in rows if not row["fits"]])


def _refuse(names: list[str]) -> None:
    if names:
        raise DoesNotFitError(f"does not fit: {', '.join(names)}; see max_bsz, or take more devices (--tp)")

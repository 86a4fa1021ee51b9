"""``kvpred train-length`` and ``kvpred predict-length``: how long answers will be."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from kvpred.cli.app import LEARN, LENGTHS, Format, FormatOption, app
from kvpred.cli.output import announce, emit, note, progress_bar
from kvpred.errors import UsageError

_longformer = partial(typer.Option, rich_help_panel="With --model longformer")


@app.command("train-length", rich_help_panel=LEARN)
def train_length_command(
    data: Annotated[
        list[Path],
        typer.Option("--data", help="Conversations: ShareGPT JSON, chat JSON or JSONL; may be repeated."),
    ],
    output: Annotated[Path, typer.Option("--output", help="Folder of the bundle to write.")],
    model: Annotated[
        str, typer.Option("--model", help="lightgbm (a minute), longformer (minutes), or stacked on one.")
    ] = "lightgbm",
    method: Annotated[
        str, typer.Option("--method", help="What the collected answers were served with; needs --lengths.")
    ] = "fp16",
    lengths: Annotated[
        list[Path] | None,
        typer.Option(
            "--lengths", help="Lengths that `kvpred collect-lengths` collected for these conversations."
        ),
    ] = None,
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer", help="Folder, tokenizer.json, or llama-3, llama-2, mistral; or estimated."
        ),
    ] = "estimated",
    cut: Annotated[
        int | None,
        typer.Option(
            "--cut", min=1, help="Tokens at which answers were cut; found from their pile-up if not given."
        ),
    ] = None,
    folds: Annotated[
        int, typer.Option("--folds", min=2, max=20, help="Folds of conversations to judge the model on.")
    ] = 5,
    base: Annotated[
        Path | None, typer.Option("--base", help="With --model stacked: bundle of the model to stack on.")
    ] = None,
    work: Annotated[
        Path | None, _longformer("--work", help="Folder of checkpoints; OUTPUT.work if not given.")
    ] = None,
    init: Annotated[
        str, _longformer("--init", help="minilm, scratch, or the folder of a Longformer checkpoint.")
    ] = "minilm",
    target: Annotated[
        str, _longformer("--target", help="log, or ratio: the paper's, to the prompt's length.")
    ] = "log",
    unfreeze: Annotated[
        int, _longformer("--unfreeze", min=0, help="Upper layers to train besides the head; slow on a CPU.")
    ] = 0,
    epochs: Annotated[
        int | None, _longformer("--epochs", min=1, help="At most; 30, or 3 where layers are trained.")
    ] = None,
    max_tokens: Annotated[int, _longformer("--max-tokens", help="Of a conversation, the newest.")] = 4096,
    device: Annotated[str, _longformer("--device", help="cpu, cuda or cuda:0.")] = "cpu",
    smoke: Annotated[bool, _longformer("--smoke", help="A tiny training, to see that all works.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of everything random.")] = 0,
    provenance: Annotated[
        str | None, typer.Option("--provenance", help="One sentence: whose conversations these are.")
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Learn how long answers are, from conversations, and judge the model on conversations held out.

    Example: kvpred train-length --data conversations.json --output my-lengths
    """
    from kvpred.data.tokenizers import ESTIMATED
    from kvpred.predictors.length import bundle
    from kvpred.predictors.length.longformer import LongformerConfig
    from kvpred.reports.lists import plain_table
    from kvpred.workflows.lengths import (
        Answered,
        Training,
        check_length_folder,
        summarise_lengths,
        train_length,
    )

    check_length_folder(output)
    answered = Answered(data, tokenizer=tokenizer, cut_tokens=cut, method=method, lengths=lengths or ())
    config = LongformerConfig(
        init=init,
        target=target,
        max_tokens=max_tokens,
        unfreeze=unfreeze,
        epochs=epochs or (3 if unfreeze else 30),
        patience=1 if unfreeze else 3,
        device=device,
        seed=seed,
    )
    training = Training(
        model=model,
        n_folds=folds,
        seed=seed,
        base=base,
        work=work or output.with_name(f"{output.name}.work"),
        longformer=config.smoke() if smoke else config,
        smoke=smoke,
        provenance=provenance,
    )
    with progress_bar() as progress:
        trained = train_length(answered, training, progress=progress)
    bundle.save(trained, output)
    for trap, count in trained.facts["traps"].items():
        note(f"{count:,} {trap}")
    if trained.facts["cut_tokens"] is None and tokenizer == ESTIMATED:
        note("no cut answers found; estimates blur their pile-up: give --tokenizer or --cut if some were")
    rows = [summarise_lengths(output, trained)]
    emit(rows, form, lambda width: plain_table(rows, list(rows[0]), width=width))


@app.command("predict-length", rich_help_panel=LENGTHS)
def predict_length_command(
    text: Annotated[
        str | None, typer.Argument(help="A first message; - reads it from stdin.", show_default=False)
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(
            "--file", help="Conversations to be answered: chat JSON, JSONL or .txt; may be repeated."
        ),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="Method to serve with; its measured shift is applied.")
    ] = "fp16",
    model: Annotated[
        str | None, typer.Option("--model", help="Served model, which a shift may have been measured on.")
    ] = None,
    predictor: Annotated[
        Path | None, typer.Option("--predictor", help="Bundle of lengths; the packaged one if not given.")
    ] = None,
    shifts: Annotated[
        Path | None,
        typer.Option("--shifts", help="Of `kvpred shift --output`; the packaged ones if not given."),
    ] = None,
    stop_by: Annotated[
        str | None, typer.Option("--stop-by", help="Tokens: also print how likely answers end within them.")
    ] = None,
    level: Annotated[float, typer.Option("--level", help="Level of the intervals, 0.5 to 0.95.")] = 0.9,
    form: FormatOption = Format.table,
) -> None:
    """Predict how long the answers to conversations will be, in tokens.

    A conversation ends with the user's message and holds what was said before it, which tells most of the
    length. The median is the best guess for one answer, the mean is what to sum for many.

    Example: kvpred predict-length "Write a story about a lighthouse, in 300 words." --method kivi
    """
    import kvpred
    from kvpred.cli.values import integers
    from kvpred.predictors.length import bundle
    from kvpred.reports.lists import plain_table
    from kvpred.workflows.lengths import read_asked

    if (text is None) == (not file):
        raise UsageError("give one message, or --file with conversations.")
    bounds = integers("--stop-by", stop_by) if stop_by else []
    asked = read_asked(file or (), text=sys.stdin.read() if text == "-" else text)
    estimates = kvpred.predict_length(
        [conversation for _, conversation in asked],
        method=method,
        predictor=bundle.load(predictor) if predictor else None,
        shifts=shifts,
        model=model,
        level=level,
    )
    rows: list[dict[str, Any]] = []
    for (name, _), estimate in zip(asked, estimates, strict=True):
        row = {"id": name, **asdict(estimate)}
        row["quantiles"] = {f"{level:g}": tokens for level, tokens in estimate.quantiles.items()}
        rows.append(row | {f"stops_by_{bound}": estimate.stops_by(bound) for bound in bounds})
    shown = [{key.removesuffix("_tokens"): _rounded(value) for key, value in row.items()} for row in rows]
    columns = ["id", "method", "median", "mean", "low", "high", *(f"stops_by_{bound}" for bound in bounds)]
    emit(rows, form, lambda width: plain_table(shown, [*columns, "basis"], width=width))
    if form is Format.table:
        for provenance in dict.fromkeys(estimate.provenance for estimate in estimates):
            note(f"basis: {provenance}")


def show_lengths(
    data: Sequence[Path],
    bundles: Sequence[Path],
    *,
    tokenizer: str,
    cut: int | None,
    report: Path | None,
    seed: int,
    form: Format,
) -> None:
    """Judge models of lengths, the packaged one if none is named, print and write the report."""
    import kvpred
    from kvpred.predictors.length import bundle
    from kvpred.reports.folder import check_report_folder
    from kvpred.reports.length_accuracy import (
        length_accuracy,
        length_record,
        length_sheets,
        scores_sheet,
        write_length_report,
    )
    from kvpred.reports.tables import rich_tables
    from kvpred.workflows.lengths import Answered, judge_lengths

    if report is not None:
        check_report_folder(report)
    folders = list(bundles) or [kvpred.PACKAGED_LENGTHS]
    models = [(folder, bundle.load(folder)) for folder in folders]
    judged = judge_lengths(Answered(data, tokenizer=tokenizer, cut_tokens=cut), models)
    found = length_accuracy(judged.table.turns, judged.predicted, judged.folds, notes=judged.notes, seed=seed)
    if report is not None:
        announce(write_length_report(found, report))
    rows = scores_sheet(found).records() if form is Format.csv else [length_record(found)]
    emit(rows, form, lambda width: rich_tables(length_sheets(found), notes=found.notes))


def _rounded(value: Any) -> Any:
    """Shorten a number for people: whole tokens, shares with two digits."""
    if not isinstance(value, float) or math.isnan(value):
        return value
    return round(value) if value >= 2 else round(value, 2)

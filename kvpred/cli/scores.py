"""``kvpred collect-scores``: how well a model answers long prompts under each method."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from kvpred.cli.app import JUDGE, Format, FormatOption, app
from kvpred.cli.engine import (
    DtypeOption,
    EngineSettingsOption,
    RunDeviceOption,
    RunEngineOption,
    RunModelOption,
    ServedNameOption,
    UrlOption,
)
from kvpred.cli.output import emit, note, progress_bar
from kvpred.cli.values import pairs, seconds

_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}


@app.command("collect-scores", rich_help_panel=JUDGE)
def collect_scores_command(
    samples: Annotated[
        Path, typer.Option("--samples", help="LongBench's JSONL, one file or a folder of them.")
    ],
    engine: RunEngineOption,
    method: Annotated[
        str, typer.Option("--method", help="Methods separated by commas, or all; fp16 is always scored.")
    ] = "all",
    model: RunModelOption = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="Folder or GGUF file; an installed package's if not given."),
    ] = None,
    datasets: Annotated[
        str | None, typer.Option("--datasets", help="Separated by commas; all of the samples' if not given.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first so many samples of each dataset.")
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", min=1, help="Of prompt and answer; the model's context if not given."),
    ] = None,
    templates: Annotated[
        Path | None, typer.Option("--templates", help="JSON of dataset to prompt, such as LongBench's own.")
    ] = None,
    chat: Annotated[
        str | None,
        typer.Option(
            "--chat", help=r"Text around {prompt} where datasets are asked in a chat; \n ends a line."
        ),
    ] = None,
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer", help="Counts and cuts: own (of the weights), a file, llama-3, estimated ..."
        ),
    ] = "own",
    device: RunDeviceOption = None,
    dtype: DtypeOption = "bfloat16",
    url: UrlOption = None,
    served_name: ServedNameOption = None,
    option: EngineSettingsOption = None,
    output: Annotated[Path, typer.Option("--output", help="Folder of the scores.")] = Path("scores"),
    keep_answers: Annotated[
        bool, typer.Option("--keep-answers", help="Keep what was answered in the journal.")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="Time such as 90s, 10m or 2h, after which no answer starts."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Go on with the scores that lie there, or replace them."),
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the answers that are left; make none.")
    ] = False,
    form: FormatOption = Format.table,
) -> None:
    """Answer long prompts greedily under each method on an engine, and score the answers as LongBench does.

    Each method first proves that it took effect; then they take turns at every sample. Every answer's score
    is on disk before the next one starts: an interrupted call is repeated to go on. `kvpred negatives` reads
    the folder.

    Example: kvpred collect-scores --samples data/measured/scores/samples.jsonl --engine openvino --dry-run
    """
    from kvpred.reports.lists import plain_table
    from kvpred.workflows import measuring, scoring
    from kvpred.workflows.score_plan import ScoreRequest

    model, device = measuring.what_and_where(engine, model=model, device=device)
    request = ScoreRequest(
        samples=samples,
        measure=measuring.MeasureRequest(
            engine=engine,
            methods=dict.fromkeys(measuring.methods_of(engine, method), ()),
            model=model,
            weights=weights,
            device=device,
            dtype=dtype,
            urls=dict(pairs("--url", url or (), alone="")),
            served_name=served_name,
            options=dict(pairs("--option", option or ())),
        ),
        datasets=[name.strip() for name in datasets.split(",")] if datasets is not None else [],
        limit=limit,
        max_tokens=max_tokens,
        templates=templates,
        chat=None if chat is None else re.sub(r"\\([nt\\])", lambda found: _ESCAPES[found[1]], chat),
        tokenizer=tokenizer,
        keep_answers=keep_answers,
    )
    budget_s = None if budget is None else seconds("--budget", budget)
    if dry_run:
        rows = scoring.left_to_score(request, output)
        note(f"{sum(row['answers'] for row in rows):,} answers left")
        emit(rows, form, lambda width: plain_table(rows, list(rows[0]) if rows else (), width=width))
        return
    with progress_bar() as progress:
        runs = scoring.collect_scores(request, output, resume=resume, budget_s=budget_s, progress=progress)
    for remark in scoring.remarks(output):
        note(remark)
    for proof in measuring.unproven(output) if runs else ():
        note(f"{proof.method} is not proven: it {proof.text}")
    note(f"scores under {output}" if runs else "nothing scored: no sample is finished under every method")
    found = scoring.summary(runs)
    emit(found, form, lambda width: plain_table(found, list(found[0]) if found else (), width=width))

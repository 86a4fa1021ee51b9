"""``kvpred collect-lengths``: how long a model's answers are under each method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvpred.cli.app import MEASURE, Format, FormatOption, MethodOption, ModelOption, app
from kvpred.cli.output import emit, note, progress_bar
from kvpred.cli.values import numbers, seconds, shard_of


@app.command("collect-lengths", rich_help_panel=MEASURE)
def collect_lengths_command(
    prompts: Annotated[
        list[Path],
        typer.Option("--prompts", help="Conversations: ShareGPT JSON, chat JSON or JSONL; may be repeated."),
    ],
    method: MethodOption = "all",
    model: ModelOption = "smollm2-135m",
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="Folder or GGUF file; an installed package's if not given."),
    ] = None,
    temperature: Annotated[
        str,
        typer.Option(
            "--temperature", help="Of fp16, separated by commas; other methods take the nearest to 1."
        ),
    ] = "1",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Answers to each prompt, seeds 0, 1 ...")] = 2,
    n_prompts: Annotated[
        int, typer.Option("--n-prompts", min=1, help="Drawn from the conversations, one of each.")
    ] = 104,
    max_chars: Annotated[
        int, typer.Option("--max-chars", min=1, help="Of a prompt and all that was said before it.")
    ] = 3000,
    rule: Annotated[
        str,
        typer.Option(
            "--rule",
            help="turns: any turn, with its history; vllm: first turns, as its benchmark draws them.",
        ),
    ] = "turns",
    cap: Annotated[int, typer.Option("--cap", min=1, help="Tokens at which an answer is stopped.")] = 384,
    bsz: Annotated[int, typer.Option("--bsz", min=1, help="Answers of one batch.")] = 32,
    shard: Annotated[
        str, typer.Option("--shard", help="K/N: the K-th of N processes, each with an --output of its own.")
    ] = "1/1",
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:0.")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="bfloat16, float16 or float32.")] = "bfloat16",
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Of torch on a CPU; its own choice if not given.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the choice of prompts.")] = 0,
    output: Annotated[Path, typer.Option("--output", help="Folder of journal, table and manifest.")] = Path(
        "lengths"
    ),
    budget: Annotated[
        str | None, typer.Option("--budget", help="Time such as 90s, 10m or 2h, after which no batch starts.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with what lies there, or replace it.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the batches that are left; generate nothing.")
    ] = False,
    form: FormatOption = Format.table,
) -> None:
    """Sample answers to real prompts through each method's real cache, and record how long they are.

    The same prompt and seed meet the same random numbers under every method. Lengths are recorded, never
    texts. Every batch is on disk before the next one starts: an interrupted call is repeated to go on.

    Example: kvpred collect-lengths --prompts conversations.json --method h2o --output my-lengths --dry-run
    """
    from kvpred.data.chat_files import read_conversations
    from kvpred.errors import UsageError
    from kvpred.methods import get_method, list_methods, split_methods
    from kvpred.models import get_model
    from kvpred.reports.lists import plain_table
    from kvpred.workflows.collecting import (
        CollectRequest,
        choose_prompts,
        collect,
        left_to_collect,
        serving_prompts,
        summary,
    )

    everything = method.strip().lower() == "all"
    methods = (
        [m.spec for m in list_methods()]
        if everything
        else [get_method(m).spec for m in split_methods(method)]
    )
    conversations = [one for path in prompts for one in read_conversations(path).conversations]
    if rule == "vllm":
        drawn, left_out = serving_prompts(
            conversations, n_prompts=n_prompts, seed=seed, cap=cap, model=get_model(model)
        )
        for reason, number in left_out.items():
            note(f"{number:,} {reason}")
    elif rule == "turns":
        drawn = choose_prompts(conversations, n_prompts=n_prompts, max_chars=max_chars, seed=seed)
    else:
        raise UsageError(f"--rule {rule!r} is not known: use turns or vllm.")
    request = CollectRequest(
        prompts=drawn,
        methods=methods,
        temperatures=numbers("--temperature", temperature),
        n_seeds=seeds,
        cap=cap,
        bsz=bsz,
        shard=shard_of("--shard", shard),
        model=model,
        weights=weights,
        device=device,
        dtype=dtype,
        threads=threads,
    )
    if dry_run:
        left = left_to_collect(request, output)
        rows = [
            {"method": b.method.spec, "temperature": b.temperature, "answers": len(b.pairs)} for b in left
        ]
        note(f"{len(left)} batches left, {sum(len(batch.pairs) for batch in left):,} answers")
        emit(rows, form, lambda width: plain_table(rows, list(rows[0]) if rows else (), width=width))
        return
    budget_s = None if budget is None else seconds("--budget", budget)
    with progress_bar() as progress:
        runs = collect(request, output, resume=resume, budget_s=budget_s, progress=progress)
    note(f"{len(runs):,} lengths under {output}" if runs else "nothing collected: no batch fits the budget")
    found = summary(runs)
    emit(found, form, lambda width: plain_table(found, list(found[0]) if found else (), width=width))

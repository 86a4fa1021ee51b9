"""``kvpred measure``: whole batches, or requests that come over time, served and timed on this host."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvpred.cli.app import MEASURE, Format, FormatOption, app
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
from kvpred.cli.values import integers, pairs, rates, seconds
from kvpred.cli.workload import ArrivalsOption, ConversationsOption, CvOption, RequestsOption, TokenizerOption
from kvpred.errors import UsageError

if TYPE_CHECKING:
    from kvpred.workflows.serving import TrafficRequest


@app.command("measure", rich_help_panel=MEASURE)
def measure_command(
    engine: RunEngineOption,
    method: Annotated[
        str, typer.Option("--method", help="Methods separated by commas, or all; fp16 is always measured.")
    ] = "all",
    model: RunModelOption = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Folder or GGUF file of the model's weights.")
    ] = None,
    bsz: Annotated[
        str, typer.Option("--bsz", help="Sequences of a batch; several separated by commas.")
    ] = "1,2,4,8",
    prompt_len: Annotated[
        str | None, typer.Option("--prompt-len", help="Tokens of each prompt; several separated by commas.")
    ] = None,
    output_len: Annotated[int, typer.Option("--output-len", min=1, help="Tokens of each answer.")] = 32,
    grid: Annotated[
        Path | None, typer.Option("--grid", help="TOML file with bsz, prompt_len, output_len and max_tokens.")
    ] = None,
    plan: Annotated[
        int | None,
        typer.Option(
            "--plan", min=1, help="Let the predictor choose so many sites; few suffice beside fp16."
        ),
    ] = None,
    predictor: Annotated[
        Path | None, typer.Option("--predictor", help="Bundle that plans; nominal rates if not given.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Most tokens of a planned batch.")
    ] = 16384,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Rounds; each visits every site.")] = 5,
    device: RunDeviceOption = None,
    dtype: DtypeOption = "bfloat16",
    url: UrlOption = None,
    served_name: ServedNameOption = None,
    option: EngineSettingsOption = None,
    conversations: ConversationsOption = None,
    qps: Annotated[
        str,
        typer.Option(
            "--qps", help="Rates of --conversations, per second, or inf.", rich_help_panel="Requests"
        ),
    ] = "0.5,1,inf",
    n_requests: RequestsOption = None,
    arrivals: ArrivalsOption = None,
    cv: CvOption = 1.0,
    output_cap: Annotated[
        int, typer.Option("--output-cap", min=1, help="Longer answers end there.", rich_help_panel="Requests")
    ] = 128,
    tokenizer: TokenizerOption = "estimated",
    output: Annotated[Path, typer.Option("--output", help="Folder of the runs.")] = Path("runs"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of random weights and prompts.")] = 0,
    budget: Annotated[
        str | None, typer.Option("--budget", help="Time such as 90s, 10m or 2h, after which no run starts.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Go on with the runs that lie there, or replace them."),
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs that are left; make none.")
    ] = False,
    form: FormatOption = Format.table,
) -> None:
    """Serve real batches on an engine and time prefill and decode: the runs that predictions are judged by.

    Each method first proves that it took effect and serves no garbage; then they take turns at every site.
    With --conversations, their first messages come over time instead, --bsz (the largest) at most in service.
    Every run is on disk before the next one starts: an interrupted call is repeated to go on.

    Example: kvpred measure --engine openvino --method h2o,kv-int8 --plan 8 --output my-runs --dry-run
    """
    from kvpred.data.grids import read_grid_file
    from kvpred.evaluation.served import served_sites
    from kvpred.reports.lists import plain_table
    from kvpred.reports.served import served_table
    from kvpred.workflows import measure_sites, measuring
    from kvpred.workflows.serving import TrafficRequest
    from kvpred.workflows.workloads import WorkloadRequest

    model, device = measuring.what_and_where(engine, model=model, device=device)
    methods = measuring.methods_of(engine, method)
    ways = (prompt_len, grid, plan)
    if sum(given is not None for given in ways) > 1:
        raise UsageError("give one of --prompt-len, --grid and --plan")
    if conversations and ways != (None, None, None):
        raise UsageError("--conversations say what is served: leave --prompt-len, --grid and --plan out")
    if plan is not None:
        from kvpred.predictors import bundle

        sites = measure_sites.planned_sites(
            methods,
            output,
            model=model,
            n_sites=plan,
            predictor=bundle.load(predictor) if predictor else None,
            bsz=integers("--bsz", bsz),
            max_tokens=max_tokens,
            output_len=output_len,
            resume=resume,
        )
    else:
        asked = (
            read_grid_file(grid, measure_sites.MeasureGrid)
            if grid is not None
            else measure_sites.MeasureGrid(
                bsz=integers("--bsz", bsz),
                prompt_len=integers("--prompt-len", prompt_len or "256,1024"),
                output_len=output_len,
            )
        )
        sites = dict.fromkeys(methods, asked.sites())
    request = measuring.MeasureRequest(
        engine=engine,
        methods=sites,
        model=model,
        weights=weights,
        device=device,
        dtype=dtype,
        repeats=repeats,
        urls=dict(pairs("--url", url or (), alone="")),
        served_name=served_name,
        options=dict(pairs("--option", option or ())),
        seed=seed,
    )
    budget_s = None if budget is None else seconds("--budget", budget)
    if conversations:
        workload = WorkloadRequest(
            conversations=conversations,
            tokenizer=tokenizer,
            arrivals=arrivals,
            cv=cv,
            n_requests=n_requests or 200,
            seed=seed,
        )
        most = max(integers("--bsz", bsz))
        traffic = TrafficRequest(request, workload, rates("--qps", qps), max_bsz=most, output_cap=output_cap)
        _serve(traffic, output, budget_s=budget_s, resume=resume, dry_run=dry_run, form=form)
        return
    if dry_run:
        left = measuring.left_to_measure(request, output)
        rows = [{"method": m, **asdict(site), "repeat": r, "expected_s": s} for m, site, r, s in left]
        note(f"{len(rows)} runs left, about {sum(row['expected_s'] for row in rows) / 60:.0f} minutes")
        emit(rows, form, lambda width: plain_table(rows, list(rows[0]) if rows else (), width=width))
        return
    with progress_bar() as progress:
        runs = measuring.measure(request, output, resume=resume, budget_s=budget_s, progress=progress)
    found = served_sites(runs)
    if marked := sum(site.marked for site in found):
        note(f"{marked} of {sum(site.runs for site in found)} runs are marked: a busy host, or a slower one")
    for proof in measuring.unproven(output) if found else ():
        note(f"{proof.method} is not proven: it {proof.text}")
    note(f"runs under {output}" if found else "nothing measured: no run fits the budget")
    emit([asdict(site) for site in found], form, lambda width: served_table(found, width=width))


def _serve(
    request: TrafficRequest,
    output: Path,
    *,
    budget_s: float | None,
    resume: bool,
    dry_run: bool,
    form: Format,
) -> None:
    """Serve requests over time, or list the runs that are left."""
    from kvpred.evaluation.traffic import joined, summarise
    from kvpred.reports.lists import plain_table
    from kvpred.reports.tables import rich_tables
    from kvpred.reports.traffic import summary_sheet
    from kvpred.workflows import serving

    if dry_run:
        rows = [{"round": r, "load": load, "method": m} for r, load, m in serving.runs_left(request, output)]
        note(f"{len(rows)} runs left")
        emit(rows, form, lambda width: plain_table(rows, list(rows[0]) if rows else (), width=width))
        return
    with progress_bar() as progress:
        found = serving.serve(request, output, resume=resume, budget_s=budget_s, progress=progress)
    note(f"requests under {output}" if found else "nothing served: no run fits the budget")
    sheet = summary_sheet([summarise(*key, served) for key, served in joined(found).items()])
    emit(sheet.records(), form, lambda width: rich_tables([sheet]))

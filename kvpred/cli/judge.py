"""``kvpred validate`` and ``kvpred audit``: how good are the predictions, how real are the measurements."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvpred.cli.app import JUDGE, Format, FormatOption, LevelOption, PredictorOption, ReportOption, app
from kvpred.cli.output import announce, emit, note, progress_bar
from kvpred.errors import UsageError

if TYPE_CHECKING:
    from kvpred.evaluation.live_report import LiveValidation
    from kvpred.evaluation.traffic import JudgedTraffic
    from kvpred.workflows.live import LiveRequest

_live = partial(typer.Option, rich_help_panel="With --live")
_of_traffic = partial(typer.Option, rich_help_panel="Requests over time (--served)")
_of_lengths = partial(typer.Option, rich_help_panel="With --lengths")
RunsOption = Annotated[
    list[Path] | None,
    typer.Option("--runs", help="Runs that the predictor has not seen: CSV files, or folders of them."),
]


@app.command("validate", rich_help_panel=JUDGE)
def validate_command(
    predictor: PredictorOption = None,
    runs: RunsOption = None,
    pool_labels: Annotated[
        bool, typer.Option("--pool-labels", help="Take a published table's model names as repeats.")
    ] = False,
    profile: Annotated[
        Path | None, typer.Option("--profile", help="Judge this operator profile instead, or a root of them.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Device, if the profile does not say.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model, if the profile does not say.")] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help="Method, if the profile does not say; methods to measure with --live."),
    ] = None,
    report: ReportOption = None,
    level: LevelOption = 0.9,
    seed: Annotated[int, typer.Option("--seed", help="Of random rows and random sites.")] = 0,
    live: Annotated[
        bool,
        _live("--live", help="Predict unseen sites, measure them on this host, and judge."),
    ] = False,
    sites: Annotated[int, _live("--sites", min=1, help="Sites drawn at random, for every method.")] = 12,
    output: Annotated[Path, _live("--output", help="Folder of predictions, runs and report.")] = Path("live"),
    weights: Annotated[
        Path | None, _live("--weights", help="Folder or GGUF file of the model's weights.")
    ] = None,
    dtype: Annotated[
        str, _live("--dtype", help="bfloat16, float16 or float32, as in calibration.")
    ] = "bfloat16",
    repeats: Annotated[int, _live("--repeats", min=1, help="Rounds; each visits every site.")] = 5,
    budget: Annotated[
        str | None, _live("--budget", help="Time such as 90s, 10m or 2h, after which no run starts.")
    ] = None,
    option: Annotated[
        list[str] | None, _live("--option", help="The engine's own KEY=VALUE; may be repeated.")
    ] = None,
    url: Annotated[
        list[str] | None, _live("--url", help="Of a server, or METHOD=URL; may be repeated.")
    ] = None,
    served_name: Annotated[str | None, _live("--served-name", help="The model's name at the server.")] = None,
    lengths: Annotated[
        list[Path] | None,
        _of_lengths("--lengths", help="Judge lengths predicted of the answers in these conversations."),
    ] = None,
    against: Annotated[
        list[Path] | None, _of_lengths("--against", help="Another bundle to compare with; may be repeated.")
    ] = None,
    tokenizer: Annotated[
        str, _of_lengths("--tokenizer", help="That counts the answers, as in `kvpred train-length`.")
    ] = "estimated",
    cut: Annotated[
        int | None, _of_lengths("--cut", min=1, help="Tokens at which answers were cut, if not found.")
    ] = None,
    served: Annotated[
        Path | None,
        _of_traffic("--served", help="Simulate the requests that `kvpred measure --conversations` served."),
    ] = None,
    scheduler: Annotated[
        str | None,
        _of_traffic("--scheduler", help="vllm (prompts first) or sarathi; the engine's own if not given."),
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Judge a predictor: on its own sites, held out, on runs that it has not seen, or on new ones (--live).

    With --lengths it judges a model of response lengths, on conversations that it has not seen: those that it
    has learnt from are predicted by models of other folds.

    With --served it simulates requests that came over time and were served for real; --lengths then names
    the conversations that they were drawn from, so that their predicted lengths are judged too.

    With --live the predictions of unseen sites are on disk before the first of them is measured; repeat an
    interrupted call to go on. It exits with 0 if the verdict is good or usable, with 1 if it is unreliable.

    Example: kvpred validate --report accuracy-report
    """
    if live:
        if runs or profile or report or pool_labels or predictor is None:
            raise UsageError(
                "--live needs the --predictor that `kvpred calibrate` made, and writes its report into "
                "--output: leave --runs, --profile, --pool-labels and --report out"
            )
        from kvpred.cli.values import pairs, seconds
        from kvpred.workflows.live import LiveRequest

        request = LiveRequest(
            predictor=Path(predictor),
            n_sites=sites,
            methods=method or "all",
            model=model,
            weights=weights,
            dtype=dtype,
            repeats=repeats,
            level=level,
            seed=seed,
            urls=dict(pairs("--url", url or (), alone="")),
            served_name=served_name,
            options=dict(pairs("--option", option or ())),
        )
        _validate_live(
            request, output, budget_s=None if budget is None else seconds("--budget", budget), form=form
        )
        return
    if served is not None:
        if runs or profile or pool_labels or predictor is None:
            raise UsageError(
                "--served needs the --predictor that was calibrated on the same engine, and judges requests "
                "alone: leave --runs, --profile and --pool-labels out"
            )
        from kvpred.workflows.traffic import judge_served

        found = judge_served(
            served,
            Path(predictor),
            scheduler=scheduler,
            conversations=lengths or (),
            tokenizer=tokenizer,
            seed=seed,
            progress=note,
        )
        _show_traffic(found, report, form=form)
        return
    if lengths:
        if runs or profile or pool_labels:
            raise UsageError("--lengths judges lengths alone: leave --runs, --profile and --pool-labels out")
        from kvpred.cli.lengths import show_lengths

        bundles = [*([Path(predictor)] if predictor else []), *(against or ())]
        show_lengths(lengths, bundles, tokenizer=tokenizer, cut=cut, report=report, seed=seed, form=form)
        return
    from kvpred.reports.tables import rich_tables
    from kvpred.reports.validation import validation_record, validation_sheets, write_validation
    from kvpred.workflows.validation import validate

    if profile is not None:
        if runs or predictor or report:
            raise UsageError("--profile judges operators alone: leave --predictor, --runs and --report out")
        _validate_profile(profile, device=device, model=model, method=method, seed=seed, form=form)
        return
    result = validate(
        predictor, runs=runs or (), pool_labels=pool_labels, level=level, seed=seed, progress=note
    )
    if report is not None:
        written = write_validation(result, report)
        announce(written)
    if form is Format.csv:
        emit(validation_sheets(result)[1].records(), form, lambda width: "")
    else:
        emit(
            [validation_record(result)],
            form,
            lambda width: rich_tables(validation_sheets(result), notes=result.notes),
        )


def _validate_live(request: LiveRequest, output: Path, *, budget_s: float | None, form: Format) -> None:
    from kvpred.reports.folder import check_report_folder
    from kvpred.workflows.live import REPORT, validate_live

    check_report_folder(output / REPORT)
    with progress_bar() as measuring:
        result = validate_live(request, output, budget_s=budget_s, progress=note, measuring=measuring)
    show_live(result, output / REPORT, form=form)


def show_live(result: LiveValidation, folder: Path, *, form: Format) -> None:
    """Write a live validation's report, print it, and exit with 1 if the verdict is unreliable."""
    from kvpred.evaluation.verdict import UNRELIABLE
    from kvpred.reports.live import live_notes, live_record, live_sheets, sites_sheet, write_live
    from kvpred.reports.tables import rich_tables

    written = write_live(result, folder)
    announce(written)
    rows = sites_sheet(result.report).records() if form is Format.csv else [live_record(result)]
    emit(rows, form, lambda width: rich_tables(live_sheets(result), notes=live_notes(result)))
    if result.verdict.word == UNRELIABLE:
        raise typer.Exit(1)


def _show_traffic(found: JudgedTraffic, report: Path | None, *, form: Format) -> None:
    from kvpred.reports.tables import rich_tables
    from kvpred.reports.traffic import traffic_notes, traffic_sheets, write_traffic

    notes = traffic_notes(found)
    if report is not None:
        announce(write_traffic(found, report))
    sheets = traffic_sheets(found.report)
    rows = sheets[1].records() if form is Format.csv else [{sheet.name: sheet.records() for sheet in sheets}]
    emit(rows, form, lambda width: rich_tables(sheets, notes=notes))


def _validate_profile(
    folder: Path, *, device: str | None, model: str | None, method: str | None, seed: int, form: Format
) -> None:
    from kvpred.reports import operators as reports
    from kvpred.reports.tables import rich_tables
    from kvpred.workflows.validation import validate_profile

    found = validate_profile(folder, device=device, model=model, method=method, seed=seed, progress=note)
    if isinstance(found, list):
        sheet = reports.errors_sheet(found)
        emit(sheet.records(), form, lambda width: rich_tables([sheet]))
        return
    emit(
        reports.profile_records(found),
        form,
        lambda width: rich_tables(reports.shown_sheets(found), notes=reports.NOTES),
    )


@app.command("audit", rich_help_panel=JUDGE)
def audit_command(
    paths: Annotated[
        list[Path], typer.Argument(help="Folders of operator profiles (searched), or CSV files of runs.")
    ],
    device: Annotated[str | None, typer.Option("--device", help="Device, if the data do not say.")] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="Engine, if the runs do not say.")] = None,
    form: FormatOption = Format.table,
) -> None:
    """Look for measurements that cannot be real: copies times a constant, impossible speeds, missing noise.

    Example: kvpred audit profiles/ runs.csv --device a6000 --engine lmdeploy
    """
    from dataclasses import asdict

    from kvpred.reports.lists import plain_table
    from kvpred.workflows.auditing import audit

    findings = audit(paths, device=device, engine=engine, progress=note)
    rows = [asdict(finding) for finding in findings]
    if not rows:
        note("nothing found")
    emit(
        rows,
        form,
        lambda width: plain_table(rows, ("severity", "check", "subject", "message"), width=width),
        columns=("check", "severity", "subject", "message"),
    )

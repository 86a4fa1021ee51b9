"""``kvpred negatives``: which samples does compression break, that the baseline answers well?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvpred.cli.app import JUDGE, Format, FormatOption, LevelOption, ReportOption, app
from kvpred.cli.output import announce, emit, note
from kvpred.cli.values import numbers, pairs
from kvpred.errors import UsageError

if TYPE_CHECKING:
    from kvpred.evaluation.negatives import NegativeStudy

# What tables are of, where it is among the thresholds: the paper's.
_USUAL_THRESHOLD = 0.1


class Center(StrEnum):
    """Centres of a dataset's baseline scores."""

    median = "median"
    mean = "mean"


class Definition(StrEnum):
    """Ways to count."""

    algorithm = "algorithm"
    artifact = "artifact"


@app.command("negatives", rich_help_panel=JUDGE)
def negatives_command(
    scores: Annotated[
        Path, typer.Option("--scores", help="Folder of scores: files <run>_<dataset>_eval.json.")
    ],
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", help="Run to compare with; the one named hf... or fp16... if not given."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", help="Run, or how only its name begins; or all but the baseline; may be repeated."
        ),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            "--group", help="NAME=RUN+RUN: count what all of these break, by a name; may be repeated."
        ),
    ] = None,
    threshold: Annotated[
        str, typer.Option("--threshold", help="Losses in percent that break a sample, separated by commas.")
    ] = "1,2,4,8,10,16,24,32",
    center: Annotated[
        Center, typer.Option("--center", help="Of a dataset's baseline scores, which benign samples reach.")
    ] = Center.median,
    definition: Annotated[
        Definition,
        typer.Option("--definition", help="Algorithm 1, or artifact: as the published script counts."),
    ] = Definition.algorithm,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out samples and datasets that not all runs have.")
    ] = False,
    level: LevelOption = 0.9,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the resampled samples.")] = 0,
    report: ReportOption = None,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export",
            help="JSON or CSV file for the last group's negative samples, at 10 % or the first threshold.",
        ),
    ] = None,
    benchmark: Annotated[
        Path | None, typer.Option("--benchmark", help="Exported file to score the methods on instead.")
    ] = None,
    risk: Annotated[
        bool,
        typer.Option(
            "--risk", help="Judge instead whether task type and sizes tell what breaks; seconds per run."
        ),
    ] = False,
    form: FormatOption = Format.table,
) -> None:
    """Find the samples that the baseline answers well and compression breaks, by method and together.

    Example: kvpred negatives --scores data/measured/scores/openvino --method all
    """
    if benchmark is not None:
        if baseline is not None or group or report is not None or export is not None or risk:
            raise UsageError("--benchmark goes with --scores, --method, --skip-missing and --format alone")
        _score(scores, benchmark, method or [], skip_missing=skip_missing, form=form)
        return

    from kvpred.evaluation import negatives
    from kvpred.evaluation.negative_benchmark import check_benchmark_path, write_benchmark
    from kvpred.reports.negatives import negatives_records, negatives_sheets, write_negatives_report
    from kvpred.workflows.negatives import study_folder

    if risk and (report is not None or export is not None or definition is Definition.artifact):
        raise UsageError("--risk goes without --report, --export and --definition artifact")
    if report is not None:
        from kvpred.reports.folder import check_report_folder

        check_report_folder(report)
    if export is not None:
        check_benchmark_path(export)
    study = study_folder(
        scores,
        baseline=baseline,
        methods=method or [],
        groups=_groups(group or []),
        thresholds=_shares(threshold),
        center=negatives.Center(center.value),
        definition=negatives.Definition(definition.value),
        skip_missing=skip_missing,
        level=level,
        seed=seed,
        progress=note,
    )
    shown = _USUAL_THRESHOLD if _USUAL_THRESHOLD in study.thresholds else study.thresholds[0]
    if risk:
        _judge_risk(scores, study, shown, seed=seed, form=form)
        return
    if report is not None:
        announce(write_negatives_report(study, report, threshold=shown))
    if export is not None:
        label = list(study.groups)[-1]
        items = write_benchmark(export, study, label, shown)
        count = f"{len(items)} negative sample{'s' * (len(items) > 1)}"
        note(f"wrote {export}: {count} of {label} at {100 * shown:g} %")
    if form is Format.table:
        from kvpred.reports.tables import rich_tables

        emit([], form, lambda width: rich_tables(negatives_sheets(study, shown), notes=study.notes))
    else:
        for text in study.notes:
            note(text)
        emit(negatives_records(study), form, lambda width: "")


def _judge_risk(scores: Path, study: NegativeStudy, threshold: float, *, seed: int, form: Format) -> None:
    """Print whether what is known of a request beforehand tells that a run breaks it."""
    from kvpred.reports.negatives_words import label_names
    from kvpred.reports.risk import risk_records, risk_sheets
    from kvpred.reports.tables import rich_tables
    from kvpred.workflows.risk import study_risk

    found = study_risk(
        scores,
        study.baseline,
        list(study.runs.values()),
        labels={
            study.groups[label][0]: name
            for label, name in label_names(study).items()
            if len(study.groups[label]) == 1
        },
        threshold=threshold,
        center=study.center,
        level=study.level,
        seed=seed,
    )
    emit(risk_records(found), form, lambda width: rich_tables(risk_sheets(found), notes=study.notes))


def _shares(text: str) -> list[float]:
    """Return percent as shares above 0 and below 1."""
    written = ",".join(part.strip().removesuffix("%") for part in text.split(","))
    found = numbers("--threshold", written)
    if any(value >= 100 for value in found):
        raise UsageError(f"--threshold {text!r}: write percent below 100, separated by commas.")
    return [value / 100 for value in found]


def _groups(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return the runs of NAME=RUN+RUN by name."""
    found: dict[str, list[str]] = {}
    for label, members in pairs("--group", texts):
        if label in found:
            raise UsageError(f"--group {label!r} is given twice")
        found[label] = [member.strip() for member in members.split("+")]
    return found


def _score(
    scores: Path, benchmark: Path, methods: Sequence[str], *, skip_missing: bool, form: Format
) -> None:
    """Print what runs score on an exported benchmark."""
    from kvpred.reports.lists import plain_table
    from kvpred.workflows.negatives import score_benchmark

    found = score_benchmark(scores, benchmark, methods, skip_missing=skip_missing, progress=note)
    rows = [asdict(row) for row in found]
    columns = ["name", "part", "run", "count", "missing", "baseline_score", "score"]
    emit(rows, form, lambda width: plain_table(rows, columns, width=width))

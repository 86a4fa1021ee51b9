"""``kvpred evidence``: what others measured, the nearest first."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvpred.cli.app import KNOW, Format, FormatOption, LevelOption, PredictorOption, app
from kvpred.cli.output import announce, emit, note
from kvpred.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kvpred.reports.sheets import Sheet


class Stage(StrEnum):
    """What published rows tell about."""

    prefill = "prefill"
    decode = "decode"
    e2e = "e2e"
    memory = "memory"


@app.command("evidence", rich_help_panel=KNOW)
def evidence_command(
    method: Annotated[
        str, typer.Option("--method", help="One method, or a published name such as exl2-q4.")
    ] = "",
    engine: Annotated[str, typer.Option("--engine", help="Engine, ours or as published.")] = "",
    device: Annotated[str, typer.Option("--device", help="Device, ours or as published.")] = "",
    model: Annotated[str, typer.Option("--model", help="Model, ours or as published.")] = "",
    prompt_len: Annotated[int | None, typer.Option("--prompt-len", help="Tokens of each prompt.")] = None,
    bsz: Annotated[int | None, typer.Option("--bsz", help="Sequences in the batch.")] = None,
    stage: Annotated[Stage | None, typer.Option("--stage", help="Only rows about this.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Rows to show.")] = 10,
    per_source: Annotated[
        int, typer.Option("--per-source", min=1, help="Rows of one source and stage at most.")
    ] = 1,
    score: Annotated[
        bool, typer.Option("--score", help="Score the directions that we predict against the rows.")
    ] = False,
    predictor: PredictorOption = None,
    level: LevelOption = 0.9,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the resampled sources.")] = 0,
    report: Annotated[
        Path | None, typer.Option("--report", help="Folder for an HTML page, CSV files and a PNG figure.")
    ] = None,
    curate: Annotated[
        Path | None, typer.Option("--curate", help="Collection of published rows to curate, a CSV file.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="With --curate: CSV file to write.")] = None,
    form: FormatOption = Format.table,
) -> None:
    """Show published measurements of compressed against 16-bit caches, the nearest first.

    Example: kvpred evidence --method kv-fp8 --device a100 --engine vllm
    """
    if (curate is None) != (output is None):
        raise UsageError("--curate and --output belong together: give both or neither")
    if curate is not None and output is not None:
        _curate(curate, output, form)
        return

    import kvpred
    from kvpred.data.evidence import read_evidence
    from kvpred.evaluation.evidence import nearest, wanted
    from kvpred.predictors.crossval import check_level
    from kvpred.reports.evidence import near_records, near_sheet, source_notes
    from kvpred.reports.evidence_score import score_notes, score_record, score_sheets

    check_level(level)
    if report is not None:
        from kvpred.reports.folder import check_report_folder

        check_report_folder(report)
    rows = read_evidence()
    question = wanted(
        method=method, engine=engine, device=device, model=model, prompt_len=prompt_len, bsz=bsz, rows=rows
    )
    found = nearest(question, rows=rows, stage=stage, limit=limit, per_source=per_source)
    if score or report is not None:
        from kvpred.evaluation.evidence_score import score_evidence
        from kvpred.predictors import bundle

        scored = score_evidence(rows, bundle.load(predictor or kvpred.PACKAGED), level=level, seed=seed)
        if report is not None:
            from kvpred.reports.evidence_figures import write_evidence_report

            announce(write_evidence_report(rows, scored, report, question=question, found=found))
        if score:
            sheets, notes = score_sheets(scored), score_notes(scored)
            records = sheets[0].records() if form is Format.csv else [score_record(scored)]
            emit(records, form, lambda width: _tables(sheets, notes))
            return
    if found and found[0].differs:
        note(
            f"no published row is of all that was asked; the nearest differs in {', '.join(found[0].differs)}"
        )
    emit(near_records(found), form, lambda width: _tables([near_sheet(found, question)], source_notes(found)))


def _tables(sheets: Sequence[Sheet], notes: Sequence[str]) -> RenderableType:
    from kvpred.reports.tables import rich_tables  # rich, which JSON and CSV do not need

    return rich_tables(sheets, notes=notes)


def _curate(collection: Path, output: Path, form: Format) -> None:
    """Curate a collection into a CSV file, and print what became of its rows."""
    from kvpred.data.evidence import write_evidence
    from kvpred.data.field import curate, unmatched
    from kvpred.reports.evidence import curation_sheet

    curated = curate(collection)
    write_evidence(output, curated.rows)
    sources = len({row.source_url for row in curated.rows})
    note(f"wrote {output}: {len(curated.rows)} rows of {sources} sources")
    names = ", ".join(f"{name} ({count})" for name, count in unmatched(curated.rows).items())
    sheet = curation_sheet(len(curated.rows), curated.left_out)
    emit(sheet.records(), form, lambda width: _tables([sheet], [f"Without a counterpart of ours: {names}."]))

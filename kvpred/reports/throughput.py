"""The throughput of measured runs as tables, as one JSON object, and as a folder with a page and its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from kvpred.data.sites import RunSite
from kvpred.evaluation.throughput import Setting, Throughput
from kvpred.evaluation.throughput_views import Tally, ThroughputViews, tally
from kvpred.methods import BASELINE
from kvpred.reports.figures import Figure
from kvpred.reports.folder import Written, write_report
from kvpred.reports.sheets import Column, Sheet, decimal, percent, sheet
from kvpred.reports.style import method_label
from kvpred.reports.throughput_engines import engine_speeds_figure, engines_figure
from kvpred.reports.throughput_figures import fixed_batch_figure, fixed_length_figure, speedup_figure
from kvpred.reports.throughput_panels import STAGES, VERBS, methods_of, site_label, tokens_per_second

_ENGINE, _STAGE, _METHOD = (
    Column("engine", "Engine"),
    Column("stage", "Stage"),
    Column("method", "Method", method_label),
)
_TALLY = (
    Column("cases", "Cases", str),
    Column("speedup", "Median speed-up", decimal),
    Column("faster", "Faster", str),
    Column("slower", "Slower", str),
    Column("within_noise", "Within noise", str),
    Column("noise_unknown", "Noise unknown", str),
    Column("below_1", "Below 1", str),
)
# Columns of the summary that a terminal has room for.
_FITTING = 12


def _cells(counted: Tally | None) -> tuple[Any, ...]:
    """Return the cells of a tally's columns; without any noise known there is no telling fast from slow."""
    if counted is None:
        return (None,) * len(_TALLY)
    told: tuple[int | None, ...] = (counted.faster, counted.slower, counted.within)
    if counted.unknown == counted.cases:
        told = (None, None, None)
    return (counted.cases, counted.median, *told, counted.unknown, counted.below)


def totals_sheet(views: ThroughputViews) -> Sheet:
    """Return one row per engine and stage: in how many cases compression is slower."""
    rows = [
        (name, stage, *_cells(counted))
        for setting, name in views.names.items()
        for stage in STAGES
        if (counted := tally(views.of(setting, stage=stage)))
    ]
    return sheet("totals", totals_finding(views), (_ENGINE, _STAGE, *_TALLY), rows)


def totals_finding(views: ThroughputViews) -> str:
    """Say in how many cases, a method at a site each, compression is slower than fp16."""
    said = []
    for stage, verb in VERBS.items():
        counted = tally(case for case in views.cases if case.stage == stage)
        if counted is not None:
            beyond = "" if counted.unknown == counted.cases else f", {counted.slower} of them beyond noise"
            said.append(f"{verb} slower than fp16 in {counted.below} of {counted.cases} cases{beyond}")
    return f"Compression {'; it '.join(said)}" if said else "No speed-ups: nothing to compare with fp16"


def summary_sheet(views: ThroughputViews) -> Sheet:
    """Return one row per engine, stage and method."""
    columns = (
        _ENGINE,
        _STAGE,
        _METHOD,
        Column("sites", "Sites", str),
        Column("noise", "Noise %", percent),
        Column("speedup", "Speed-up", decimal),
        Column("lowest", "Lowest", decimal),
        Column("lowest_at", "at"),
        Column("highest", "Highest", decimal),
        Column("highest_at", "at"),
        *_TALLY[2:],
    )
    rows = [
        _summary(name, stage, method, own)
        for setting, name in views.names.items()
        for stage in STAGES
        for method in methods_of(views.cases)
        if (own := views.of(setting, stage=stage, method=method))
    ]
    title = "Noise of a median, and speed-up against fp16 of the same engine: medians over the sites"
    return sheet("summary", title, columns, rows)


def _summary(name: str, stage: str, method: str, own: Sequence[Throughput]) -> tuple[Any, ...]:
    noises = [case.error for case in own if case.error is not None]
    start = (name, stage, method, len(own), median(noises) if noises else None)
    counted = tally(own)
    if counted is None:
        return (*start, *(None,) * 10)
    low, high = counted.lowest, counted.highest
    ends = (low.speedup, site_label(low.site), high.speedup, site_label(high.site))
    return (*start, counted.median, *ends, *_cells(counted)[2:])


def engine_table(views: ThroughputViews) -> Sheet:
    """Return one row per stage and method, one column per engine, for people."""
    columns = (
        _STAGE,
        _METHOD,
        Column("sites", "Shared sites", str),
        *(Column(name, name) for name in views.names.values()),
    )
    rows = []
    for (stage, method), side in views.sides.items():
        cells = [_verdict(side.get(setting, ())) for setting in views.names]
        rows.append((stage, method, len(next(iter(side.values()))), *cells))
    title = "Engines side by side: median speed-up at shared sites (+ won, − lost, ≈ within noise, ? unknown)"
    return sheet("engine_table", title, columns, rows)


def _verdict(cases: Sequence[Throughput]) -> str | None:
    """Show a median speed-up, and the cases won, lost and within noise."""
    counted = tally(cases)
    if counted is None:
        return None
    signs = zip("+−≈?", (counted.faster, counted.slower, counted.within, counted.unknown), strict=True)
    told = " ".join(f"{sign}{number}" for sign, number in signs if sign != "?" or number)
    return f"{counted.median:.2f}× ({told})"


def engines_sheet(views: ThroughputViews) -> Sheet:
    """Return one row per stage, method and engine: wins and losses at the sites that engines share."""
    rows = [
        (views.names[setting], stage, method, *_cells(tally(cases)))
        for (stage, method), side in views.sides.items()
        for setting, cases in side.items()
    ]
    title = "Engines at the sites that they share, by method"
    return sheet("engines", title, (_ENGINE, _STAGE, _METHOD, *_TALLY), rows)


def throughput_sheet(views: ThroughputViews) -> Sheet:
    """Return one row per engine, method, stage and site."""
    columns = (
        _ENGINE,
        Column("device", "Device"),
        Column("host", "Host"),
        _METHOD,
        _STAGE,
        Column("bsz", "Batch", str),
        Column("prompt_len", "Prompt tokens", str),
        Column("output_len", "Answer tokens", str),
        Column("throughput_tok_s", "Tokens/s", tokens_per_second),
        Column("error", "Standard error %", percent),
        Column("runs", "Repeats", str),
        Column("marked", "Marked", str),
        Column("marks", "Marks"),
        Column("doubtful", "Marked only"),
        Column("speedup", "Speed-up", decimal),
        Column("speedup_low", "from", decimal),
        Column("speedup_high", "to", decimal),
        Column("pairs", "Pairs", str),
        Column("told_apart", "Beyond noise", str),
    )
    rows = [_row(views.names[case.setting], case.setting, case.site, case) for case in views.cases]
    return sheet("throughput", "Throughput by site, and its speed-up against fp16", columns, rows)


def _row(name: str, setting: Setting, site: RunSite, case: Throughput) -> tuple[Any, ...]:
    return (
        name,
        setting.device,
        setting.host or None,
        case.method,
        case.stage,
        site.bsz,
        site.prompt_len,
        site.output_len if site.output_len > 1 else None,
        case.tok_s,
        case.error,
        case.runs,
        sum(case.marks.values()),
        ", ".join(f"{mark}: {number}" for mark, number in case.marks.items()) or None,
        case.doubtful,
        case.speedup,
        *(case.bounds or (None, None)),
        case.pairs if case.speedup is not None else None,
        case.told_apart,
    )


def terminal_sheets(views: ThroughputViews) -> list[Sheet]:
    """Return the tables that a terminal shows: totals, engines side by side, and methods one by one."""
    summary = summary_sheet(views)
    compared = any(case.speedup is not None for case in views.cases)
    return [
        *([totals_sheet(views)] if compared else []),
        *([engine_table(views)] if views.sides else []),
        replace(
            summary,
            columns=summary.columns[:_FITTING],
            rows=tuple(row[:_FITTING] for row in summary.rows),
        ),
    ]


def data_sheets(views: ThroughputViews) -> list[Sheet]:
    """Return the tables that are too long for the page."""
    return [throughput_sheet(views), *([engines_sheet(views)] if views.sides else [])]


def throughput_record(views: ThroughputViews) -> dict[str, Any]:
    """Return everything as one object that JSON can hold."""
    tables = [totals_sheet(views), summary_sheet(views), engines_sheet(views), throughput_sheet(views)]
    return {
        "model": views.model,
        "finding": totals_finding(views),
        "notes": list(views.notes),
        **{table.name: table.records() for table in tables},
    }


def throughput_figures(views: ThroughputViews) -> list[Figure]:
    """Return all figures that the runs have data for, in the order of reading."""
    found = [engines_figure(views)] if views.sides else []
    if len({case.setting for case in views.cases if case.method == BASELINE}) > 1:
        found.append(engine_speeds_figure(views))
    for setting in views.names:
        own = views.of(setting)
        found.append(fixed_batch_figure(views, setting))
        if len({case.site.bsz for case in own}) > 1:
            found.append(fixed_length_figure(views, setting))
        if any(case.speedup is not None for case in own):
            found.append(speedup_figure(views, setting))
    return found


def write_throughput_report(views: ThroughputViews, folder: Path) -> Written:
    """Write the page, its tables as CSV and its figures as PNG into a folder, in one step.

    Raises
    ------
    UsageError, MissingExtraError
        See `kvpred.reports.folder.write_report`.
    """
    *first, _ = terminal_sheets(views)
    return write_report(
        folder,
        title=f"Throughput of {views.model}",
        notes=views.notes,
        parts=[*first, *throughput_figures(views), summary_sheet(views)],
        data=data_sheets(views),
    )

"""A live validation as terminal tables, as one JSON object, and as a folder with a page and its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from kvpred.evaluation.live_report import LiveReport, LiveSite, LiveValidation
from kvpred.reports.axes import log_ticks, panels
from kvpred.reports.figures import Figure
from kvpred.reports.folder import Written, write_report
from kvpred.reports.sheets import Column, Sheet, decimal, milliseconds, percent, sheet, signed_percent
from kvpred.reports.style import GREY, layout, method_label, method_marker

_STAGE, _METHOD, _SITES = (
    Column("stage", "Stage"),
    Column("method", "Method", method_label),
    Column("n_sites", "Sites", str),
)


def live_sheets(result: LiveValidation) -> list[Sheet]:
    """Return the tables that a terminal shows: by stage, by method and stage, and every site."""
    return [stages_sheet(result.report), cells_sheet(result.report), sites_sheet(result.report)]


def stages_sheet(report: LiveReport) -> Sheet:
    """Return one row per stage: accuracy, intervals, signs of speed-ups and order of methods."""
    columns = (
        _STAGE,
        Column("accuracy", "Accuracy %", percent),
        Column("ceiling", "Noise ceiling %", percent),
        Column("skill", "Skill over copy %", percent),
        _SITES,
        Column("coverage", "Inside interval %", percent),
        Column("level", "Promised %", percent),
        Column("speedups", "Speed-ups told apart", str),
        Column("right_signs", "Sign right", str),
        Column("copy_right_signs", "Sign right by the copy", str),
        Column("pairs", "Pairs told apart", str),
        Column("right", "Ordered right", str),
        Column("tau_b", "Kendall's tau-b", decimal),
    )
    rows = [
        (
            s.stage, s.accuracy, s.ceiling, s.skill, s.intervals.n_sites, s.intervals.coverage, report.level,
            s.ranking.speedups, s.ranking.right_signs, s.copy_ranking.right_signs,
            s.ranking.pairs, s.ranking.right, s.ranking.tau_b,
        )
        for s in report.stages
    ]  # fmt: skip
    return sheet("stages", "Predicted before, measured after: all methods", columns, rows)


def cells_sheet(report: LiveReport) -> Sheet:
    """Return one row per stage and method."""
    columns = (
        _STAGE,
        _METHOD,
        _SITES,
        Column("accuracy", "Accuracy %", percent),
        Column("ceiling", "Noise ceiling %", percent),
        Column("error_of_median", "Repeat noise of the medians %", percent),
        Column("copy", "Copy of fp16's fit %", percent),
        Column("skill", "Skill over copy %", percent),
        Column("inside", "Inside interval", str),
        Column("speedups", "Speed-ups told apart", str),
        Column("right_signs", "Sign right", str),
    )
    rows = [[getattr(cell, column.name) for column in columns] for cell in report.cells]
    return sheet("accuracy", "By method and stage", columns, rows)


def sites_sheet(report: LiveReport) -> Sheet:
    """Return every site."""
    columns = (
        _STAGE,
        _METHOD,
        Column("bsz", "bsz", str),
        Column("prompt_len", "prompt_len", str),
        Column("output_len", "output_len", str),
        Column("predicted_s", "Predicted ms", milliseconds),
        Column("low_s", "Low ms", milliseconds),
        Column("high_s", "High ms", milliseconds),
        Column("copy_s", "Copy of fp16 ms", milliseconds),
        Column("measured_s", "Measured ms", milliseconds),
        Column("error_of_median", "± %", percent),
        Column("error", "Error %", signed_percent),
        Column("inside", "Inside interval", lambda inside: "yes" if inside else "no"),
        Column("count", "Runs", str),
        Column("marked", "Marked", str),
    )
    rows = [
        [getattr(site, c.name) if hasattr(site, c.name) else getattr(site.predicted, c.name) for c in columns]
        for site in report.sites
    ]
    return sheet("sites", "Predicted and measured, site by site", columns, rows)


def live_figure(report: LiveReport) -> Figure:
    """Draw predicted against measured times, a panel per stage, with intervals and the noise of the truth."""
    stages = [stage.stage for stage in report.stages]
    off = ", ".join(f"{stage.stage} {100 * (1 - stage.accuracy):.1f} %" for stage in report.stages)
    finding = f"Predictions made before measuring are off by {off} on average"
    plot = panels(1, len(stages), titles=stages)
    for column, stage in enumerate(stages, 1):
        _draw(plot, [site for site in report.sites if site.predicted.stage == stage], column)
        what = "prefill" if stage == "prefill" else "decode step"
        plot.update_xaxes(title_text=f"measured {what}, ms", row=1, col=column)
        plot.update_yaxes(title_text=f"predicted {what}, ms", row=1, col=column)
    plot.update_layout(layout(finding, height=560))
    return Figure("predicted_measured", finding, plot, ("sites",))


def _draw(plot: Any, sites: Sequence[LiveSite], column: int) -> None:
    """Draw one stage: where predicted equals measured, and each method's sites with bars both ways."""
    times = [1e3 * t for s in sites for t in (s.measured_s, s.predicted.low_s, s.predicted.high_s)]
    ends = [0.95 * min(times), 1.05 * max(times)]
    at = {"row": 1, "col": column}
    line = {"color": GREY, "width": 1}
    plot.add_scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip", showlegend=False, **at)
    for method in dict.fromkeys(site.predicted.method for site in sites):
        own = [site for site in sites if site.predicted.method == method]
        said = [site.predicted for site in own]
        label = method_label(method)
        plot.add_scatter(
            x=[1e3 * s.measured_s for s in own],
            y=[1e3 * p.predicted_s for p in said],
            error_x={
                "array": [1e3 * s.measured_s * s.error_of_median for s in own],
                "thickness": 1,
                "width": 0,
            },
            error_y={
                "array": [1e3 * (p.high_s - p.predicted_s) for p in said],
                "arrayminus": [1e3 * (p.predicted_s - p.low_s) for p in said],
                "thickness": 0.6,
                "width": 0,
            },
            text=[_place(site) for site in own],
            mode="markers",
            name=label,
            legendgroup=label,
            showlegend=column == 1,
            marker=method_marker(method),
            hovertemplate="%{text}<extra>" + label + "</extra>",
            **at,
        )
    axis = {"type": "log", "range": np.log10(ends).tolist(), **log_ticks(*ends)}
    plot.update_xaxes(**axis, **at)
    plot.update_yaxes(**axis, **at)


def _place(site: LiveSite) -> str:
    said = site.predicted
    return (
        f"bsz {said.bsz}, prompt_len {said.prompt_len}: predicted {1e3 * said.predicted_s:.1f} ms, "
        f"measured {1e3 * site.measured_s:.1f} ms ({100 * site.error:+.1f} %)"
    )


def live_notes(result: LiveValidation) -> list[str]:
    """Return what a reader must know of a live validation, a sentence or two each."""
    report = result.report
    notes = [
        f"Verdict: {result.verdict.word}: {result.verdict.reason}",
        f"Fitted to: {result.provenance}.",
        f"The predictions were written at {result.written_at.isoformat()}, before the first run; SHA-256 of "
        f"their file: {result.digest}. Their sites were drawn with seed {result.seed} among those that the "
        "predictor was not fitted to, inside the range that it was.",
        f"{len(report.sites)} predictions are judged by {report.n_runs} runs. Accuracy is the mean of "
        "1 - |predicted - measured| / measured; the noise ceiling is what a predictor reaches that knows "
        "every true time, given how repeats scatter.",
        "The copy takes fp16's own fit for every method, with the tokens that the method attends to; skill "
        "is 1 - error / error of the copy.",
        "Two methods are told apart at a site where the median of their paired log ratios exceeds two "
        "standard errors; only such pairs count for the order and for the sign of speed-ups.",
    ]
    if result.drift:
        changes = " and ".join(
            f"{100 * abs(factor - 1):.1f} % {'longer' if factor > 1 else 'less'} in {stage} "
            f"(accuracy without that {100 * steady:.1f} %)"
            for stage, factor in result.drift.items()
            if (steady := result.steady_accuracy.get(stage)) is not None
        )
        notes.append(f"fp16, measured again at sites that calibration knows, took {changes}.")
    notes += result.notes
    if report.unmeasured:
        notes.append(
            f"{len(report.unmeasured)} predictions are not judged, for nothing was measured there: the same "
            "call goes on where it ended."
        )
    return notes


def live_record(result: LiveValidation) -> dict[str, Any]:
    """Return everything as one object that JSON can hold."""
    report = result.report
    return {
        "predictor": result.name,
        "verdict": result.verdict.word,
        "reason": result.verdict.reason,
        "written_at": result.written_at.isoformat(),
        "digest": result.digest,
        "seed": result.seed,
        "level": report.level,
        "drift": dict(result.drift),
        "steady_accuracy": dict(result.steady_accuracy),
        "n_runs": report.n_runs,
        "marked": report.marked,
        "stages": [asdict(stage) for stage in report.stages],
        "cells": [asdict(cell) for cell in report.cells],
        "sites": sites_sheet(report).records(),
        "unmeasured": [asdict(one) for one in report.unmeasured],
        "notes": live_notes(result),
    }


def write_live(result: LiveValidation, folder: Path) -> Written:
    """Write the page, its tables as CSV and its figure as PNG into a folder, in one step."""
    report = result.report
    return write_report(
        folder,
        title=f"{result.name}: predicted, then measured",
        notes=live_notes(result),
        parts=[stages_sheet(report), live_figure(report), cells_sheet(report), sites_sheet(report)],
    )

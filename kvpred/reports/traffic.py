"""Requests served over time, and their simulation beside them: tables, and latencies as distributions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kvpred.data.requests import ServedRequests
from kvpred.evaluation.traffic import METRICS, JudgedTraffic, TrafficReport, TrafficSummary, joined
from kvpred.reports.axes import log_axis, panels
from kvpred.reports.figures import Figure
from kvpred.reports.folder import Written, write_report
from kvpred.reports.sheets import Column, Sheet, decimal, milliseconds, percent, sheet, signed_percent
from kvpred.reports.style import layout, method_label, method_marker

_HEIGHT, _SHARES = 330, np.linspace(0.0, 1.0, 101)
_RUN, _METHOD = Column("run", "Run"), Column("method", "Method", method_label)


def _tokens(value: float) -> str:
    return f"{value:,.1f}"


def _ratio(value: float) -> str:
    return f"{value:.3f}"


_SUMMARY = (
    Column("requests", "Requests", "{:,}".format),
    Column("ttft_mean_s", "TTFT mean s", decimal),
    Column("ttft_p99_s", "TTFT P99 s", decimal),
    Column("tpot_mean_s", "TPOT mean ms", milliseconds),
    Column("e2e_mean_s", "E2E mean s", decimal),
    Column("e2e_p50_s", "P50 s", decimal),
    Column("e2e_p95_s", "P95 s", decimal),
    Column("e2e_p99_s", "P99 s", decimal),
    Column("throughput_tok_s", "tok/s", _tokens),
    Column("device_s", "Busy ms per request", milliseconds),
    Column("busy", "Busy %", percent),
)
_ERRORS = {
    "e2e_mean_s": "E2E mean %",
    "e2e_p50_s": "P50 %",
    "e2e_p95_s": "P95 %",
    "e2e_p99_s": "P99 %",
    "ttft_mean_s": "TTFT mean %",
    "tpot_mean_s": "TPOT mean %",
    "throughput_tok_s": "tok/s %",
    "device_s": "Busy %",
}


def summary_sheet(summaries: Sequence[TrafficSummary], *, title: str = "Served requests") -> Sheet:
    """Return one line per run."""
    rows = ((one.run, one.method, *(getattr(one, c.name) for c in _SUMMARY)) for one in summaries)
    return sheet("served", title, (_RUN, _METHOD, *_SUMMARY), rows)


def traffic_sheets(report: TrafficReport) -> list[Sheet]:
    """Return what was measured, how far the simulation is off, by run and by method, and who is cheaper."""
    errors = tuple(Column(f"{name}_error", _ERRORS[name], signed_percent) for name in METRICS)
    each = sheet(
        "errors",
        "Simulated against measured",
        (
            _RUN,
            _METHOD,
            *errors,
            Column("e2e_p99_low_s", "P99 measured s, from", decimal),
            Column("e2e_p99_high_s", "to", decimal),
        ),
        (
            (c.measured.run, c.measured.method, *(c.error[m] for m in METRICS), c.p99_low_s, c.p99_high_s)
            for c in report.cells
        ),
    )
    methods = dict.fromkeys(cell.measured.method for cell in report.cells)
    means = tuple(Column(f"{name}_error", _ERRORS[name], percent) for name in METRICS)
    mean = sheet(
        "mean_errors",
        "Mean absolute error over the runs",
        (_METHOD, *means),
        ((method, *(report.mean_error(name, method=method) for name in METRICS)) for method in methods),
    )
    cheaper = sheet(
        "cheaper",
        f"Busy seconds per request over fp16's: the sign is right in {report.right} of {report.asked} "
        "cells that the noise leaves told apart",
        (
            Column("load", "Load"),
            _METHOD,
            Column("measured", "Measured", _ratio),
            Column("low", "from", _ratio),
            Column("high", "to", _ratio),
            Column("simulated", "Simulated", _ratio),
            Column("told_apart", "Told apart", _yes),
            Column("right", "Sign right", _yes),
        ),
        (
            (
                c.load,
                c.method,
                c.measured,
                c.low,
                c.high,
                c.simulated,
                c.told_apart,
                c.right if c.told_apart else None,
            )
            for c in report.cheaper
        ),
    )
    return [summary_sheet([cell.measured for cell in report.cells]), each, mean, cheaper]


def traffic_notes(judged: JudgedTraffic) -> list[str]:
    """Return what a reader must know, a sentence each."""
    notes = [
        "Errors are simulated / measured - 1, with the lengths of all answers known; the interval of the "
        "measured P99 is a bootstrap over the requests, 90 %."
    ]
    if judged.output_tokens is not None and judged.predicted_tokens is not None:
        off = judged.predicted_tokens / judged.output_tokens - 1
        notes.append(
            f"With lengths predicted (out of fold), all answers have {judged.predicted_tokens:,.0f} tokens "
            f"instead of {judged.output_tokens:,.0f}: {100 * off:+.1f} %."
        )
    return [*notes, *judged.notes]


def write_traffic(judged: JudgedTraffic, folder: Path) -> Written:
    """Write a page with all tables and the distributions of end-to-end latency."""
    figure, data = _distributions(judged)
    served, *others = traffic_sheets(judged.report)
    return write_report(
        folder,
        title="Requests served over time against their simulation",
        notes=traffic_notes(judged),
        parts=[figure, *others, served],
        data=[data],
    )


def _distributions(judged: JudgedTraffic) -> tuple[Figure, Sheet]:
    measured, simulated = joined(judged.measured), joined(judged.simulated)
    rows = [
        (run, method, kind, float(share), float(latency))
        for run, method in measured
        for kind, runs in (("measured", measured), ("simulated", simulated))
        for share, latency in zip(_SHARES, _quantiles(runs[run, method]), strict=True)
    ]
    columns = [_RUN, _METHOD, Column("kind", "Kind"), Column("share", "Share", percent)]
    data = sheet("e2e_cdf", "End-to-end latency", (*columns, Column("e2e_s", "E2E s", decimal)), rows)
    names = list(dict.fromkeys(run for run, _ in measured))
    methods = list(dict.fromkeys(method for _, method in measured))
    mean = judged.report.mean_error("e2e_mean_s")
    finding = f"Simulated end-to-end latencies (dashed) are {100 * (mean or 0):.1f} % off on average"
    plot = panels(len(names), 1, titles=names, spacing=0.25 / len(names))
    plot.update_layout(layout(finding, height=_HEIGHT * len(names) + 140))
    for number, run in enumerate(names, start=1):
        for method in methods:
            for kind, dash in (("measured", "solid"), ("simulated", "dash")):
                own = [row for row in rows if row[:3] == (run, method, kind)]
                plot.add_scatter(
                    x=[row[4] for row in own],
                    y=[100 * row[3] for row in own],
                    mode="lines",
                    line={"color": method_marker(method)["color"], "dash": dash},
                    name=method_label(method),
                    legendgroup=method,
                    showlegend=number == 1 and kind == "measured",
                    row=number,
                    col=1,
                )
        plot.update_xaxes(log_axis([row[4] for row in rows if row[0] == run]), row=number, col=1)
        plot.update_yaxes(title="Requests, %", range=[0, 102], row=number, col=1)
    plot.update_xaxes(title="End-to-end latency, s", row=len(names), col=1)
    return Figure("e2e_cdf", finding, plot, (data.name,)), data


def _quantiles(served: ServedRequests) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.asarray(np.quantile(served.e2e_s, _SHARES))


def _yes(value: bool) -> str:
    return "yes" if value else "no"

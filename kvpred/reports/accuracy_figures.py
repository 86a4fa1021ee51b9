"""The accuracy of a predictor, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kvpred.evaluation.accuracy_report import AccuracyReport, SitePrediction, SplitAccuracy
from kvpred.evaluation.few_shot import FewShotCell, FewShotReport, FewShotSummary
from kvpred.reports.axes import log_ticks
from kvpred.reports.figures import Figure
from kvpred.reports.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    STAGES,
    VERMILION,
    layout,
    method_label,
    method_marker,
)

_SPLIT_NAMES = {"lengths": "held-out lengths", "batches": "held-out batch sizes"}


def predicted_figure(report: AccuracyReport) -> Figure:
    """Draw predicted against measured times of one split, log-log, a panel per stage."""
    split = report.splits[0].split
    sites = [p for p in report.sites if p.split == split]
    stages = _stages(sites)
    off = 100 * float(np.mean([abs(p.error) for p in sites]))
    finding = f"Predictions of {_SPLIT_NAMES.get(split, split)} are {off:.1f} % off the medians on average"
    plot = _panels(1, len(stages), titles=stages)
    for column, stage in enumerate(stages, 1):
        own = [p for p in sites if p.stage == stage]
        ends, ticks = _diagonal(plot, own, column)
        for method in _methods(own):
            rows = [p for p in own if p.method == method]
            plot.add_scatter(
                x=[1e3 * p.measured_s for p in rows],
                y=[1e3 * p.predicted_s for p in rows],
                error_y={
                    "array": [1e3 * (p.high_s - p.predicted_s) for p in rows],
                    "arrayminus": [1e3 * (p.predicted_s - p.low_s) for p in rows],
                    "thickness": 0.6,
                    "width": 0,
                },
                text=[_place(p) for p in rows],
                row=1,
                col=column,
                **_points(method, shown=column == 1),
            )
        what = "prefill" if stage == "prefill" else "decode step"
        axis = {"type": "log", "range": np.log10(ends).tolist(), **ticks}
        plot.update_xaxes(title_text=f"measured {what}, ms", row=1, col=column, **axis)
        plot.update_yaxes(title_text=f"predicted {what}, ms", row=1, col=column, **axis)
    plot.update_layout(layout(finding, height=560))
    return Figure("predicted_measured", finding, plot, ("sites",))


def cells_figure(report: AccuracyReport) -> Figure:
    """Draw accuracy by method, a panel per stage and split, with the ceiling and the copy beside it."""
    first = report.splits[0]
    stages = list(dict.fromkeys(cell.stage for cell in first.cells))
    finding = (
        f"Held-out accuracy is {_range([s.mean for s in report.splits])} %; "
        f"copying fp16 reaches {_range([s.copy for s in report.splits])} %"
    )
    plot = _panels(
        len(stages),
        len(report.splits),
        titles=[f"{stage}: {split.split}" for stage in stages for split in report.splits],
        shared_yaxes=True,
        shared_xaxes=True,
    )
    for row, stage in enumerate(stages, 1):
        for column, split in enumerate(report.splits, 1):
            _draw_cells(plot, split, stage, row=row, column=column)
        plot.update_yaxes(title_text="accuracy, %", row=row, col=1)
    lowest = min(min(cell.accuracy, cell.copy) for split in report.splits for cell in split.cells)
    plot.update_yaxes(range=[100 * lowest - 1, 100.4])
    plot.update_xaxes(tickangle=-40, tickfont={"size": 12})
    plot.update_layout(layout(finding, height=700, below=95))
    return Figure("accuracy_cells", finding, plot, ("accuracy",))


def _draw_cells(plot: Any, split: SplitAccuracy, stage: str, *, row: int, column: int) -> None:
    cells = [cell for cell in split.cells if cell.stage == stage]
    names = [method_label(cell.method) for cell in cells]
    markers = [method_marker(cell.method) for cell in cells]
    thin = {"width": 1.5, "color": VERMILION}
    series: tuple[tuple[str, list[float], dict[str, Any]], ...] = (
        (
            "noise ceiling",
            [c.ceiling for c in cells],
            {"symbol": "line-ew", "size": 20, "line": {"width": 2}},
        ),
        (
            "predicted",
            [c.accuracy for c in cells],
            {"symbol": [m["symbol"] for m in markers], "color": [m["color"] for m in markers], "size": 10},
        ),
        ("copy of fp16", [c.copy for c in cells], {"symbol": "x-thin", "size": 8, "line": thin}),
    )
    for name, values, marker in series:
        plot.add_scatter(
            x=names,
            y=[100 * value for value in values],
            mode="markers",
            name=name,
            legendgroup=name,
            showlegend=row == column == 1,
            marker=marker,
            row=row,
            col=column,
        )


def residuals_figure(report: AccuracyReport) -> Figure:
    """Draw signed errors over batch size and prompt length, each from the split that holds that axis out."""
    axes = [
        (split, axis, name)
        for split, axis, name in (
            ("batches", "bsz", "batch size"),
            ("lengths", "prompt_len", "prompt length, tokens"),
        )
        if any(s.split == split for s in report.splits)
    ]
    sites = [p for p in report.sites if p.split in {split for split, _, _ in axes}]
    stages = _stages(sites)
    within = np.mean([abs(p.error) <= 0.05 for p in sites]) if sites else 0.0
    finding = f"{100 * within:.0f} % of held-out predictions lie within 5 % of the measured median"
    plot = _panels(
        len(stages),
        len(axes),
        titles=[f"{stage}: {_SPLIT_NAMES[split]}" for stage in stages for split, _, _ in axes],
        shared_yaxes="all",
    )
    for row, stage in enumerate(stages, 1):
        for column, (split, axis, name) in enumerate(axes, 1):
            own = [p for p in sites if (p.stage, p.split) == (stage, split)]
            _draw_residuals(plot, own, axis, row=row, column=column)
            plot.update_xaxes(title_text=name, row=row, col=column)
            plot.add_hline(y=0, line={"color": BLACK, "width": 1}, row=row, col=column)
        plot.update_yaxes(title_text="predicted against measured, %", row=row, col=1)
    plot.update_layout(layout(finding, height=760))
    return Figure("residuals", finding, plot, ("sites",))


def _draw_residuals(plot: Any, sites: Sequence[SitePrediction], axis: str, *, row: int, column: int) -> None:
    methods = _methods(sites)
    for index, method in enumerate(methods):
        rows = [p for p in sites if p.method == method]
        beside = 2.0 ** (0.11 * (index - (len(methods) - 1) / 2))
        plot.add_scatter(
            x=[getattr(p, axis) * beside for p in rows],
            y=[100 * p.error for p in rows],
            text=[_place(p) for p in rows],
            row=row,
            col=column,
            **_points(method, shown=row == column == 1),
        )
    ticks = sorted({getattr(p, axis) for p in sites})
    plot.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{t:,}" for t in ticks], row=row, col=column)


def intervals_figure(report: AccuracyReport) -> Figure:
    """Draw how often the intervals held, in the band that chance allows, and how wide they are."""
    judged = [interval for split in report.splits for interval in split.intervals]
    kept = sum(interval.kept for interval in judged)
    finding = (
        f"{100 * report.level:.0f} % intervals keep their word in {kept} of {len(judged)} stages and splits"
    )
    plot = _panels(1, 2, titles=["coverage", "mean half-width"])
    names = [split.split for split in report.splits]
    for stage, colour in STAGES.items():
        own = [next((i for i in split.intervals if i.stage == stage), None) for split in report.splits]
        shown = [(name, interval) for name, interval in zip(names, own, strict=True) if interval is not None]
        if not shown:
            continue
        splits, intervals = [name for name, _ in shown], [interval for _, interval in shown]
        group = {"offsetgroup": stage, "legendgroup": stage}
        plot.add_bar(
            x=splits,
            y=[100 * (i.band_high - i.band_low) for i in intervals],
            base=[100 * i.band_low for i in intervals],
            name=f"{stage}: 95 % band of chance",
            marker={"color": colour, "opacity": 0.25},
            row=1,
            col=1,
            **group,
        )
        plot.add_scatter(
            x=splits,
            y=[100 * i.coverage for i in intervals],
            mode="markers",
            name=f"{stage}: measured",
            marker={"color": colour, "size": 11, "line": {"width": 1, "color": BLACK}},
            row=1,
            col=1,
            **group,
        )
        plot.add_bar(
            x=splits,
            y=[100 * i.half_width for i in intervals],
            text=[f"±{100 * i.half_width:.1f}" for i in intervals],
            textposition="outside",
            marker={"color": colour},
            showlegend=False,
            row=1,
            col=2,
            **group,
        )
    plot.add_hline(y=100 * report.level, line={"dash": "dash", "color": BLACK, "width": 1}, row=1, col=1)
    plot.update_yaxes(title_text="held-out medians inside, %", range=[70, 102], row=1, col=1)
    plot.update_yaxes(title_text="± % of the predicted time", row=1, col=2)
    plot.update_xaxes(title_text="what was held out")
    plot.update_layout(layout(finding, height=520) | {"barmode": "group", "scattermode": "group"})
    return Figure("intervals", finding, plot, ("intervals",))


def few_shot_figure(report: FewShotReport) -> Figure:
    """Draw the error of a new method over the sites learnt from: on average, and where copying fails most."""
    copied = min((cell for cell in report.cells), key=lambda cell: (cell.n_sites, cell.copy))
    hardest = [c for c in report.cells if (c.stage, c.method) == (copied.stage, copied.method)]
    name = f"{method_label(copied.method)} {copied.stage}"
    least = next((cell for cell in hardest if cell.n_sites > 0), hardest[0])
    mean = next(s for s in report.summaries if s.n_sites == least.n_sites)
    finding = (
        f"{least.n_sites} planned site{'s' * (least.n_sites != 1)} per stage: {name} rises from "
        f"{100 * copied.copy:.1f} to {100 * least.planned:.1f} %, all methods to {100 * mean.planned:.1f} %"
    )
    plot = _panels(
        1, 2, titles=["mean over methods and stages", f"{name}, where copying fails most"], shared_yaxes=True
    )
    panels: tuple[Sequence[FewShotSummary | FewShotCell], ...] = (report.summaries, hardest)
    for column, points in enumerate(panels, 1):
        for field, label, colour, symbol in (
            ("planned", "planned sites", GREEN, "circle"),
            ("random", f"random sites (mean of {report.draws})", ORANGE, "square"),
            ("unanchored", "planned sites, fitted without fp16", BLUE, "diamond"),
            ("copy", "copy of fp16", BLACK, "x"),
        ):
            known: list[tuple[int, float]] = [
                (one.n_sites, getattr(one, field)) for one in points if getattr(one, field) is not None
            ]
            plot.add_scatter(
                x=[str(n) for n, _ in known],
                y=[100 * (1 - value) for _, value in known],
                mode="lines+markers",
                name=label,
                legendgroup=label,
                showlegend=column == 1,
                marker={"color": colour, "symbol": symbol, "size": 9},
                line={"color": colour, "dash": "dot" if field == "copy" else "solid"},
                row=1,
                col=column,
            )
    order = [str(summary.n_sites) for summary in report.summaries]
    plot.update_xaxes(
        title_text="sites measured per stage", type="category", categoryorder="array", categoryarray=order
    )
    plot.update_yaxes(type="log", **log_ticks(0.1, 1000.0))
    plot.update_yaxes(title_text="error on all other sites, %", row=1, col=1)
    plot.update_layout(layout(finding, height=520))
    return Figure("few_shot", finding, plot, ("few_shot", "few_shot_cells"))


def _panels(rows: int, columns: int, *, titles: Sequence[str], **options: Any) -> Any:
    from plotly.subplots import make_subplots

    return make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=list(titles),
        horizontal_spacing=0.035 if columns > 2 else 0.08,
        vertical_spacing=0.17 if rows > 1 and "shared_xaxes" not in options else 0.1,
        **options,
    )


def _points(method: str, *, shown: bool) -> dict[str, Any]:
    label = method_label(method)
    return {
        "mode": "markers",
        "name": label,
        "legendgroup": label,
        "showlegend": shown,
        "marker": method_marker(method),
        "hovertemplate": "%{text}<extra>" + label + "</extra>",
    }


def _diagonal(plot: Any, sites: Sequence[SitePrediction], column: int) -> tuple[list[float], dict[str, Any]]:
    """Draw where predicted equals measured; return its ends, in ms, and ticks for axes that span them."""
    times = [1e3 * time_s for p in sites for time_s in (p.measured_s, p.low_s, p.high_s)]
    ends = [0.95 * min(times), 1.05 * max(times)]
    plot.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        line={"color": GREY, "width": 1},
        hoverinfo="skip",
        showlegend=False,
        row=1,
        col=column,
    )
    return ends, log_ticks(*ends)


def _range(shares: Sequence[float]) -> str:
    """Return the span of shares in percent, one number where they agree."""
    ends = list(dict.fromkeys(f"{100 * share:.1f}" for share in (min(shares), max(shares))))
    return " to ".join(ends)


def _place(p: SitePrediction) -> str:
    return (
        f"bsz {p.bsz}, prompt_len {p.prompt_len}: predicted {1e3 * p.predicted_s:.1f} ms, "
        f"measured {1e3 * p.measured_s:.1f} ms ({100 * p.error:+.1f} %)"
    )


def _stages(sites: Sequence[SitePrediction]) -> list[str]:
    return list(dict.fromkeys(p.stage for p in sites))


def _methods(sites: Sequence[SitePrediction]) -> list[str]:
    return sorted({p.method for p in sites}, key=lambda method: (method != "fp16", method))

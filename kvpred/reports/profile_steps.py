"""Figures of whole steps: what they are made of, whether operators explain them, and what the hooks cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from kvpred.evaluation.profile_parts import ATTENTION, PARTS, REST, UPKEEP, Composition
from kvpred.evaluation.profile_views import ProfileViews
from kvpred.evaluation.speedups import StepTime
from kvpred.profiling.grid import Site
from kvpred.reports.axes import linear_axis, log_axis, panels
from kvpred.reports.figures import Figure
from kvpred.reports.profile_panels import STEP, finish, methods_of, named, stages_of
from kvpred.reports.profile_sheets import short_ms, site_label
from kvpred.reports.style import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, VERMILION, method_label

_COLOURS = dict(zip((*PARTS, REST), (VERMILION, ORANGE, BLUE, SKY, GREEN, GREY, "#DDDDDD"), strict=True))


def corners(parts: Sequence[Composition], stage: str) -> list[Site]:
    """Return the sites that all methods share of the smallest and the largest batch, shortest and longest."""
    by_method: dict[str, set[Site]] = {}
    for part in parts:
        if part.site.stage == stage:
            by_method.setdefault(part.method, set()).add(part.site)
    shared = set.intersection(*by_method.values()) if by_method else set()
    batches = sorted({site.bsz for site in shared})
    found = []
    for bsz in dict.fromkeys((*batches[:1], *batches[-1:])):
        lengths = sorted(site.length for site in shared if site.bsz == bsz)
        found += [Site(stage, bsz, length) for length in dict.fromkeys((lengths[0], lengths[-1]))]
    return found


def parts_figure(views: ProfileViews) -> Figure:
    """Draw what a step is made of, a stacked bar per method, at the corners of each stage's grid."""
    places = {
        stage: found
        for stage in stages_of(views.compositions)
        if (found := corners(views.compositions, stage))
    }
    columns = max(map(len, places.values()))
    titles = [
        f"{stage}, {site_label(sites[column])}" if column < len(sites) else ""
        for stage, sites in places.items()
        for column in range(columns)
    ]
    plot = panels(len(places), columns, titles=titles, shared_yaxes=True, spacing=0.22)
    for row, sites in enumerate(places.values(), 1):
        for column, site in enumerate(sites, 1):
            _stack(plot, [part for part in views.compositions if part.site == site], row=row, column=column)
        plot.update_yaxes(title_text=f"share of the {views.whole}, %", row=row, col=1)
    plot.update_xaxes(tickangle=-40, tickfont={"size": 12})
    finding = _parts_finding(views, next(iter(places.values()))[-1])
    finish(plot, finding, views, height=280 + 310 * len(places), below=110)
    plot.update_layout(barmode="relative", legend_traceorder="normal")
    return Figure("step_parts", finding, plot, ("step_parts",))


def _stack(plot: Any, parts: Sequence[Composition], *, row: int, column: int) -> None:
    for name, colour in _COLOURS.items():
        ms = [part.parts.get(name, 0.0) for part in parts]
        plot.add_bar(
            x=[method_label(part.method) for part in parts],
            y=[100 * own / part.whole_ms for own, part in zip(ms, parts, strict=True)],
            text=[f"{name}: {short_ms(own)} ms" for own in ms],
            hovertemplate="%{x}, %{text}, %{y:.1f} %<extra></extra>",
            textposition="none",
            name=name,
            legendgroup=name,
            showlegend=row == column == 1 and any(ms),
            marker={"color": colour, "line": {"width": 0.5, "color": "#333333"}},
            row=row,
            col=column,
        )


def _parts_finding(views: ProfileViews, site: Site) -> str:
    others = [
        sum(ms for name, ms in part.parts.items() if name not in (ATTENTION, UPKEEP))
        for part in views.compositions
        if part.site == site
    ]
    span = " to ".join(dict.fromkeys((short_ms(min(others)), short_ms(max(others)))))
    step = f"{STEP[site.stage]} at {site_label(site)} tokens"
    whatever = " with every method" if len(others) > 1 else ""
    return f"All but attention and upkeep takes {span} ms of the {step}{whatever}"


def explained_figure(views: ProfileViews) -> Figure:
    """Draw the operators' sum and the hooks' cost against the plain step."""
    steps = [step for step in views.steps if step.operators_ms and step.hooked_ms]
    stages = stages_of(steps)
    rows: tuple[tuple[Callable[[StepTime], float], str, int], ...] = (
        (_explained, "sum of operators, % of step", 100),
        (_hooks, "cost of hooks, % of step", 0),
    )
    plot = panels(
        2, len(stages), titles=[*stages, *([""] * len(stages))], shared_xaxes="columns", shared_yaxes="rows"
    )
    for row, (of, name, level) in enumerate(rows, 1):
        for column, stage in enumerate(stages, 1):
            _scatter(plot, [step for step in steps if step.site.stage == stage], of, row=row, column=column)
            plot.add_hline(y=level, line={"color": BLACK, "width": 1}, row=row, col=column)
        plot.update_yaxes(**linear_axis([level, *(100 * of(step) for step in steps)]), row=row)
        plot.update_yaxes(title_text=name, row=row, col=1)
    for column, stage in enumerate(stages, 1):
        times = [step.step_ms for step in steps if step.site.stage == stage]
        plot.update_xaxes(**log_axis(times), col=column)
        plot.update_xaxes(title_text=f"{STEP[stage]} without hooks, ms", row=2, col=column)
    finding = _explained_finding(steps, stages)
    finish(plot, finding, views, height=640, more="a point per site; the title has their medians")
    return Figure("operators_explain", finding, plot, ("step_times",))


def _explained_finding(steps: Sequence[StepTime], stages: Sequence[str]) -> str:
    own = {stage: [step for step in steps if step.site.stage == stage] for stage in stages}
    sums = [f"{100 * median(map(_explained, own[stage])):.1f} % of the {STEP[stage]}" for stage in stages]
    hooks = [f"{100 * median(map(_hooks, own[stage])):.1f}" for stage in stages]
    return f"Operators add up to {' and '.join(sums)}; hooks cost {' and '.join(hooks)} %"


def _scatter(
    plot: Any, steps: Sequence[StepTime], of: Callable[[StepTime], float], *, row: int, column: int
) -> None:
    for method in methods_of(steps):
        own = [step for step in steps if step.method == method]
        plot.add_scatter(
            x=[step.step_ms for step in own],
            y=[100 * of(step) for step in own],
            text=[f"{site_label(step.site)}: {100 * of(step):.1f} %" for step in own],
            mode="markers",
            row=row,
            col=column,
            **named(method, shown=row == column == 1),
        )


def _explained(step: StepTime) -> float:
    return (step.operators_ms or 0.0) / step.step_ms


def _hooks(step: StepTime) -> float:
    return (step.hooked_ms or 0.0) / step.step_ms - 1

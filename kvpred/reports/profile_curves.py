"""Figures of operator profiles over the length, a column per batch size: attention, its share, speed-ups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvpred.evaluation.profile_parts import AttentionTime
from kvpred.evaluation.profile_views import ProfileViews, largest_common
from kvpred.evaluation.speedups import StepTime
from kvpred.methods import BASELINE
from kvpred.reports.axes import length_axis, log_axis, panels, some_batches
from kvpred.reports.figures import Figure
from kvpred.reports.profile_panels import STEP, Item, finish, methods_of, named, stages_of
from kvpred.reports.profile_sheets import short_ms, site_label
from kvpred.reports.style import BLACK, method_label, method_marker

# Beyond so many points of a line, their symbols would hide it.
_MOST_SYMBOLS = 12
_FAINT = 0.3


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of panels: what it shows of a site, on which axis, and how a value is written."""

    title: str
    value: Callable[[Any], float | None]
    axis: Mapping[str, Any]
    show: Callable[[float], str]


def attention_figure(views: ProfileViews, stage: str) -> Figure:
    """Draw one layer's attention with its roofline, and its upkeep where there is any."""
    times = [time for time in views.attention if time.site.stage == stage]
    least = [time.roofline_ms for time in times if time.roofline_ms]
    upkeep = [time.upkeep_ms for time in times if time.upkeep_ms]
    rows = [
        _Row(
            "attention, ms per layer",
            lambda time: time.attention_ms or None,
            log_axis([*least, *(time.attention_ms for time in times)]),
            short_ms,
        )
    ]
    if upkeep:
        rows.append(
            _Row("upkeep, ms per layer", lambda time: time.upkeep_ms or None, log_axis(upkeep), short_ms)
        )
    plot, batches = _grid(times, rows, stage=stage)
    if least:
        look = {"mode": "lines", "line": {"color": BLACK, "width": 1.3, "dash": "dot"}}
        plot.add_scatter(x=[None], y=[None], name="dotted: roofline", **look, row=1, col=1)
    # A prompt's attention is the same work with every method.
    for method in methods_of(times)[: None if stage == "decode" else 1]:
        colour = method_marker(method)["color"] if stage == "decode" else BLACK
        for column, bsz in enumerate(batches, 1):
            _draw_roofline(plot, _curve(times, method, bsz), colour, column)
    finding = _attention_finding(times, stage)
    finish(plot, finding, views, height=250 + 220 * len(rows))
    return Figure(f"attention_{stage}", finding, plot, ("attention_times",))


def _draw_roofline(plot: Any, times: Sequence[AttentionTime], colour: str, column: int) -> None:
    plot.add_scatter(
        x=[time.site.length for time in times],
        y=[time.roofline_ms for time in times],
        mode="lines",
        line={"color": colour, "width": 1.3, "dash": "dot"},
        showlegend=False,
        hoverinfo="skip",
        row=1,
        col=column,
    )


def _attention_finding(times: Sequence[AttentionTime], stage: str) -> str:
    at = largest_common(times, stage)
    there = {time.method: time for time in times if time.site == at}
    usual = there.pop(BASELINE, None)
    what = "a decode step" if stage == "decode" else "a prompt"
    if at is None or usual is None or not usual.attention_ms:
        return f"Attention and cache upkeep of {what}, per layer"
    if there:
        low, high = _ends(
            {name: time.attention_ms / usual.attention_ms for name, time in there.items()}, "{:.2f}"
        )
        span = low if low == high else f"{low} to {high}"
        return f"At {site_label(at)} tokens, attention of {what} takes {span} times as long as fp16's"
    took = (
        f"At {site_label(at)} tokens, attention of {what} takes {short_ms(usual.attention_ms)} ms per layer"
    )
    share = usual.roofline_ms and usual.roofline_ms / usual.attention_ms
    return f"{took}: {100 * share:.0f} % of the roofline" if share else took


def shares_figure(views: ProfileViews) -> Figure:
    """Draw the share of attention and its upkeep in the decode step (the prefill, if there is none)."""
    stage = stages_of(views.compositions)[0]
    parts = [part for part in views.compositions if part.site.stage == stage]
    row = _Row(
        f"share of the {views.whole}, %",
        lambda part: 100 * part.attention_share,
        {"range": [0, 105 * max(part.attention_share for part in parts)]},
        lambda value: f"{value:.1f} %",
    )
    plot, _ = _grid(parts, (row,), stage=stage)
    finding = f"Attention and its upkeep, share of the {STEP[stage]}"
    at = largest_common(parts, stage)
    if at is not None:
        low, high = _ends(
            {part.method: 100 * part.attention_share for part in parts if part.site == at}, "{:.0f} %"
        )
        span = low if low == high else f"{low} to {high}"
        finding = f"Attention and its upkeep are {span} of the {STEP[stage]} at {site_label(at)} tokens"
    finish(plot, finding, views, height=470)
    return Figure("attention_share", finding, plot, ("step_parts",))


def speedup_figure(views: ProfileViews, stage: str) -> Figure:
    """Draw speed-ups against fp16, faint where they may be noise."""
    steps = [step for step in views.steps if step.speedup is not None and step.site.stage == stage]
    plot, _ = _grid(
        steps,
        (
            _Row(
                "speed-up against fp16",
                lambda step: step.speedup,
                log_axis([bound for step in steps for bound in step.bounds or ()]),
                lambda value: f"{value:.3f}",
            ),
        ),
        stage=stage,
    )
    plot.add_hline(y=1, line={"color": BLACK, "width": 1})
    finding = _speedup_finding(steps, stage)
    finish(plot, finding, views, height=540, more="bars ± 2 standard errors; faint: may be noise")
    return Figure(f"speedup_{stage}", finding, plot, ("step_times", "crossings"))


def _speedup_finding(steps: Sequence[StepTime], stage: str) -> str:
    faster, slower = (sum(step.told_apart == sign for step in steps) for sign in (1, -1))
    what = "Decode steps are" if stage == "decode" else "Prefills are"
    finding = f"{what} faster than fp16's beyond noise at {faster}, slower at {slower} of {len(steps)} sites"
    best = max(steps, key=lambda step: (step.told_apart, step.speedup))
    if best.told_apart > 0:
        finding += (
            f"; at best {best.speedup:.2f} times ({method_label(best.method)}, {site_label(best.site)})"
        )
    return finding


def _ends(values: Mapping[str, float], form: str) -> list[str]:
    """Return the smallest and the largest value of the methods, with the method."""
    return [
        f"{form.format(values[name])} ({method_label(name)})"
        for name in (of(values, key=lambda name: values[name]) for of in (min, max))
    ]


def _grid(items: Sequence[Any], rows: Sequence[_Row], *, stage: str) -> tuple[Any, list[int]]:
    """Draw lines over the length by method; return the figure and the batch sizes of its columns."""
    batches = some_batches({item.site.bsz for item in items})
    titles = [f"batch {bsz}" for bsz in batches] + [""] * (len(rows) - 1) * len(batches)
    plot = panels(len(rows), len(batches), titles=titles, shared_yaxes="rows", shared_xaxes="columns")
    for method in methods_of(items):
        # An entry in the legend that no point's faintness touches.
        plot.add_scatter(x=[None], y=[None], mode="lines+markers", **named(method, shown=True), row=1, col=1)
        for row, drawn in enumerate(rows, 1):
            for column, bsz in enumerate(batches, 1):
                _draw_curve(plot, _curve(items, method, bsz), drawn, method=method, row=row, column=column)
    for row, drawn in enumerate(rows, 1):
        plot.update_yaxes(**drawn.axis, row=row)
        plot.update_yaxes(title_text=drawn.title, row=row, col=1)
    plot.update_xaxes(**length_axis({item.site.length for item in items}))
    name = "tokens in the cache" if stage == "decode" else "tokens of the prompt"
    plot.update_xaxes(title_text=name, row=len(rows))
    return plot, batches


def _curve(items: Sequence[Any], method: str, bsz: int) -> list[Any]:
    own = (item for item in items if (item.method, item.site.bsz) == (method, bsz))
    return sorted(own, key=lambda item: item.site.length)


def _draw_curve(plot: Any, own: Sequence[Item], drawn: _Row, *, method: str, row: int, column: int) -> None:
    values = [drawn.value(item) for item in own]
    shown = ["" if value is None else drawn.show(value) for value in values]
    look = named(method, shown=False)
    steps = [item for item in own if isinstance(item, StepTime)]
    if steps:
        look["marker"] |= {"opacity": [1.0 if step.told_apart else _FAINT for step in steps]}
        look["error_y"] = _bars(steps)
    plot.add_scatter(
        x=[item.site.length for item in own],
        y=values,
        text=[f"{site_label(item.site)}: {value}" for item, value in zip(own, shown, strict=True)],
        mode="lines+markers" if len(own) <= _MOST_SYMBOLS else "lines",
        line={"color": look["marker"]["color"], "width": 1.6},
        row=row,
        col=column,
        **look,
    )


def _bars(steps: Sequence[StepTime]) -> dict[str, Any]:
    """Return the error bars of speed-ups."""
    known = [(step.speedup or 1.0, *(step.bounds or (1.0, 1.0))) for step in steps]
    return {
        "array": [high - speedup for speedup, _, high in known],
        "arrayminus": [speedup - low for speedup, low, _ in known],
        "thickness": 0.8,
        "width": 2,
    }

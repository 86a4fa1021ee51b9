"""Engines side by side: a method that shines on one may lose on another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from textwrap import wrap
from typing import Any

from kvpred.evaluation.throughput import Setting, Throughput
from kvpred.evaluation.throughput_views import Side, Tally, ThroughputViews, tally
from kvpred.methods import BASELINE
from kvpred.reports.axes import log_axis, panels, some_batches
from kvpred.reports.figures import Figure
from kvpred.reports.style import BLACK, method_label, method_marker
from kvpred.reports.throughput_panels import (
    SPEEDUP,
    STAGES,
    TOK_S,
    VERBS,
    dodged_axis,
    draw_points,
    finish,
    methods_of,
    one_answer_length,
    site_label,
    stages_of,
    tokens_per_second,
)

_TITLE_CHARACTERS = 90  # of all panels of a row together
_HALF = 0.35  # of a method's strip
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square-open", "diamond", "triangle-up-open", "cross", "star-open")


def engines_figure(views: ThroughputViews) -> Figure:
    """Draw each engine's speed-ups at shared sites, a point per site and a line at the median."""
    stages = [stage for stage in STAGES if any(key[0] == stage for key in views.sides)]
    methods = [method for method in methods_of(views.cases) if any(key[1] == method for key in views.sides)]
    settings = [s for s in views.names if any(s in side for side in views.sides.values())]
    titles = [_title(views, s, stage, len(settings)) for stage in stages for s in settings]
    plot = panels(len(stages), len(settings), titles=titles, shared_yaxes=True, spacing=0.18)
    shown: list[Throughput] = []
    for row, stage in enumerate(stages, 1):
        in_stage: list[Throughput] = []
        for column, setting in enumerate(settings, 1):
            for place, method in enumerate(methods):
                own = views.sides.get((stage, method), {}).get(setting, ())
                if own:
                    _draw_strip(plot, own, place, row=row, column=column)
                    in_stage += own
        plot.update_yaxes(**log_axis([1.0, *SPEEDUP.ends(in_stage)]), row=row)
        plot.update_yaxes(title_text=f"{stage}, {SPEEDUP.title}", row=row, col=1)
        shown += in_stage
    plot.update_xaxes(
        range=[-0.6, len(methods) - 0.4],
        tickvals=list(range(len(methods))),
        ticktext=[method_label(method) for method in methods],
        tickangle=-35,
    )
    for row in range(1, len(stages)):
        plot.update_xaxes(showticklabels=False, row=row)
    plot.update_xaxes(title_text="method", row=len(stages))
    plot.add_hline(y=1, line={"color": BLACK, "width": 1})
    finding = engines_finding(views)
    more = "a point per shared site, by batch, then length; line: their median; faint: may be noise"
    finish(plot, finding, views, shown, height=230 + 290 * len(stages), more=more, below=80)
    plot.update_layout(showlegend=False)
    return Figure("engines", finding, plot, ("engines", "throughput"))


def _draw_strip(plot: Any, cases: Sequence[Throughput], place: int, *, row: int, column: int) -> None:
    """Draw one method's speed-ups side by side, and their median."""
    step = 2 * _HALF / max(len(cases) - 1, 1)
    first = place - _HALF if len(cases) > 1 else place
    places = [first + step * number for number in range(len(cases))]
    draw_points(plot, cases, SPEEDUP, places, mode="markers", seen=set(), row=row, column=column)
    middle = median(map(SPEEDUP.value, cases))
    method = cases[0].method
    plot.add_scatter(
        x=[place - 1.2 * _HALF, place + 1.2 * _HALF],
        y=[middle, middle],
        mode="lines",
        line={"color": method_marker(method)["color"], "width": 2.5},
        hovertemplate=f"median {middle:.3f}<extra>{method_label(method)}</extra>",
        showlegend=False,
        row=row,
        col=column,
    )


def _title(views: ThroughputViews, setting: Setting, stage: str, columns: int) -> str:
    """Name the engine, and fp16's throughput at the largest site that it shares."""
    width = _TITLE_CHARACTERS // columns
    title = "<br>".join(wrap(views.names[setting], width, max_lines=2, placeholder=" …"))
    sides = [side[setting] for key, side in views.sides.items() if key[0] == stage and setting in side]
    if not sides:
        return title
    sites = {case.site for cases in sides for case in cases}
    largest = max(sites, key=lambda site: (site.bsz * site.prompt_len, site))
    usual = next(c for c in views.of(setting, stage=stage, method=BASELINE) if c.site == largest)
    return f"{title}<br><sup>fp16 {tokens_per_second(usual.tok_s)} tok/s at {site_label(largest)}</sup>"


def engines_finding(views: ThroughputViews) -> str:
    """Name the method that two engines serve most differently, in decode if it can be compared.

    One that wins at more sites than it loses on one engine, and loses at more on the other, comes first;
    then the ratio of the median speed-ups decides.
    """
    stage = next(stage for stage in STAGES if any(key[0] == stage for key in views.sides))
    sides = {method: _tallies(side) for (of, method), side in views.sides.items() if of == stage}
    method = max(sides, key=lambda method: (_turns(sides[method]), _gap(sides[method]), method))
    (low, least), (high, most) = _ends(sides[method])
    turn = "but" if least.median < 1 < most.median else "and"
    return (
        f"{method_label(method)} {VERBS[stage]} at {most.median:.2f} times fp16's speed on "
        f"{views.names[high]}, {turn} at {least.median:.2f} times on {views.names[low]}"
    )


_Tallies = Mapping[Setting, Tally]


def _tallies(side: Side) -> _Tallies:
    return {setting: counted for setting, cases in side.items() if (counted := tally(cases))}


def _ends(tallies: _Tallies) -> tuple[tuple[Setting, Tally], tuple[Setting, Tally]]:
    """Return the engines of the least and of the greatest median speed-up."""
    ordered = sorted(tallies.items(), key=lambda pair: (pair[1].median, pair[0]))
    return ordered[0], ordered[-1]


def _gap(tallies: _Tallies) -> float:
    (_, least), (_, most) = _ends(tallies)
    return most.median / least.median


def _turns(tallies: _Tallies) -> bool:
    (_, least), (_, most) = _ends(tallies)
    return most.faster > most.slower and least.slower > least.faster


def engine_speeds_figure(views: ThroughputViews) -> Figure:
    """Draw fp16's throughput over the prompt length on every engine, a column per batch size."""
    cases = one_answer_length([case for case in views.cases if case.method == BASELINE])
    stages, batches = stages_of(cases), some_batches({case.site.bsz for case in cases})
    titles = [f"{stage}, batch {bsz}" for stage in stages for bsz in batches]
    plot = panels(len(stages), len(batches), titles=titles, shared_yaxes=True, spacing=0.14)
    seen: set[str] = set()
    for row, stage in enumerate(stages, 1):
        in_stage = [case for case in cases if case.stage == stage and case.site.bsz in batches]
        for number, (setting, name) in enumerate(views.names.items()):
            look = _engine_look(number, name)
            for column, bsz in enumerate(batches, 1):
                own = [case for case in in_stage if (case.setting, case.site.bsz) == (setting, bsz)]
                if own:
                    draw_points(
                        plot, own, TOK_S, [case.site.prompt_len for case in own], mode="lines+markers",
                        seen=seen, row=row, column=column, otherwise=look,
                    )  # fmt: skip
        plot.update_yaxes(**log_axis(TOK_S.ends(in_stage)), row=row)
        plot.update_yaxes(title_text=f"{stage}, {TOK_S.title}", row=row, col=1)
    plot.update_xaxes(**dodged_axis({case.site.prompt_len for case in cases}))
    plot.update_xaxes(title_text="tokens of the prompt", row=len(stages))
    finding = _speeds_finding(views, [case for case in cases if case.stage == stages[0]])
    finish(plot, finding, views, cases, height=230 + 260 * len(stages), more="fp16, uncompressed")
    return Figure("engine_speeds", finding, plot, ("throughput",))


def _engine_look(number: int, name: str) -> dict[str, Any]:
    """Return the look of an engine's line: fp16's colour, a dash and a symbol of its own."""
    colour = method_marker(BASELINE)["color"]
    return {
        "name": name,
        "legendgroup": name,
        "hovertemplate": "%{text}<extra>" + name + "</extra>",
        "marker": {"color": colour, "symbol": _SYMBOLS[number % len(_SYMBOLS)], "size": 8},
        "line": {"color": colour, "width": 1.4, "dash": _DASHES[number % len(_DASHES)]},
    }


def _speeds_finding(views: ThroughputViews, cases: Sequence[Throughput]) -> str:
    """Say which engine is fastest and which slowest at the largest of the sites that most engines have."""
    met = Counter(case.site for case in cases)
    at = max(met, key=lambda site: (met[site], site.bsz * site.prompt_len, site))
    there = sorted((case for case in cases if case.site == at), key=lambda case: case.tok_s)
    ends = dict.fromkeys(
        f"{tokens_per_second(case.tok_s)} tokens/s on {views.names[case.setting]}"
        for case in (there[-1], there[0])
    )
    return f"At {site_label(at)}, fp16 {VERBS[cases[0].stage]} {' and '.join(ends)}"

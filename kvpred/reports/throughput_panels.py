"""What the figures of measured throughput share: points with bars, lines per method, title and caption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log10
from textwrap import wrap
from typing import Any

from kvpred.data.sites import RunSite
from kvpred.evaluation.ranking import TOLD_APART
from kvpred.evaluation.throughput import Throughput
from kvpred.evaluation.throughput_views import ThroughputViews, where
from kvpred.methods import BASELINE
from kvpred.reports.axes import length_axis
from kvpred.reports.profile_panels import named
from kvpred.reports.style import layout

STAGES = ("decode", "prefill")
VERBS = {"decode": "decodes", "prefill": "prefills"}
_FAINT = 0.3
_TITLE_CHARACTERS, _CAPTION_CHARACTERS = 120, 165
# Octaves between neighbouring methods at the same place, so that their bars do not hide each other, and
# between the outermost of them.
_BESIDE, _SPREAD = 0.07, 0.4
_RING = {"symbol": "circle-open", "size": 17, "color": "#333333", "line": {"width": 1.4}}


def site_label(site: RunSite) -> str:
    """Show a site as batch and prompt length.

    Examples
    --------
    >>> site_label(RunSite(8, 4096))
    '8 × 4,096'
    """
    return f"{site.bsz} × {site.prompt_len:,}"


def tokens_per_second(value: float) -> str:
    """Show a throughput with three significant digits or all whole ones."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def methods_of(cases: Iterable[Throughput]) -> list[str]:
    """Return the methods, fp16 first."""
    return sorted({case.method for case in cases}, key=lambda method: (method != BASELINE, method))


def stages_of(cases: Collection[Throughput]) -> list[str]:
    """Return the stages, decode first."""
    return [stage for stage in STAGES if any(case.stage == stage for case in cases)]


def one_answer_length(cases: Sequence[Throughput]) -> list[Throughput]:
    """Leave out decode of answers of another length than most have: a line is of one length."""
    answers = Counter(case.site.output_len for case in cases if case.stage == "decode")
    usual = max(answers, key=lambda length: (answers[length], length), default=1)
    return [case for case in cases if case.stage != "decode" or case.site.output_len == usual]


@dataclass(frozen=True, slots=True)
class View:
    """What a figure shows of a case.

    Parameters
    ----------
    title : str
        Of the axis, with the unit.
    value : callable
    bounds : callable
        Ends of the bar; None where the noise is unknown.
    show : callable
        Turns a value into text.
    faint : bool
        Whether a case within the noise is drawn faintly.
    """

    title: str
    value: Callable[[Throughput], float]
    bounds: Callable[[Throughput], tuple[float, float] | None]
    show: Callable[[float], str]
    faint: bool = False

    def ends(self, cases: Iterable[Throughput]) -> list[float]:
        """Return the ends of all bars, and the value where there is none."""
        return [end for case in cases for end in self.bounds(case) or (self.value(case),)]


def _tok_s_bounds(case: Throughput) -> tuple[float, float] | None:
    if case.error is None:
        return None
    factor = exp(TOLD_APART * case.error)
    return case.tok_s / factor, case.tok_s * factor


TOK_S = View("tokens/s", lambda case: case.tok_s, _tok_s_bounds, tokens_per_second)
SPEEDUP = View(
    "speed-up against fp16",
    lambda case: case.speedup or 1.0,
    lambda case: case.bounds,
    "{:.3f}".format,
    faint=True,
)


def draw_lines(
    plot: Any, cases: Sequence[Throughput], view: View, *, along: Callable[[RunSite], int], seen: set[str],
    row: int, column: int,
) -> None:  # fmt: skip
    """Draw a line per method, each a little beside the others; methods not yet seen enter the legend."""
    methods = methods_of(cases)
    step = min(_BESIDE, _SPREAD / max(len(methods) - 1, 1))
    for number, method in enumerate(methods):
        own = sorted((case for case in cases if case.method == method), key=lambda case: along(case.site))
        beside = 2.0 ** (step * (number - (len(methods) - 1) / 2))
        places = [along(case.site) * beside for case in own]
        draw_points(plot, own, view, places, mode="lines+markers", seen=seen, row=row, column=column)


def draw_points(
    plot: Any, cases: Sequence[Throughput], view: View, places: Sequence[float], *, mode: str, seen: set[str],
    row: int, column: int, otherwise: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Draw one method's cases with their bars, and a ring around those of marked repeats only.

    `otherwise` holds what shall look unlike a method's usual points; names not yet seen enter the legend.
    """
    values = [view.value(case) for case in cases]
    bounds = [view.bounds(case) or (value, value) for case, value in zip(cases, values, strict=True)]
    look = named(cases[0].method, shown=True)
    look |= {"line": {"color": look["marker"]["color"], "width": 1.6}} | dict(otherwise or {})
    look["showlegend"] = look["name"] not in seen
    seen.add(look["name"])
    look["marker"] |= {"opacity": [_FAINT if view.faint and case.told_apart == 0 else 1.0 for case in cases]}
    plot.add_scatter(
        x=list(places),
        y=values,
        error_y={
            "array": [high - value for value, (_, high) in zip(values, bounds, strict=True)],
            "arrayminus": [value - low for value, (low, _) in zip(values, bounds, strict=True)],
            "thickness": 1.0,
            "width": 2,
        },
        text=[f"{site_label(c.site)}: {view.show(v)}" for c, v in zip(cases, values, strict=True)],
        mode=mode,
        row=row,
        col=column,
        **look,
    )
    ringed = [place for place in zip(places, values, cases, strict=True) if place[2].doubtful]
    if ringed:
        plot.add_scatter(
            x=[place for place, _, _ in ringed],
            y=[value for _, value, _ in ringed],
            mode="markers",
            marker=_RING,
            showlegend=False,
            hoverinfo="skip",
            row=row,
            col=column,
        )


def dodged_axis(places: Collection[int]) -> dict[str, Any]:
    """Return a logarithmic axis labelled at these places, with room beside the outermost."""
    room = 0.12 if len(set(places)) > 1 else 0.6  # decades
    ends = [log10(min(places)) - room, log10(max(places)) + room]
    return length_axis(places) | {"range": ends}


def finish(
    plot: Any, finding: str, views: ThroughputViews, cases: Sequence[Throughput], *, height: int,
    more: str = "", below: int = 70,
) -> None:  # fmt: skip
    """Give a figure its title, and below that a caption of what was measured and how to read it."""
    answers = {case.site.output_len for case in cases if case.stage == "decode"} - {1}
    known = any(case.error is not None for case in cases)
    said = (
        f"{views.model} on {where(case.setting for case in cases)}",
        f"answers of {answers.pop()} tokens" if len(answers) == 1 else "",
        "bars: ± 2 standard errors" if known else "no bars: the noise is unknown",
        more,
        "ringed: rests on marked repeats alone" if any(case.doubtful for case in cases) else "",
    )
    caption = "<br>".join(wrap("; ".join(filter(None, said)), _CAPTION_CHARACTERS))
    title = wrap(finding, _TITLE_CHARACTERS)
    more_room = 25 * (len(title) - 1)
    plot.update_layout(layout("<br>".join(title), height=height + more_room, below=below))
    plot.update_layout(
        title_subtitle={"text": caption, "font": {"size": 12, "color": "#555555"}},
        title_y=0.98 - 0.5 * more_room / height,
        margin_t=130 + more_room,
    )

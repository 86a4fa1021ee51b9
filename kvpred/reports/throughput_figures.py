"""Figures of one engine's throughput: over lengths, over batch sizes, and against fp16."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kvpred.data.sites import RunSite
from kvpred.evaluation.throughput import Setting, Throughput
from kvpred.evaluation.throughput_views import ThroughputViews, tally
from kvpred.reports.axes import log_axis, panels, some_batches
from kvpred.reports.figures import Figure
from kvpred.reports.style import BLACK, method_label
from kvpred.reports.throughput_panels import (
    SPEEDUP,
    TOK_S,
    VERBS,
    dodged_axis,
    draw_lines,
    finish,
    one_answer_length,
    site_label,
    stages_of,
    tokens_per_second,
)

# Prompts up to here are "normal", longer ones "long".
NORMAL_TOKENS = 1024
_Sides = Sequence[tuple[str, Sequence[Throughput]]]


def fixed_batch_figure(views: ThroughputViews, setting: Setting) -> Figure:
    """Draw throughput over the prompt length at the batch size with most lengths, the largest of several."""
    cases = one_answer_length(views.of(setting))
    bsz = _most((case.site.bsz, case.site.prompt_len) for case in cases)
    own = [case for case in cases if case.site.bsz == bsz]
    sides = [
        (f"{name} ({bound} {NORMAL_TOKENS:,} tokens)", part) for name, bound, part in _normal_and_long(own)
    ]
    finding = f"{views.names[setting]}, batch {bsz}: {_span(own)}"
    plot = _panels_by_stage(sides, along=lambda site: site.prompt_len, axis="tokens of the prompt")
    finish(plot, finding, views, own, height=230 + 245 * len(stages_of(own)))
    return Figure(_name("fixed_batch", views, setting), finding, plot, ("throughput",))


def fixed_length_figure(views: ThroughputViews, setting: Setting) -> Figure:
    """Draw throughput over the batch size, at the normal and the long prompt length with most batches."""
    sides = []
    for name, _, part in _normal_and_long(one_answer_length(views.of(setting))):
        length = _most((case.site.prompt_len, case.site.bsz) for case in part)
        at_length = [case for case in part if case.site.prompt_len == length]
        sides.append((f"{name}, {length:,} tokens", at_length))
    own = [case for _, part in sides for case in part]
    lengths = " and ".join(f"{part[0].site.prompt_len:,}" for _, part in sides)
    finding = f"{views.names[setting]}, prompts of {lengths} tokens: {_span(own)}"
    plot = _panels_by_stage(sides, along=lambda site: site.bsz, axis="batch size")
    finish(plot, finding, views, own, height=230 + 245 * len(stages_of(own)))
    return Figure(_name("fixed_length", views, setting), finding, plot, ("throughput",))


def speedup_figure(views: ThroughputViews, setting: Setting) -> Figure:
    """Draw speed-ups against fp16 over the prompt length, a column per batch size, faint in the noise."""
    compared = [case for case in views.of(setting) if case.speedup is not None]
    cases = one_answer_length(compared)
    stages, batches = stages_of(cases), some_batches({case.site.bsz for case in cases})
    titles = [f"{stage}, batch {bsz}" for stage in stages for bsz in batches]
    plot = panels(len(stages), len(batches), titles=titles, shared_yaxes=True, spacing=0.14)
    seen: set[str] = set()
    for row, stage in enumerate(stages, 1):
        in_stage = [case for case in cases if case.stage == stage and case.site.bsz in batches]
        for column, bsz in enumerate(batches, 1):
            own = [case for case in in_stage if case.site.bsz == bsz]
            draw_lines(plot, own, SPEEDUP, along=_prompt_len, seen=seen, row=row, column=column)
        plot.update_yaxes(**log_axis([1.0, *SPEEDUP.ends(in_stage)]), row=row)
        plot.update_yaxes(title_text=f"{stage}, {SPEEDUP.title}", row=row, col=1)
    plot.update_xaxes(**dodged_axis({case.site.prompt_len for case in cases}))
    plot.update_xaxes(title_text="tokens of the prompt", row=len(stages))
    plot.add_hline(y=1, line={"color": BLACK, "width": 1})
    finding = f"{views.names[setting]}: {_verdicts(compared)}"
    finish(plot, finding, views, cases, height=230 + 260 * len(stages), more="faint: may be noise")
    return Figure(_name("speedup", views, setting), finding, plot, ("throughput",))


def _prompt_len(site: RunSite) -> int:
    return site.prompt_len


def _panels_by_stage(sides: _Sides, *, along: Callable[[RunSite], int], axis: str) -> Any:
    """Draw throughput, a row per stage and a column per side."""
    stages = stages_of([case for _, part in sides for case in part])
    titles = [f"{stage}, {name}" for stage in stages for name, _ in sides]
    plot = panels(len(stages), len(sides), titles=titles, spacing=0.14)
    seen: set[str] = set()
    for row, stage in enumerate(stages, 1):
        for column, (_, part) in enumerate(sides, 1):
            own = [case for case in part if case.stage == stage]
            if own:
                draw_lines(plot, own, TOK_S, along=along, seen=seen, row=row, column=column)
                plot.update_yaxes(**log_axis(TOK_S.ends(own)), row=row, col=column)
                plot.update_xaxes(**dodged_axis({along(case.site) for case in own}), row=row, col=column)
        plot.update_yaxes(title_text=f"{stage}, {TOK_S.title}", row=row, col=1)
    plot.update_xaxes(title_text=axis, row=len(stages))
    return plot


def _most(pairs: Iterable[tuple[int, int]]) -> int:
    """Return the first number that comes with most different second ones, the largest of several such."""
    met = Counter(first for first, _ in set(pairs))
    return max(met, key=lambda first: (met[first], first))


def _normal_and_long(cases: Sequence[Throughput]) -> list[tuple[str, str, list[Throughput]]]:
    """Return the cases of normal and of long prompts, where there are any."""
    normal = [case for case in cases if case.site.prompt_len <= NORMAL_TOKENS]
    long = [case for case in cases if case.site.prompt_len > NORMAL_TOKENS]
    return [side for side in (("normal", "up to", normal), ("long", "over", long)) if side[2]]


def _span(cases: Sequence[Throughput]) -> str:
    """Say how far methods are from fp16 there, in decode if there is any; without fp16, name the best."""
    stage = stages_of(cases)[0]
    own = [case for case in cases if case.stage == stage]
    counted = tally(own)
    if counted is None:
        best = max(own, key=lambda case: case.tok_s)
        speed = tokens_per_second(best.tok_s)
        return (
            f"{method_label(best.method)} {VERBS[stage]} fastest, {speed} tokens/s at {site_label(best.site)}"
        )
    ends = dict.fromkeys(
        f"{case.speedup:.2f} ({method_label(case.method)}, {site_label(case.site)})"
        for case in (counted.lowest, counted.highest)
    )
    return f"compression {VERBS[stage]} at {' to '.join(ends)} times fp16's speed"


def _verdicts(cases: Sequence[Throughput]) -> str:
    """Say in how many cases each stage is slower than fp16's."""
    said = []
    for stage in stages_of(cases):
        counted = tally(case for case in cases if case.stage == stage)
        if counted is not None:
            known = counted.unknown < counted.cases
            number, noise = (counted.slower, " beyond noise") if known else (counted.below, "")
            said.append(f"{stage} is slower than fp16's{noise} in {number} of {counted.cases} cases")
    return ", ".join(said)


def _name(figure: str, views: ThroughputViews, setting: Setting) -> str:
    """Return the stem of a figure's file, which names the setting if there are several."""
    if len(views.names) == 1:
        return figure
    number = list(views.names).index(setting) + 1
    slug = re.sub(r"[^a-z0-9]+", "-", setting.engine.lower()).strip("-")
    return f"{figure}_{number}_{slug}"

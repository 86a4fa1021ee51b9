"""Figures of negative samples: counts over thresholds, task types, average losses, and scores on the set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from kvpred.data.longbench import Task
from kvpred.errors import UsageError
from kvpred.evaluation.negatives import NegativeStudy
from kvpred.methods import BASELINE
from kvpred.reports.axes import linear_axis, log_axis, panels
from kvpred.reports.figures import Figure
from kvpred.reports.negatives_words import (
    benign_counts,
    cells_at,
    good_answers,
    label_names,
    loss_finding,
    losses,
    per_task,
    run_names,
    set_finding,
    set_scores,
    tasks_finding,
    threshold_finding,
)
from kvpred.reports.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    layout,
    method_marker,
)

_TITLE_CHARACTERS, _CAPTION_CHARACTERS = 115, 165
_TASK_COLOURS = dict(zip(Task, (BLUE, SKY, ORANGE, YELLOW, GREEN, PURPLE), strict=True))
# Runs of one method differ in these.
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_VARIANTS = ("", "-open", "-dot", "-open-dot")
_PATTERNS = ("", "/", "x", ".", "-")
# For runs of what is no method of ours.
_FREE = ((VERMILION, "hexagram"), (PURPLE, "star-square"), (SKY, "diamond-tall"), (GREY, "star-diamond"))
_TOGETHER = ("#444444", "diamond-wide")
# Octaves between labels at one threshold, lest their intervals hide each other.
_APART = 0.022
# A segment of a bar is labelled from this share on.
_ROOM = 0.04


@dataclass(frozen=True, slots=True)
class Look:
    """How runs are drawn: in their method's colour; those of one method differ in the rest."""

    colour: str
    symbol: str
    dash: str
    pattern: str

    @property
    def marker(self) -> dict[str, Any]:
        """The Plotly marker."""
        return {"color": self.colour, "symbol": self.symbol, "size": 9}


def looks(methods: Mapping[str, str]) -> dict[str, Look]:
    """Return the look of each key by the method that it is of; an empty one stands for several."""
    markers = {method: _marker(method) for method in methods.values()}
    free = [method for method, marker in markers.items() if marker is None]
    seen: Counter[str] = Counter()
    found = {}
    for key, method in methods.items():
        colour, symbol = markers[method] or _FREE[free.index(method) % len(_FREE)]
        number = seen[method]
        seen[method] += 1
        found[key] = Look(
            colour,
            symbol + _VARIANTS[number % len(_VARIANTS)],
            _DASHES[number % len(_DASHES)],
            _PATTERNS[number % len(_PATTERNS)],
        )
    return found


def _marker(method: str) -> tuple[str, str] | None:
    """Return colour and symbol of a method that is known, or of several together."""
    if not method:
        return _TOGETHER
    try:
        marker = method_marker(method)
    except UsageError:
        return None
    return marker["color"], marker["symbol"]


def label_looks(study: NegativeStudy) -> dict[str, Look]:
    """Return the look of each label."""
    return looks({label: _method(*runs) for label, runs in study.groups.items()})


def _method(run: str, *others: str) -> str:
    """Return the method that a run's name begins with; of several runs, none."""
    return "" if others else run.partition("_")[0]


def finish(
    plot: Any, study: NegativeStudy, found: str, *, height: int, more: str = "", below: int = 60
) -> None:
    """Give a figure its title, and below that a caption of what was counted and how to read it."""
    title = wrap(found, _TITLE_CHARACTERS)
    datasets = {part.dataset for cell in study.cells.values() for part in cell.datasets}
    baseline = run_names(study)[study.baseline.name]
    missing = sorted({name for cell in study.cells.values() for name in cell.missing})
    said = f"baseline {baseline}; {len(datasets)} dataset{'s' * (len(datasets) > 1)}"
    said += f" ({', '.join(missing)} not in every run)" if missing else ""
    caption = wrap(f"{said}; {more}" if more else said, _CAPTION_CHARACTERS)
    top = 65 + 22 * len(title) + 16 * len(caption)
    plot.update_layout(layout("<br>".join(title), height=height + top, below=below))
    plot.update_layout(
        title_subtitle={"text": "<br>".join(caption), "font": {"size": 12, "color": "#555555"}},
        # Plotly puts the middle of the title's lines where one line's would be.
        title_y=1 - (12 * len(title)) / (height + top),
        margin_t=top,
    )


def _at(threshold: float) -> str:
    return f"threshold {100 * threshold:g} %"


def _interval_words(study: NegativeStudy) -> str:
    return f"bars: {100 * study.level:.0f} % interval"


def _interval_bars(study: NegativeStudy, label: str, thresholds: Sequence[float]) -> dict[str, Any]:
    """Return a label's intervals as Plotly's error bars."""
    counts = [study.cells[label, threshold].count for threshold in thresholds]
    ends = [study.intervals[label, threshold] for threshold in thresholds]
    return {
        "array": [max(high - count, 0.0) for count, (_, high) in zip(counts, ends, strict=True)],
        "arrayminus": [max(count - low, 0.0) for count, (low, _) in zip(counts, ends, strict=True)],
        "thickness": 1.2,
        "width": 2,
    }


def threshold_figure(study: NegativeStudy, threshold: float) -> Figure:
    """Draw each label's count over the threshold, with its interval."""
    plot = panels(1, 1, titles=[""])
    names, own, thresholds = label_names(study), label_looks(study), sorted(study.thresholds)
    middle = (len(study.groups) - 1) / 2
    percents = [100 * one for one in thresholds]
    for place, label in enumerate(study.groups):
        plot.add_scatter(
            x=[percent * 2 ** (_APART * (place - middle)) for percent in percents],
            y=[study.cells[label, one].count for one in thresholds],
            error_y=_interval_bars(study, label, thresholds),
            mode="lines+markers",
            name=names[label],
            line={"color": own[label].colour, "dash": own[label].dash, "width": 1.8},
            marker=own[label].marker,
            customdata=percents,
            hovertemplate="%{customdata:g} %: %{y:,}<extra>" + names[label] + "</extra>",
        )
    aside = 2 ** (_APART * middle)
    ticks = {"tickvals": percents, "ticktext": [f"{percent:g}" for percent in percents]}
    axis = log_axis([percents[0] / aside, percents[-1] * aside]) | ticks
    plot.update_xaxes(title_text="threshold, % of the baseline's score", **axis)
    highs = [high for _, high in study.intervals.values()]
    plot.update_yaxes(title_text="negative samples", **linear_axis([0.0, *highs]))
    found = threshold_finding(study, threshold)
    aside_words = "; methods stand side by side at each threshold" * (len(study.groups) > 1)
    finish(plot, study, found, height=600, more=_interval_words(study) + aside_words)
    plot.update_layout(showlegend=True)
    return Figure("threshold", found, plot, ("negatives",))


def tasks_figure(study: NegativeStudy, threshold: float) -> Figure:
    """Draw the shares of task types in each label's negative samples, and in the benign ones for comparison.

    Bars, not pies: shares are to be compared between labels, and so need a common scale.
    """
    names, cells = label_names(study), cells_at(study, threshold)
    rows = {names[label]: cell.by_task() for label, cell in reversed(cells.items())}
    rows[f"all {good_answers(study)}"] = per_task(benign_counts(study))
    ticks = [f"{name} ({sum(row.values()):,})" for name, row in rows.items()]
    plot = panels(1, 1, titles=[""])
    for task in per_task(benign_counts(study)):
        counts = [row.get(task, 0) for row in rows.values()]
        shares = [count / max(sum(row.values()), 1) for count, row in zip(counts, rows.values(), strict=True)]
        shown = zip(counts, shares, strict=True)
        plot.add_bar(
            x=[100 * share for share in shares],
            y=list(range(len(rows))),
            orientation="h",
            name=str(task),
            marker={"color": _TASK_COLOURS[task], "line": {"color": "white", "width": 1}},
            text=[f"{count:,}" if share >= _ROOM else "" for count, share in shown],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            customdata=counts,
            hovertemplate="%{customdata:,} (%{x:.1f} %)<extra>" + str(task) + "</extra>",
        )
    plot.update_xaxes(title_text="share of the samples, %; in the bars: their number", range=[0, 100])
    plot.update_yaxes(tickvals=list(range(len(rows))), ticktext=ticks, range=[-0.6, len(rows) - 0.4])
    found = tasks_finding(study, threshold)
    finish(plot, study, found, height=190 + 30 * len(rows), more=_at(threshold))
    plot.update_layout(barmode="stack", margin_l=210, legend_traceorder="normal")
    return Figure("tasks", found, plot, ("negatives_tasks",))


def loss_figure(study: NegativeStudy, threshold: float) -> Figure:
    """Draw each run's negative samples over its loss of the mean score, with their interval."""
    names, own, cells = label_names(study), label_looks(study), cells_at(study, threshold)
    shares = {label: loss.share for label, loss in losses(study, threshold).items()}
    lost = {label: 100 * share for label, share in shares.items() if share is not None}
    highs = [study.intervals[label, threshold][1] for label in lost]
    axes = linear_axis([0.0, *lost.values()]), linear_axis([0.0, *highs])
    places = {names[label]: (x, float(cells[label].count)) for label, x in lost.items()}
    sides = _text_sides(places, *(axis["range"] for axis in axes))
    plot = panels(1, 1, titles=[""])
    for label, x in lost.items():
        plot.add_scatter(
            x=[x],
            y=[cells[label].count],
            error_y=_interval_bars(study, label, [threshold]),
            mode="markers+text",
            text=[f"  {names[label]}  "],
            textposition=f"middle {sides[names[label]]}",
            marker=own[label].marker,
            cliponaxis=False,
            hovertemplate="%{x:.1f} % lost, %{y:,} negative<extra>" + names[label] + "</extra>",
        )
    plot.add_vline(x=0, line={"color": GREY, "width": 1, "dash": "dot"})
    plot.update_xaxes(title_text="loss of the mean score, % of the baseline's", **axes[0])
    plot.update_yaxes(title_text="negative samples", **axes[1])
    found = loss_finding(study, threshold)
    finish(plot, study, found, height=470, more=f"{_at(threshold)}; {_interval_words(study)}")
    plot.update_layout(showlegend=False, margin_b=70)
    return Figure("loss", found, plot, ("negatives_counts",))


def _text_sides(
    points: Mapping[str, tuple[float, float]], across: Sequence[float], up: Sequence[float]
) -> dict[str, str]:
    """Return on which side of its point each name stands: where it hides the fewest points and names.

    `across` and `up` are the axes' ranges; a name does not stand out of them if it need not.
    """
    # Of a character and of a line, roughly.
    unit, line = (across[1] - across[0]) / 135, (up[1] - up[0]) / 20
    taken = [(x - 2 * unit, x + 2 * unit, y) for x, y in points.values()]
    sides = {}
    for name, (x, y) in points.items():
        length = (len(name) + 4) * unit
        boxes = {"right": (x + 2 * unit, x + length), "left": (x - length, x - 2 * unit)}
        clashes = {
            side: (
                start < across[0] or end > across[1],
                sum(start < high and low < end and abs(y - other) < line for low, high, other in taken),
            )
            for side, (start, end) in boxes.items()
        }
        sides[name] = min(clashes, key=clashes.__getitem__)
        taken.append((*boxes[sides[name]], y))
    return sides


def scores_figure(study: NegativeStudy, threshold: float) -> Figure | None:
    """Draw the scores on what all runs break, a group of bars per task type; None if there is no sample."""
    rows = set_scores(study, threshold)
    if not rows:
        return None
    names, runs = run_names(study), list(rows[0].scores)
    own = looks({run: BASELINE if run == study.baseline.name else _method(run) for run in runs})
    plot = panels(1, 1, titles=[""])
    ticks = [f"{row.task}<br>{row.samples:,} sample{'s' * (row.samples > 1)}" for row in rows]
    for run in runs:
        plot.add_bar(
            x=ticks,
            y=[row.scores[run] for row in rows],
            name=names[run],
            marker={
                "color": own[run].colour,
                "pattern": {"shape": own[run].pattern, "size": 5, "solidity": 0.35},
                "line": {"color": "#333333", "width": 0.6},
            },
            hovertemplate="%{y:.3f}<extra>" + names[run] + "</extra>",
        )
    top = max(max(row.scores.values()) for row in rows)
    plot.update_yaxes(title_text="mean score", range=[0, 1.05 * top or 1.0])
    plot.update_xaxes(title_text="task type")
    found = set_finding(study, threshold)
    finish(plot, study, found, height=500, below=80, more=f"{_at(threshold)}; means over samples")
    plot.update_layout(barmode="group", bargap=0.18)
    return Figure("scores", found, plot, ("negatives_scores",))

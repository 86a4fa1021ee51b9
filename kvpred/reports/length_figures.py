"""Figures of predicted response lengths: calibration, predicted against true, totals, error by turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kvpred.data.conversations import Turn
from kvpred.evaluation.length_accuracy import BOUNDS, CONSTANT, N_RESAMPLES, Truth
from kvpred.evaluation.length_totals import GROUP_REQUESTS, total_errors
from kvpred.predictors.length.base import LEVELS, LengthDistributions
from kvpred.reports.axes import log_axis
from kvpred.reports.figures import Figure, require_plotly
from kvpred.reports.sheets import Column, Sheet, decimal, percent, sheet, signed_percent
from kvpred.reports.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, layout

_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
_HEIGHT = 560
_MODEL = Column("model", "Model")
_BINS, _MOST_TURNS = 10, 8
_SPREAD = (0.05, 0.25, 0.5, 0.75, 0.95)
Predicted = Mapping[str, LengthDistributions]


def length_figures(turns: Sequence[Turn], predicted: Predicted) -> tuple[list[Figure], list[Sheet]]:
    """Return all figures in the order of reading, and their data."""
    require_plotly()
    truth = Truth.of(turns)
    number = np.array([sum(m.role == "user" for m in turn.messages) for turn in turns])
    others = [name for name in predicted if name != CONSTANT]
    colours = {CONSTANT: GREY} | {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(others)}
    pairs = [
        _calibration(truth, predicted, colours),
        _deciles(truth, predicted, colours),
        _totals(truth, predicted, colours),
        _by_turn(truth, predicted, colours, number),
    ]
    return [figure for figure, _ in pairs], [data for _, data in pairs]


def _banded(name: str, finding: str, data: Sheet, colours: Mapping[str, str], x: str, y: str) -> Figure:
    """Draw one line per model with its band, of rows (model, x, value, low, high, ...)."""
    import plotly.graph_objects as go

    plot = go.Figure(layout=layout(finding, height=_HEIGHT))
    for model, colour in colours.items():
        rows: Any = list(zip(*(row[1:5] for row in data.rows if row[0] == model), strict=True))
        if not rows:
            continue
        places, values, low, high = map(np.array, rows)
        plot.add_scatter(
            x=places,
            y=values,
            name=model,
            mode="lines+markers",
            line={"color": colour},
            error_y={"array": high - values, "arrayminus": values - low, "thickness": 1},
        )
    plot.update_xaxes(title=x)
    plot.update_yaxes(title=y)
    return Figure(name, finding, plot, (data.name,))


def _calibration(truth: Truth, predicted: Predicted, colours: Mapping[str, str]) -> tuple[Figure, Sheet]:
    draws = truth.draws(N_RESAMPLES, 0)
    answers = draws @ truth.sums(np.ones(len(truth.tokens)))
    rows, worst = [], {}
    for model, each in predicted.items():
        below = (truth.tokens[:, None] <= each.quantiles).astype(np.float64)
        worst[model] = float(np.abs(below.mean(axis=0) - LEVELS).max())
        for i, level in enumerate(LEVELS):
            low, high = np.quantile(draws @ truth.sums(below[:, i]) / answers, BOUNDS)
            rows.append((model, float(level), float(below[:, i].mean()), float(low), float(high)))
    names = ("level", "Level"), ("share", "Share below"), ("low", "from"), ("high", "to")
    data = sheet("calibration", "Calibration", (_MODEL, *(Column(*n, percent) for n in names)), rows)
    finding = "Answers below each quantile, furthest from its level: " + ", ".join(
        f"{model} {100 * gap:.1f} points" for model, gap in worst.items()
    )
    # Shares themselves all look like the diagonal.
    gaps = [(m, 100 * level, *(100 * (each - level) for each in three)) for m, level, *three in rows]
    x, y = "Level of the quantile, %", "Share of answers below less the level, points"
    figure = _banded("calibration", finding, replace(data, rows=tuple(gaps)), colours, x, y)
    figure.plot.update_yaxes(zeroline=True, zerolinecolor=GREY)
    return figure, data


def _deciles(truth: Truth, predicted: Predicted, colours: Mapping[str, str]) -> tuple[Figure, Sheet]:
    rows = []
    for model, each in predicted.items():
        if model == CONSTANT:
            continue
        for own in np.array_split(np.argsort(each.median, kind="stable"), _BINS):
            if len(own):
                low, median, high = np.quantile(truth.tokens[own], (0.1, 0.5, 0.9)).tolist()
                rows.append((model, float(np.median(each.median[own])), median, low, high))
    names = ("predicted", "Predicted"), ("true", "True median"), ("low", "10 %"), ("high", "90 %")
    data = sheet("predicted_true", "By decile", (_MODEL, *(Column(*n, decimal) for n in names)), rows)
    medians = {model: [row[2] for row in rows if row[0] == model] for model in predicted if model != CONSTANT}
    finding = "True median from the lowest to the highest tenth of predictions: " + (
        ", ".join(f"{model} {each[0]:.0f} to {each[-1]:.0f} tokens" for model, each in medians.items())
        or "no model to judge"
    )
    x, y = "Predicted median, tokens", "True length, tokens (bars: 10 to 90 %)"
    figure = _banded("predicted_true", finding, data, colours, x, y)
    for model, each in predicted.items():
        if model != CONSTANT:
            figure.plot.add_scattergl(
                x=each.median,
                y=truth.tokens,
                mode="markers",
                name=f"{model}, answers",
                marker={"color": colours[model], "size": 3, "opacity": 0.25},
            )
    ends = [float(truth.tokens.min()), float(truth.tokens.max())]
    equal = {"dash": "dot", "color": GREY}
    figure.plot.add_scatter(x=ends, y=ends, mode="lines", name="true = predicted", line=equal)
    points = [each.median for model, each in predicted.items() if model != CONSTANT]
    figure.plot.update_xaxes(**log_axis(np.concatenate([*points, []]).tolist()))
    figure.plot.update_yaxes(**log_axis(truth.tokens.tolist()))
    return figure, data


def _totals(truth: Truth, predicted: Predicted, colours: Mapping[str, str]) -> tuple[Figure, Sheet]:
    import plotly.graph_objects as go

    rows = []
    for model, each in predicted.items():
        for point, values in (("mean", each.mean), ("median", each.median)):
            for whole in (False, True):
                errors = total_errors(truth.tokens, values, truth.group, whole=whole)
                if len(errors):
                    kind = "conversations" if whole else "random"
                    spread = np.quantile(errors, _SPREAD).tolist()
                    rows.append((model, point, kind, float(np.abs(errors).mean()), *spread))
    columns = (
        _MODEL,
        Column("sum_of", "Sum of"),
        Column("groups", "Groups"),
        Column("off", "Off %", percent),
    )
    spreads = [Column(f"q{level:g}", f"{100 * level:g} %", signed_percent) for level in _SPREAD]
    data = sheet("totals", f"Error of totals over {GROUP_REQUESTS} requests", (*columns, *spreads), rows)
    said = [f"{row[0]} {100 * row[3]:.1f} %" for row in rows if row[1:3] == ("mean", "random")]
    finding = f"Summed means over {GROUP_REQUESTS} random requests miss by: {', '.join(said) or 'too few'}"
    plot = go.Figure(layout=layout(finding, height=_HEIGHT))
    for model, colour in colours.items():
        own = [row for row in rows if row[0] == model]
        lowest, low, median, high, highest = (100 * np.array([row[4 + i] for row in own]) for i in range(5))
        plot.add_box(
            x=[f"sum of {point}s, {kind}" for _, point, kind, *_ in own],
            lowerfence=lowest,
            q1=low,
            median=median,
            q3=high,
            upperfence=highest,
            name=model,
            marker={"color": colour},
        )
    plot.update_layout(boxmode="group")
    plot.update_yaxes(
        zeroline=True, zerolinecolor=GREY, title="Relative error of the total, % (lines: 5 to 95 %)"
    )
    return Figure("totals", finding, plot, (data.name,)), data


def _by_turn(
    truth: Truth, predicted: Predicted, colours: Mapping[str, str], number: Any
) -> tuple[Figure, Sheet]:
    draws, place = truth.draws(N_RESAMPLES, 0), np.minimum(number, _MOST_TURNS)
    rows = []
    for model, each in predicted.items():
        miss = np.abs(each.median - truth.tokens)
        for turn in np.unique(place):
            own = (place == turn).astype(np.float64)
            count = draws @ truth.sums(own)
            many = (draws @ truth.sums(miss * own))[count > 0] / count[count > 0]
            low, high = np.quantile(many, BOUNDS).tolist()
            rows.append((model, int(turn), float((miss * own).sum() / own.sum()), low, high))
    names = ("mae", "MAE"), ("low", "from"), ("high", "to")
    columns = (_MODEL, Column("turn", "Turn", str), *(Column(*n, decimal) for n in names))
    data = sheet("by_turn", f"Error by turn ({_MOST_TURNS}: and later)", columns, rows)
    ends = [[row[2] for row in rows if row[0] == model] for model in predicted]
    finding = "Mean absolute error from the first turn to the last: " + ", ".join(
        f"{model} {e[0]:.0f} to {e[-1]:.0f} tokens" for model, e in zip(predicted, ends, strict=True)
    )
    x = f"Number of the user's message in its piece ({_MOST_TURNS}: and later)"
    return _banded("by_turn", finding, data, colours, x, "Mean absolute error, tokens"), data

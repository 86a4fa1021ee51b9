"""Figures of predicted response lengths: calibration, predicted against true, totals, error by turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kvpred.data.conversations import Turn
from kvpred.evaluation.length_accuracy import BOUNDS, CONSTANT, N_RESAMPLES, Truth
from kvpred.evaluation.length_totals import GROUP_REQUESTS, total_errors
from kvpred.predictors.length.base import LEVELS, LengthDistributions
from kvpred.reports.figures import Figure, require_plotly
from kvpred.reports.sheets import Column, Sheet, decimal, percent, sheet
from kvpred.reports.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, layout

_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
_HEIGHT = 560
_MODEL = Column("model", "Model")
_BINS, _MOST_TURNS = 10, 8
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
    figure = _banded("calibration", finding, data, colours, "Level of the quantile", "Share of answers below")
    figure.plot.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="ideal", line={"dash": "dot", "color": GREY}
    )
    return figure, data


def _deciles(truth: Truth, predicted: Predicted, colours: Mapping[str, str]) -> tuple[Figure, Sheet]:
    rows = []
    for model, each in predicted.items():
        if model == CONSTANT:
            continue
        for own in np.array_split(np.argsort(each.median, kind="stable"), _BINS):
            if len(own):
                low, median, high = np.quantile(truth.tokens[own], (0.05, 0.5, 0.95)).tolist()
                rows.append((model, float(np.median(each.median[own])), median, low, high))
    names = ("predicted", "Predicted"), ("true", "True median"), ("low", "5 %"), ("high", "95 %")
    data = sheet("predicted_true", "By decile", (_MODEL, *(Column(*n, decimal) for n in names)), rows)
    finding = "True lengths by decile of the predicted median: their median, and where 90 % of them lie"
    x, y = "Predicted median, tokens", "True length, tokens"
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
    figure.plot.update_xaxes(type="log")
    figure.plot.update_yaxes(type="log")
    return figure, data


def _totals(truth: Truth, predicted: Predicted, colours: Mapping[str, str]) -> tuple[Figure, Sheet]:
    import plotly.graph_objects as go

    rows, said = [], []
    for model, each in predicted.items():
        for point, values in (("mean", each.mean), ("median", each.median)):
            for whole in (False, True):
                errors = total_errors(truth.tokens, values, truth.group, whole=whole)
                kind = "conversations" if whole else "random"
                rows += [(model, point, kind, float(error)) for error in errors]
                if len(errors) and point == "mean" and not whole:
                    said.append(f"{model} {100 * np.abs(errors).mean():.1f} %")
    columns = _MODEL, Column("sum_of", "Sum of"), Column("groups", "Groups"), Column("error", "%", percent)
    data = sheet("totals", "Error of totals", columns, rows)
    finding = f"Summed means over {GROUP_REQUESTS} random requests miss by: {', '.join(said) or 'too few'}"
    plot = go.Figure(layout=layout(finding, height=_HEIGHT))
    for model, colour in colours.items():
        own = [row for row in rows if row[0] == model]
        places = [f"{point}s, {kind}" for _, point, kind, _ in own]
        errors = [100 * row[3] for row in own]
        plot.add_box(x=places, y=errors, name=model, marker={"color": colour}, boxpoints=False)
    plot.update_layout(boxmode="group")
    plot.update_yaxes(title="Relative error of the total, %")
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

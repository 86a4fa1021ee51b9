"""Figures of simulated traffic: latencies as cumulative distributions, and requests over time."""

from __future__ import annotations

from collections.abc import Collection
from textwrap import wrap
from typing import Any

import numpy as np

from kvpred.methods import BASELINE
from kvpred.reports.axes import linear_axis, log_axis, panels
from kvpred.reports.figures import Figure
from kvpred.reports.requests import short
from kvpred.reports.sheets import Column, Sheet, sheet
from kvpred.reports.style import layout, method_label, method_marker
from kvpred.simulation.outcome import (
    Band,
    Outcome,
    Simulations,
    TrafficStudy,
    latencies_s,
    latency_band,
    statistic_s,
)
from kvpred.simulation.simulate import Floats

_TITLE_CHARACTERS, _CAPTION_CHARACTERS = 115, 165
LATENCIES = {"e2e": "end to end", "ttft": "time to first token", "tpot": "time per output token"}
"""The latencies that are shown, the one that decides first."""
_SHARES = np.linspace(0.0, 1.0, 201)
# Where a line carries its method's symbol.
_MARKED = slice(20, 200, 40)
_MOMENTS = 400
_MOST_TICKS = 7


def _quantiles(runs: Simulations, metric: str) -> tuple[Floats, Floats, Floats]:
    """Return a latency's quantiles at `_SHARES`, and their band."""
    usual, *ends = (
        np.nanquantile(latencies_s(one, metric), _SHARES) for one in (runs.usual, runs.slow, runs.fast)
    )
    return usual, np.minimum.reduce([usual, *ends]), np.maximum.reduce([usual, *ends])


def _drawn(study: TrafficStudy) -> list[tuple[Outcome, Simulations]]:
    return [(outcome, outcome.runs) for outcome in study.outcomes if outcome.runs is not None]


def _metrics(study: TrafficStudy) -> list[str]:
    """Return the latencies that some request has: answers of one token have no time per token."""
    return [
        name
        for name in LATENCIES
        if any(np.isfinite(latencies_s(runs.usual, name)).any() for _, runs in _drawn(study))
    ]


def _finish(plot: Any, study: TrafficStudy, finding: str, *, height: int, more: str) -> None:
    first = study.outcomes[0].estimate
    title = wrap(finding, _TITLE_CHARACTERS)
    caption = f"{first.model} on {first.device}, {first.engine}; {study.notes[0]}; {more}"
    lines = wrap(caption, _CAPTION_CHARACTERS)
    top = 65 + 22 * len(title) + 16 * len(lines)
    plot.update_layout(layout("<br>".join(title), height=height + top))
    plot.update_layout(
        title_subtitle={"text": "<br>".join(lines), "font": {"size": 12, "color": "#555555"}},
        # Plotly hangs a title with a subtitle from its last line.
        title_y=1 - (22 * len(title) - 10) / (height + top),
        margin_t=top,
    )


def cdf_figure(study: TrafficStudy) -> Figure:
    """Draw which share of requests has at most which latency, a panel per latency."""
    metrics = _metrics(study)
    plot = panels(1, len(metrics), titles=[LATENCIES[name] for name in metrics], shared_yaxes=True)
    for column, metric in enumerate(metrics, 1):
        ends = []
        for outcome, runs in _drawn(study):
            name, look = outcome.estimate.method_params, method_marker(outcome.estimate.method_params)
            usual, _, _ = _quantiles(runs, metric)
            plot.add_scatter(
                x=usual, y=_SHARES, mode="lines", line={"color": look["color"], "width": 2},
                showlegend=False, legendgroup=name, row=1, col=column,
                hovertemplate="%{y:.1%} within %{x:.3g} s<extra>" + method_label(name) + "</extra>",
            )  # fmt: skip
            plot.add_scatter(
                x=usual[_MARKED], y=_SHARES[_MARKED], mode="markers", marker=look, hoverinfo="skip",
                name=method_label(name), legendgroup=name, showlegend=column == 1, row=1, col=column,
            )  # fmt: skip
            ends += [usual[1], usual[-1]]
        plot.update_xaxes(title_text="seconds", **_seconds_axis(ends), row=1, col=column)
    plot.update_yaxes(range=[0, 1.01], tickformat=".0%")
    plot.update_yaxes(title_text="share of requests", col=1)
    finding = _cdf_finding(study)
    _finish(plot, study, finding, height=470, more="with steps as predicted")
    return Figure("latency_cdf", finding, plot, ("cdf",))


def _seconds_axis(values: Collection[float]) -> dict[str, Any]:
    """Return a logarithmic axis of seconds; of many ticks only those with room."""
    axis = log_axis(values)
    every = -(-len(axis["tickvals"]) // _MOST_TICKS)
    return {
        **axis,
        "tickvals": axis["tickvals"][::every],
        "ticktext": axis["ticktext"][::every],
        "tickangle": 0,
    }


def band_figure(study: TrafficStudy) -> Figure:
    """Draw each method's mean and 99th percentile of every latency, with the band that steps allow."""
    metrics, drawn = _metrics(study), _drawn(study)
    plot = panels(1, len(metrics), titles=[LATENCIES[name] for name in metrics], shared_yaxes=True)
    for column, metric in enumerate(metrics, 1):
        ends: list[float] = []
        for place, (outcome, runs) in enumerate(reversed(drawn)):
            look = method_marker(outcome.estimate.method_params)
            for which, above in (("mean", 0.16), ("p99", -0.16)):
                band = latency_band(runs, metric, which)
                plot.add_scatter(
                    x=[band.value], y=[place + above], mode="markers", row=1, col=column,
                    marker={**look, "symbol": "circle" if which == "mean" else "diamond-open", "size": 9},
                    error_x={"array": [band.high - band.value], "arrayminus": [band.value - band.low],
                             "thickness": 1.6, "width": 3, "color": look["color"]},
                    hovertemplate=f"{which} {short(band.value)} s ({short(band.low)} to {short(band.high)})"
                                  f"<extra>{method_label(outcome.estimate.method_params)}</extra>",
                )  # fmt: skip
                ends += [band.low, band.high]
        plot.update_xaxes(title_text="seconds", **_seconds_axis(ends), row=1, col=column)
    names = [method_label(outcome.estimate.method_params) for outcome, _ in reversed(drawn)]
    plot.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[-0.6, len(names) - 0.4])
    finding = _band_finding(study)
    level = f"{study.outcomes[0].estimate.interval_level:.0%}"
    more = f"circles: mean, diamonds: P99; bars: all steps at the ends of their {level} interval"
    _finish(plot, study, finding, height=170 + 42 * len(names), more=more)
    plot.update_layout(showlegend=False, margin_l=130)
    return Figure("latency_bands", finding, plot, tuple(metrics))


def _band_finding(study: TrafficStudy) -> str:
    """Say how far what is unsure of step times moves the mean latency."""
    means = {
        method_label(outcome.estimate.method_params): latency_band(runs, "e2e", "mean")
        for outcome, runs in _drawn(study)
    }
    least, most = (pick(means.items(), key=lambda item: item[1].high / item[1].low) for pick in (min, max))

    def said(item: tuple[str, Band]) -> str:
        return f"{short(item[1].low)} to {short(item[1].high)} s under {item[0]}"

    more = f", and {said(most)}" if len(means) > 1 else ""
    return f"With all that is unsure of step times, a request takes {said(least)}{more} on average"


def _cdf_finding(study: TrafficStudy) -> str:
    """Say how the best and the worst method compare with fp16, or with each other."""
    means = {
        method_label(outcome.estimate.method_params): statistic_s(runs.usual, "e2e", "mean")
        for outcome, runs in _drawn(study)
    }
    best = min(means, key=means.__getitem__)
    said = f"{short(means[best])} s from arrival to the last token"
    if len(means) == 1:
        return f"Under {best} a request takes {said} on average"
    if BASELINE in means and best != BASELINE:
        return f"Under {best} a request takes {said} on average, under fp16 {short(means[BASELINE])} s"
    next_best = min((name for name in means if name != best), key=means.__getitem__)
    return f"Under {best} a request takes {said} on average, least of all; then {next_best}, " + (
        f"{short(means[next_best])} s"
    )


def cdf_sheet(study: TrafficStudy) -> Sheet:
    """Return the drawn distributions, one row per method, latency and share."""
    columns = (
        Column("method_params", "Method"),
        Column("metric", "Latency"),
        Column("share", "Share", str),
        Column("seconds", "Seconds", str),
        Column("seconds_low", "from", str),
        Column("seconds_high", "to", str),
    )
    rows = [
        (outcome.estimate.method_params, metric, *row)
        for metric in _metrics(study)
        for outcome, runs in _drawn(study)
        for row in zip(
            *(values.tolist() for values in (_SHARES, *_quantiles(runs, metric))),
            strict=True,
        )
    ]
    return sheet("cdf", "Latencies", columns, rows)


def _moments(study: TrafficStudy) -> Floats:
    last = max(float(runs.usual.served.completed_at_s.max()) for _, runs in _drawn(study))
    return np.linspace(0.0, last, _MOMENTS)


def _in_the_house(runs: Simulations, moments: Floats) -> tuple[Floats, Floats]:
    """Return how many requests have come and not ended at each moment, and how many of them wait."""
    served = runs.usual.served

    def by(times_s: Floats) -> Floats:
        return np.searchsorted(np.sort(times_s), moments, side="right").astype(np.float64)

    came = by(served.arrived_at_s)
    return came - by(served.completed_at_s), came - by(served.arrived_at_s + runs.usual.queued_s)


def in_service_figure(study: TrafficStudy) -> Figure:
    """Draw how many requests are in the house over time, and how many of them have not begun."""
    moments = _moments(study)
    plot = panels(1, 2, titles=["waiting or served", "waiting to begin"], shared_yaxes=True)
    most: dict[str, float] = {}
    for outcome, runs in _drawn(study):
        name, look = outcome.estimate.method_params, method_marker(outcome.estimate.method_params)
        most[method_label(name)] = 0.0
        for column, values in enumerate(_in_the_house(runs, moments), 1):
            plot.add_scatter(
                x=moments, y=values, mode="lines", name=method_label(name), legendgroup=name,
                showlegend=column == 1, line={"color": look["color"], "width": 1.6, "shape": "hv"},
                hovertemplate="%{y:.0f} at %{x:.4g} s<extra>" + method_label(name) + "</extra>",
                row=1, col=column,
            )  # fmt: skip
            most[method_label(name)] = max(most[method_label(name)], float(values.max()))
    plot.update_xaxes(title_text="seconds since the first arrival", **linear_axis(moments.tolist()))
    plot.update_yaxes(range=[0, 1.05 * max(1.0, *most.values())])
    plot.update_yaxes(title_text="requests", col=1)
    ends = sorted(most, key=most.__getitem__)
    counts = ", ".join(f"{most[name]:,.0f} under {name}" for name in dict.fromkeys((ends[0], ends[-1])))
    finding = f"Most requests in the house at a time: {counts}"
    _finish(plot, study, finding, height=400, more="with steps as predicted")
    return Figure("in_service", finding, plot, ("in_service",))


def in_service_sheet(study: TrafficStudy) -> Sheet:
    """Return the drawn numbers, one row per method and moment."""
    columns = (
        Column("method_params", "Method"),
        Column("at_s", "Seconds", str),
        Column("requests", "Requests", str),
        Column("waiting", "Waiting", str),
    )
    moments = _moments(study)
    rows = [
        (outcome.estimate.method_params, *row)
        for outcome, runs in _drawn(study)
        for row in zip(
            moments.tolist(),
            *(values.astype(int).tolist() for values in _in_the_house(runs, moments)),
            strict=True,
        )
    ]
    return sheet("in_service", "Requests in the house", columns, rows)

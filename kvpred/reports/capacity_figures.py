"""Figures of capacities: requests per second by method with the band, and latency against load."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from textwrap import wrap
from typing import Any

from kvpred.data.limits import Limit, shown_s
from kvpred.methods import BASELINE
from kvpred.reports.axes import linear_axis, log_axis, panels
from kvpred.reports.figures import Figure
from kvpred.reports.style import GREY, layout, method_label, method_marker
from kvpred.simulation.capacity import Probe
from kvpred.simulation.fleet import CapacityStudy, MethodCapacity

_TITLE_CHARACTERS = 115
# Beyond this multiple of its limit a latency is off the panel.
_SHOWN = 4.0


def _finish(
    plot: Any, study: CapacityStudy, finding: str, *, height: int, more: str, below: int = 60
) -> None:
    title = wrap(finding, _TITLE_CHARACTERS)
    limits = ", ".join(map(str, study.limits))
    caption = (
        f"{study.place.model.name} on {study.place.device.name}, {study.engine}; limits: {limits}; {more}"
    )
    lines = wrap(caption, 150)
    top = 65 + 22 * len(title) + 16 * len(lines)
    plot.update_layout(layout("<br>".join(title), height=height + top, below=below))
    plot.update_layout(
        title_subtitle={"text": "<br>".join(lines), "font": {"size": 12, "color": "#555555"}},
        title_y=1 - 12 / (height + top),
        margin_t=top,
    )


def capacity_figure(study: CapacityStudy) -> Figure:
    """Draw a bar per method, most at the top, with its band; what binds stands at its end."""
    rows = sorted(study.capacities, key=lambda one: one.qps)
    names = [method_label(one.estimate.method_params) for one in rows]
    plot = panels(1, 1, titles=[""])
    for place, one in enumerate(rows):
        low, high = one.band
        look = method_marker(one.estimate.method_params)
        plot.add_bar(
            x=[one.qps],
            y=[place],
            orientation="h",
            width=0.62,
            marker={"color": look["color"], "line": look["line"]},
            opacity=0.85,
            error_x={"array": [high - one.qps], "arrayminus": [one.qps - low], "thickness": 1.6, "width": 4,
                     "color": GREY},
            hovertemplate=f"{one.qps:.3g} ({low:.3g} to {high:.3g})<extra>{names[place]}</extra>",
        )  # fmt: skip
        bound = one.usual.capacity.binding if one.usual and one.qps else "limits cannot be met"
        plot.add_annotation(
            x=high, y=place, text=f"{one.qps:.3g}, {bound}" if one.qps else bound, xanchor="left",
            xshift=8, showarrow=False, font={"size": 12},
        )  # fmt: skip
    fp16 = next((one for one in rows if one.name == BASELINE and one.qps), None)
    if fp16 is not None:
        plot.add_vline(x=fp16.qps, line={"color": GREY, "width": 1, "dash": "dot"})
    most = max(one.band[1] for one in rows) or 1.0
    # Room for the words at the bars' ends.
    plot.update_xaxes(title_text="requests per second and replica", range=[0, 1.3 * most])
    plot.update_yaxes(tickvals=list(range(len(rows))), ticktext=names, range=[-0.6, len(rows) - 0.4])
    more = (
        f"bars: with steps at the ends of their {100 * study.level:g} % interval; at their ends: what binds"
    )
    _finish(plot, study, study.finding, height=130 + 34 * len(rows), more=more)
    plot.update_layout(margin_l=150, showlegend=False)
    return Figure("capacity", study.finding, plot, ("capacity",))


def curve_figure(study: CapacityStudy) -> Figure:
    """Draw each limited latency against the load, a panel per limit, with the limit."""
    plot = panels(
        1, len(study.limits), titles=[f"{one.metric.upper()} P{one.percentile:g}" for one in study.limits]
    )
    tried = [one for one in study.capacities if one.usual and one.usual.capacity.probes]
    for column, limit in enumerate(study.limits, 1):
        unit, scale = ("s", 1.0) if limit.seconds >= 1 else ("ms", 1e3)
        ends = [limit.seconds]
        for one in tried:
            assert one.usual is not None
            points = _shown(one.usual.capacity.probes, column - 1, limit)
            look = method_marker(one.estimate.method_params)
            plot.add_scatter(
                x=[qps for qps, _ in points], y=[scale * value for _, value in points], mode="lines+markers",
                line={"color": look["color"], "width": 2}, marker=look, showlegend=column == 1,
                name=method_label(one.estimate.method_params), legendgroup=one.estimate.method_params,
                hovertemplate="%{x:.3g} requests/s: %{y:.4g} " + unit + "<extra>" + one.name + "</extra>",
                row=1, col=column,
            )  # fmt: skip
            if one.qps:
                plot.add_vline(x=one.qps, line={"color": look["color"], "width": 1, "dash": "dot"},
                               row=1, col=column)  # fmt: skip
            ends += [value for _, value in points]
        plot.add_hline(
            y=scale * limit.seconds, line={"color": GREY, "width": 2, "dash": "dash"}, row=1, col=column
        )
        # Where an axis is logarithmic, annotations want the logarithm.
        plot.add_annotation(
            text=f"limit {shown_s(limit.seconds)}", x=0.01, xref="x domain", xanchor="left", showarrow=False,
            y=log10(scale * limit.seconds), yanchor="bottom", font={"size": 12}, row=1, col=column,
        )  # fmt: skip
        plot.update_yaxes(title_text=unit, title_standoff=2, **log_axis([scale * end for end in ends]),
                          row=1, col=column)  # fmt: skip
    loads = [probe.qps for one in tried if one.usual for probe in one.usual.capacity.probes]
    plot.update_xaxes(
        title_text="requests per second and replica", **linear_axis([0.0, *_on_panel(study, loads)])
    )
    finding = _curve_finding(study)
    more = f"dotted: capacity; latencies beyond {_SHOWN:g} times a limit are not shown"
    _finish(plot, study, finding, height=470, more=more)
    return Figure("load", finding, plot, ("probes",))


def _shown(probes: Sequence[Probe], number: int, limit: Limit) -> list[tuple[float, float]]:
    """Return rates and latencies of a limit as far as its panel goes, the first beyond it included."""
    points: list[tuple[float, float]] = []
    for probe in probes:
        points.append((probe.qps, min(probe.values_s[number], _SHOWN * limit.seconds)))
        if probe.values_s[number] > _SHOWN * limit.seconds:
            break
    return points


def _on_panel(study: CapacityStudy, loads: Sequence[float]) -> list[float]:
    most = 1.5 * max((one.qps for one in study.capacities), default=0.0)
    return [load for load in loads if not most or load <= most]


def _curve_finding(study: CapacityStudy) -> str:
    bound: dict[str, list[MethodCapacity]] = {}
    for one in study.capacities:
        if one.usual and one.qps:
            bound.setdefault(one.usual.capacity.binding, []).append(one)
    if not bound:
        return study.finding
    words = [f"{name} ends what {', '.join(one.name for one in by)} can serve" for name, by in bound.items()]
    return "; ".join(words)

"""Figures of response lengths under compression: totals, shares, densities, and the compression ratio."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap
from typing import Any

import numpy as np

from kvpred.errors import UsageError
from kvpred.evaluation.length_answers import Floats, Setup
from kvpred.evaluation.length_shift import HALF, NO_SHIFT, Comparison, Spread
from kvpred.evaluation.length_shift_report import ShiftStudy
from kvpred.reports.axes import linear_axis, panels
from kvpred.reports.figures import Figure
from kvpred.reports.sheets import Column, Sheet, sheet
from kvpred.reports.style import BLACK, GREY, PURPLE, layout, method_label, method_marker

_FAINT = 0.35
_TITLE_CHARACTERS, _CAPTION_CHARACTERS = 115, 165
# Where densities of D are drawn: it cannot be below -100 %, and thins out above.
_SHOWN = np.linspace(-0.98, 3.0, 200)
_COLUMNS = 4


def setup_label(method: str) -> str:
    """Return a method's short name; labels that are no method of ours stay as they are.

    Examples
    --------
    >>> setup_label("kivi:bits=2,group_size=32,residual_length=128"), setup_label("H2O+slide 2048+512")
    ('kivi:bits=2', 'H2O+slide 2048+512')
    """
    try:
        return method_label(method)
    except UsageError:
        return method


def _name(study: ShiftStudy, setup: Setup) -> str:
    label = setup_label(setup.method_params)
    return label if setup.temperature == study.baseline.temperature else f"{label}, T = {setup.temperature:g}"


def _marker(method: str) -> dict[str, Any]:
    """Return a method's marker; a label's is that of the method that it begins with."""
    for name in (method, method.partition("+")[0].lower()):
        try:
            return method_marker(name)
        except UsageError:
            continue
    return {"color": PURPLE, "symbol": "hourglass", "size": 8, "line": {"width": 0.6, "color": "#333333"}}


def _finish(plot: Any, study: ShiftStudy, finding: str, *, height: int, more: str, below: int = 60) -> None:
    """Give a figure its title, and below that a caption of what was collected and how to read it."""
    title = wrap(finding, _TITLE_CHARACTERS)
    caption = wrap(f"{study.sampled}; {more}", _CAPTION_CHARACTERS)
    top = 65 + 22 * len(title) + 16 * len(caption)
    plot.update_layout(layout("<br>".join(title), height=height + top, below=below))
    plot.update_layout(
        title_subtitle={"text": "<br>".join(caption), "font": {"size": 12, "color": "#555555"}},
        title_y=1 - 12 / (height + top),
        margin={"t": top, "l": 230},
        showlegend=False,
    )


def _rows(study: ShiftStudy) -> dict[str, tuple[str, Comparison]]:
    """Return the comparisons by the names that stand at the axis, the topmost last."""
    found = {_name(study, setup): (setup.method_params, c) for setup, c in study.comparisons.items()}
    return dict(sorted(found.items(), key=lambda item: item[1][1].multiplier.value))


def multiplier_figure(study: ShiftStudy) -> Figure:
    """Draw each total over the baseline's with its interval, and what two seeds of the baseline give."""
    rows = _rows(study)
    names = list(rows)
    shown = [(method, found, found.verdict == NO_SHIFT) for method, found in rows.values()]
    if study.floor:
        names.append(f"{setup_label(study.baseline.method_params)}, another seed")
        shown.append((study.baseline.method_params, study.floor, True))
    plot = panels(1, 1, titles=[""])
    for place, (name, (method, found, faint)) in enumerate(zip(names, shown, strict=True)):
        value = found.multiplier
        plot.add_scatter(
            x=[value.value],
            y=[place],
            error_x={
                "array": [value.high - value.value],
                "arrayminus": [value.value - value.low],
                "thickness": 1.6,
                "width": 3,
            },
            mode="markers",
            marker=_marker(method),
            opacity=_FAINT if faint else 1.0,
            hovertemplate=f"{value.value:.3f}<extra>{name}</extra>",
        )
    plot.add_vline(x=1, line={"color": BLACK, "width": 1})
    plot.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[-0.7, len(names) - 0.3])
    ends = [end for _, found, _ in shown for end in (found.multiplier.low, found.multiplier.high)]
    plot.update_xaxes(
        title_text="total tokens over the baseline's, up to the cap", **linear_axis([1.0, *ends])
    )
    more = (
        f"bars: {100 * study.level:.0f} % interval; faint: no shift beyond noise; the smallest shift that "
        f"this could detect is {100 * study.detectable:.1f} %"
    )
    _finish(plot, study, study.finding, height=130 + 24 * len(names), more=more)
    return Figure(f"multiplier_{study.name}", study.finding, plot, (f"shift_{study.name}",))


def shares_figure(study: ShiftStudy) -> Figure:
    """Draw the shares of answers much longer and much shorter, with what the baseline's own seeds give."""
    rows = _rows(study)
    apart = any(found.floor for _, found in rows.values())
    plot = panels(1, 2, titles=["D ≥ 50 %", "D ≤ −50 %"], shared_yaxes=True)
    for column, side in enumerate(("much_longer", "much_shorter"), 1):
        ends = [0.0]
        for place, (method, found) in enumerate(rows.values()):
            spread = found.other or found.same
            excess = found.excess_longer if side == "much_longer" else found.excess_shorter
            share = 100 * getattr(spread, side)
            bars: dict[str, Any] = {}
            if excess is not None and found.floor is not None:
                base = 100 * getattr(found.floor, side)
                high, low = 100 * (excess.high - excess.value), 100 * (excess.value - excess.low)
                bars = {"error_x": {"array": [high], "arrayminus": [low], "thickness": 1.4, "width": 3}}
                plot.add_scatter(
                    x=[base, base], y=[place - 0.38, place + 0.38], mode="lines",
                    line={"color": GREY, "width": 3}, hovertemplate=f"floor {base:.1f} %<extra></extra>",
                    row=1, col=column,
                )  # fmt: skip
                ends += [base, share + high, share - low]
            plot.add_scatter(
                x=[share], y=[place], mode="markers", marker=_marker(method), row=1, col=column,
                hovertemplate=f"{share:.1f} %<extra>{setup_label(method)}</extra>", **bars,
            )  # fmt: skip
            ends.append(share)
        plot.update_xaxes(title_text="share of pairs, %", **linear_axis(ends), row=1, col=column)
    plot.update_yaxes(range=[-0.7, len(rows) - 0.3], tickvals=list(range(len(rows))), ticktext=list(rows))
    finding = _shares_finding(study)
    more = (
        f"pairs of different seeds; grey: the baseline's own seeds; bars: {100 * study.level:.0f} % interval "
        "of the difference"
        if apart
        else "pairs of the same prompt; one seed, so there is no floor"
    )
    _finish(plot, study, finding, height=130 + 24 * len(rows), more=more)
    return Figure(f"shares_{study.name}", finding, plot, (f"shift_{study.name}",))


def _shares_finding(study: ShiftStudy) -> str:
    """Say how many exceed the floor's share, or what the shares are without one."""
    rows = [(name, c) for name, (_, c) in _rows(study).items()]
    beyond = [name for name, c in rows if c.excess_longer is not None and c.excess_longer.low > 0]
    with_floor = [c for _, c in rows if c.floor is not None]
    if with_floor and with_floor[0].floor is not None:
        share = 100 * with_floor[0].floor.much_longer
        return (
            f"{len(beyond)} of {len(rows)} setups give answers longer by half more often than the baseline's "
            f"own seeds ({share:.0f} % of pairs)"
        )
    name, most = max(rows, key=lambda item: item[1].same.much_longer)
    return (
        f"Up to {100 * most.same.much_longer:.0f} % of answers are longer by half ({name}); nothing tells "
        "how many would be by chance"
    )


def _density(spread: Spread) -> Floats:
    """Return the density of D at `_SHOWN`, per unit of D.

    Gaussian kernels on log(1 + D), all of it above -100 %; Silverman's bandwidth (1986, eq. 3.31).
    """
    logs = np.log1p(spread.d)
    low, high = np.quantile(logs, [0.25, 0.75])
    scale = min(np.std(logs), (high - low) / 1.34) or np.std(logs)
    # Where nearly every pair is alike, as narrow as can be seen.
    width = max(0.9 * scale * len(logs) ** -0.2, 0.02)
    places = np.log1p(_SHOWN)
    kernels = np.exp(-0.5 * ((places[:, None] - logs) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    return np.asarray(kernels.mean(axis=1) / (1 + _SHOWN))


def density_sheet(study: ShiftStudy) -> Sheet:
    """Return the drawn densities, one row per setup and place."""
    columns = (
        Column("method", "Method"),
        Column("d", "D", str),
        Column("density", "Density", str),
        Column("density_floor", "Density of the floor", str),
    )
    rows = []
    for name, (_, found) in _rows(study).items():
        floor = _density(found.floor) if found.floor else [None] * len(_SHOWN)
        own = _density(found.other or found.same)
        rows += [(name, float(d), float(a), b) for d, a, b in zip(_SHOWN, own, floor, strict=True)]
    return sheet(f"density_{study.name}", "Density of D", columns, rows)


def density_figure(study: ShiftStudy) -> Figure:
    """Draw the density of D, a panel per setup, over that of the baseline's own seeds."""
    rows = dict(reversed(_rows(study).items()))
    n_rows = -(-len(rows) // _COLUMNS)
    plot = panels(n_rows, min(len(rows), _COLUMNS), titles=list(rows), spacing=0.35 / n_rows)
    plot.update_annotations(font_size=12)
    percents = (100 * _SHOWN).tolist()
    for number, (method, found) in enumerate(rows.values()):
        place = {"row": number // _COLUMNS + 1, "col": number % _COLUMNS + 1}
        own = _density(found.other or found.same)
        highest = max(own)
        if found.floor:
            floor = _density(found.floor)
            highest = max(highest, *floor)
            plot.add_scatter(
                x=percents, y=floor.tolist(), mode="lines", line={"width": 0}, fill="tozeroy",
                fillcolor="rgba(140,140,140,0.4)", hoverinfo="skip", **place,
            )  # fmt: skip
        plot.add_scatter(
            x=percents, y=own.tolist(), mode="lines", line={"color": _marker(method)["color"], "width": 2},
            hovertemplate="D = %{x:.0f} %<extra>" + setup_label(method) + "</extra>", **place,
        )  # fmt: skip
        for edge in (-100 * HALF, 100 * HALF):
            plot.add_vline(x=edge, line={"color": GREY, "width": 1, "dash": "dot"}, **place)
        plot.update_yaxes(range=[0, 1.05 * highest], showticklabels=False, **place)
    plot.update_xaxes(range=[-100, 100 * _SHOWN[-1]], tickvals=[-50, 0, 50, 100, 200])
    plot.update_xaxes(title_text="D, %", row=n_rows)
    plot.update_yaxes(title_text="density", col=1)
    finding = _density_finding(study)
    how = "filled: the baseline's own seeds; line: across seeds" if study.floor else "same prompts"
    more = f"{how}; D up to 300 % shown; dotted: ± 50 %; pairs cut on both sides count as 0"
    _finish(plot, study, finding, height=120 + 150 * n_rows, more=more)
    plot.update_layout(margin_l=70)
    return Figure(f"density_{study.name}", finding, plot, (f"density_{study.name}",))


def _density_finding(study: ShiftStudy) -> str:
    floor = study.floor.floor if study.floor else None
    spreads = {name: found.other or found.same for name, (_, found) in _rows(study).items()}
    name, widest = max(spreads.items(), key=lambda item: item[1].mean)
    base = f", of the baseline's own seeds {100 * floor.mean:+.0f} %" if floor else ""
    return f"The mean of D is at most {100 * widest.mean:+.0f} % ({name}){base}"


def ratio_figure(study: ShiftStudy) -> Figure:
    """Draw totals and shares over the compression ratio of the cache."""
    rows = {
        name: (method, found)
        for name, (method, found) in _rows(study).items()
        if np.isfinite(found.compression) and method != study.baseline.method_params
    }
    titles = ["total tokens", "answers longer by half (D ≥ 50 %)"]
    plot = panels(1, 2, titles=titles)
    ends = [[1.0], [0.0]]
    # Names stand on the side where there is room.
    middle = sum(found.compression for _, found in rows.values()) / max(len(rows), 1)
    for name, (method, found) in rows.items():
        side = "left" if found.compression > middle else "right"
        spread = found.other or found.same
        m, share = found.multiplier, 100 * spread.much_longer
        bars = {"array": [m.high - m.value], "arrayminus": [m.value - m.low], "thickness": 1.2, "width": 3}
        look = {"x": [found.compression], "mode": "markers+text", "text": [name], "textfont": {"size": 10},
                "textposition": f"middle {side}", "marker": _marker(method), "cliponaxis": False}  # fmt: skip
        plot.add_scatter(y=[m.value], error_y=bars, row=1, col=1, **look)
        plot.add_scatter(y=[share], row=1, col=2, **look)
        ends[0] += [m.low, m.high]
        ends[1].append(share)
    plot.add_hline(y=1, line={"color": BLACK, "width": 1}, row=1, col=1)
    if study.floor and study.floor.floor:
        share = 100 * study.floor.floor.much_longer
        plot.add_hline(y=share, line={"color": GREY, "width": 2}, row=1, col=2)
        ends[1].append(share)
    for column, (axis, values) in enumerate(
        zip(("over the baseline's", "share of pairs, %"), ends, strict=True), 1
    ):
        plot.update_yaxes(title_text=axis, **linear_axis(values), row=1, col=column)
    ratios = [1.0, *(found.compression for _, found in rows.values())]
    plot.update_xaxes(
        title_text="compression ratio of the cache (fp16's bytes over the method's)", **linear_axis(ratios)
    )
    finding = _ratio_finding(rows)
    more = "at the answers' end, by the memory model; grey: the baseline's own seeds"
    _finish(plot, study, finding, height=420, more=more)
    plot.update_layout(margin_l=70)
    return Figure(f"ratio_{study.name}", finding, plot, (f"shift_{study.name}",))


def _ratio_finding(rows: Mapping[str, tuple[str, Comparison]]) -> str:
    """Say what the strongest compression does to the total."""
    name, (_, most) = max(rows.items(), key=lambda item: item[1][1].compression)
    shift = f"{100 * (most.multiplier.value - 1):+.1f} %"
    strongest = f"The strongest compression, {most.compression:.1f}× ({name})"
    return f"{strongest}, changes the total by {shift}: {most.verdict}"

"""Heat maps of break-even: a panel per method, a figure per quantity."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from textwrap import wrap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvpred.predictors.breakeven_map import (
    BETTER,
    NO_ROOM,
    ONLY_THIS,
    UNCERTAIN,
    WORSE,
    BreakEven,
    Map,
)
from kvpred.predictors.greybox import Array
from kvpred.reports.axes import panels
from kvpred.reports.breakeven_words import (
    BATCH_NAMES,
    cells_name,
    fixed_name,
    place_name,
    quantities_of,
    quantity_name,
    words_of,
)
from kvpred.reports.figures import Figure
from kvpred.reports.style import BLUE, GREEN, VERMILION, layout, method_label

_COLUMNS = 4
_PANEL = 235
# Okabe and Ito's blue and vermilion about white; twice as fast and half as fast are full colours.
_SCALE = [[0.0, BLUE], [0.5, "#FFFFFF"], [1.0, VERMILION]]
_MOST = 1.0
_NO_ROOM = "#C8C8C8"
# Marks of uncertain cells in a panel, at most so many each way.
_MARKS = 20
_TITLE_CHARACTERS = 105


def breakeven_figures(found: BreakEven) -> list[Figure]:
    """Draw a figure per kind of batches and quantity."""
    return [
        _figure(found, list(maps), batches, quantity)
        for batches, maps in (
            (kind, list(maps)) for kind, maps in groupby(found.maps, key=lambda one: one.batches)
        )
        for quantity in quantities_of(batches)
    ]


def _figure(found: BreakEven, maps: Sequence[Map], batches: str, quantity: str) -> Figure:
    n_columns = min(len(maps), _COLUMNS)
    n_rows = -(-len(maps) // n_columns)
    titles = [method_label(one.method) for one in maps]
    plot = panels(n_rows, n_columns, titles=titles, spacing=0.26 / n_rows, shared_yaxes=True)
    x, y = np.log2(found.grid.across), np.log2(found.grid.prompt_len)
    for number, one in enumerate(maps):
        place = {"row": number // n_columns + 1, "col": number % n_columns + 1}
        _panel(plot, one, quantity, x, y, place)
        across = "output length" if found.grid.axis == "output_len" else "sequences"
        below = number + n_columns >= len(maps)
        plot.update_xaxes(
            title_text=f"{across} (tokens)" if below and across != "sequences" else across if below else "",
            **_octaves(found.grid.across),
            **place,
        )
        plot.update_yaxes(title_text="prompt (tokens)" if place["col"] == 1 else "", **place)
        plot.update_yaxes(**_octaves(found.grid.prompt_len), **place)
    _legend(plot)
    finding = _finding(maps, batches, quantity)
    title = wrap(finding, _TITLE_CHARACTERS)
    height = 190 + 22 * len(title) + _PANEL * n_rows
    plot.update_layout(layout("<br>".join(title), height=height, below=75))
    plot.update_layout(
        title_subtitle={"text": _caption(found, batches), "font": {"size": 12, "color": "#555555"}},
        margin={"t": 85 + 22 * len(title), "r": 95},
        title_y=1 - (12 + 18 * (len(title) - 1)) / height,
        coloraxis={
            "colorscale": _SCALE,
            "cmin": -_MOST,
            "cmax": _MOST,
            "colorbar": {
                "title": {"text": "over<br>fp16's"},
                "tickvals": [-1, -0.5, 0, 0.5, 1],
                "ticktext": ["≤ 0.5", "0.71", "1", "1.41", "≥ 2"],
                "thickness": 14,
            },
        },
    )
    return Figure(f"{quantity}_{batches}", finding, plot, (cells_name(batches),))


def _panel(plot: Any, one: Map, quantity: str, x: Array, y: Array, place: dict[str, int]) -> None:
    """Draw one method: colours, flat where memory decides, hatched outside the domain, dots where unsure."""
    verdicts = one.verdicts(quantity)
    ratio, low, high = one.ratios[quantity]
    judged = np.isin(verdicts, (BETTER, WORSE, UNCERTAIN))
    logs = np.where(judged, np.log2(ratio), np.nan)
    shown = np.stack([ratio, low, high], axis=-1).swapaxes(0, 1)
    plot.add_heatmap(
        x=x, y=y, z=logs.T, coloraxis="coloraxis", customdata=shown, hoverongaps=False,
        hovertemplate="%{customdata[0]:.2f} (%{customdata[1]:.2f}-%{customdata[2]:.2f})<extra></extra>",
        **place,
    )  # fmt: skip
    for word, colour in ((NO_ROOM, _NO_ROOM), (ONLY_THIS, GREEN)):
        flat = np.where(verdicts == word, 1.0, np.nan)
        if np.isfinite(flat).any():
            plot.add_heatmap(
                x=x, y=y, z=flat.T, colorscale=[[0, colour], [1, colour]], showscale=False, hoverongaps=False,
                hovertemplate=f"{word}<extra></extra>", **place,
            )  # fmt: skip
    if (logs < 0).any() and (logs > 0).any():
        plot.add_contour(
            x=x, y=y, z=logs.T, contours={"start": 0, "end": 0, "size": 1, "coloring": "none"},
            line={"color": "#000000", "width": 1.5}, showscale=False, showlegend=False, hoverinfo="skip",
            **place,
        )  # fmt: skip
    _hatch(plot, ~one.in_domain[quantity] & judged, _edges(x), _edges(y), place)
    rows, columns = (np.unique(np.linspace(0, n - 1, _MARKS).round().astype(int)) for n in verdicts.shape)
    unsure = [(x[i], y[j]) for i in rows for j in columns if verdicts[i, j] == UNCERTAIN]
    if unsure:
        plot.add_scatter(
            x=[a for a, _ in unsure], y=[b for _, b in unsure], mode="markers", showlegend=False,
            marker={"size": 2.5, "color": "#333333"}, hoverinfo="skip", **place,
        )  # fmt: skip


def _edges(centres: Array) -> Array:
    """Return the edges of cells about their centres."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate(
        [[1.5 * centres[0] - 0.5 * centres[1]], middle, [1.5 * centres[-1] - 0.5 * centres[-2]]]
    )


def _hatch(plot: Any, mask: NDArray[np.bool_], x: Array, y: Array, place: dict[str, int]) -> None:
    """Hatch cells: one rectangle per run of them up a column."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for column, cells in enumerate(mask):
        ends = np.flatnonzero(np.diff(np.concatenate([[0], cells.astype(int), [0]])))
        for low, high in zip(ends[::2], ends[1::2], strict=True):
            xs += [x[column], x[column + 1], x[column + 1], x[column], x[column], None]
            ys += [y[low], y[low], y[high], y[high], y[low], None]
    if xs:
        plot.add_scatter(
            x=xs, y=ys, mode="lines", fill="toself", line={"width": 0}, showlegend=False, hoverinfo="skip",
            fillpattern=_PATTERN, **place,
        )  # fmt: skip


_PATTERN = {
    "shape": "/",
    "size": 7,
    "solidity": 0.12,
    "fgcolor": "rgba(0,0,0,0.55)",
    "bgcolor": "rgba(0,0,0,0)",
    "fillmode": "replace",
}


def _octaves(values: NDArray[np.int64]) -> dict[str, Any]:
    """Return an axis of doublings with round labels."""
    logs = np.log2(values)
    edges = _edges(logs)
    powers = np.arange(int(np.ceil(edges[0])), int(np.floor(edges[-1])) + 1)
    powers = powers[:: max(1, -(-len(powers) // 7))]
    return {
        "range": [float(edges[0]), float(edges[-1])],
        "tickvals": powers.tolist(),
        "ticktext": [f"{2 ** int(power):,}" for power in powers],
        "tickfont": {"size": 11},
    }


def _legend(plot: Any) -> None:
    square = {"symbol": "square", "size": 13, "line": {"width": 0.6, "color": "#333333"}}
    for name, marker in (
        ("interval holds 1", {"size": 4, "color": "#333333"}),
        ("does not fit", {**square, "color": _NO_ROOM}),
        ("only this fits, not fp16", {**square, "color": GREEN}),
    ):
        plot.add_scatter(x=[None], y=[None], mode="markers", name=name, marker=marker)
    plot.add_scatter(x=[None], y=[None], mode="lines", name="equal", line={"color": "#000000", "width": 1.5})
    plot.add_bar(
        x=[None], y=[None], name="outside what was measured",
        marker={"color": "#FFFFFF", "pattern": {"shape": "/", "fgcolor": "#333333"},
                "line": {"width": 0.6, "color": "#333333"}},
    )  # fmt: skip


def _caption(found: BreakEven, batches: str) -> str:
    return (
        f"{place_name(found)}{fixed_name(found.grid, batches)}; blue: less than fp16, orange: more; "
        f"shares are of cells that fit; {found.level:.0%} intervals"
    )


def _finding(maps: Sequence[Map], batches: str, quantity: str) -> str:
    """Say which methods are surely better, and which surely worse, in a good part of the cells that fit."""
    better: list[tuple[float, str]] = []
    worse: list[tuple[float, str]] = []
    for one in maps:
        fits = 1 - one.share(quantity, NO_ROOM) - one.share(quantity, ONLY_THIS)
        for word, names in ((BETTER, better), (WORSE, worse)):
            share = one.share(quantity, word)
            if share > 0:
                names.append((share / fits, method_label(one.method)))
    name = quantity_name(quantity, batches)
    where = f"{name[0].upper()}{name[1:]}, {BATCH_NAMES[batches]}"

    def listed(found: list[tuple[float, str]]) -> str:
        return ", ".join(f"{method} ({share:.0%} of cells)" for share, method in sorted(found, reverse=True))

    said = [
        f"surely {word} than fp16: {listed(names)}"
        for word, names in zip(words_of(quantity), (better, worse), strict=True)
        if names
    ]
    return f"{where}: {'; '.join(said) or f'none of {len(maps)} methods surely differs from fp16 anywhere'}"

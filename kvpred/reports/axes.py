"""Axes and panels that figures of sites share.

Ranges are stated, not left to Plotly: where panels share an axis whose range is given, Plotly 7 does not find
the other axes' ranges.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

MOST_TICKS = 8
_MARGIN = 0.1  # decades


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Return labelled ticks of a logarithmic axis, closer together the less it spans.

    Examples
    --------
    >>> log_ticks(0.93, 1.12)["ticktext"]
    ['0.94', '0.96', '0.98', '1', '1.02', '1.04', '1.06', '1.08', '1.1', '1.12']
    """
    if high < 1.5 * low:
        step = _nice((high - low) / 4) if high > low else low
        first = int(np.ceil(low / step - 1e-9))
        values = [step * number for number in range(first, int(high / step + 1e-9) + 1)]
        return {"tickvals": values, "ticktext": [f"{value:,.6g}" for value in values]}
    steps = (1, 2, 5) if high > 10 * low else (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8)
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    values = [step * 10.0**decade for decade in decades for step in steps]
    ticks = [value for value in values if low <= value <= high]
    return {"tickvals": ticks, "ticktext": [f"{value:,.6g}" for value in ticks]}


def _nice(step: float) -> float:
    """Return the largest of 1, 2 and 5 times a power of ten that is no larger."""
    decade = 10.0 ** np.floor(np.log10(step))
    return float(decade * max(factor for factor in (1, 2, 5) if factor * decade <= step * (1 + 1e-9)))


def log_axis(values: Collection[float]) -> dict[str, Any]:
    """Return a logarithmic axis that holds all the positive values, with its ticks."""
    known = [value for value in values if value > 0] or [1.0]
    low, high = min(known), max(known)
    margin = 0.06 * float(np.log10(high / low)) or _MARGIN
    ends = [float(np.log10(low)) - margin, float(np.log10(high)) + margin]
    return {"type": "log", "range": ends, **log_ticks(low, high)}


def linear_axis(values: Collection[float]) -> dict[str, Any]:
    """Return a linear axis that holds all values."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 1.0
    return {"range": [low - margin, high + margin]}


def length_axis(lengths: Collection[int]) -> dict[str, Any]:
    """Return a logarithmic axis of tokens, labelled where measured, or at octaves if that is often."""
    ticks = sorted(set(lengths))
    axis = log_axis(ticks)
    if len(ticks) > MOST_TICKS:
        ticks = [2**power for power in range(30) if ticks[0] <= 2**power <= ticks[-1]]
    shown = [f"{tick:,}" for tick in ticks]
    return {**axis, "tickvals": ticks, "ticktext": shown, "tickfont": {"size": 11}}


def some_batches(batches: Collection[int], most: int = 4) -> list[int]:
    """Return a few batch sizes that span all of them, evenly in octaves.

    Examples
    --------
    >>> some_batches([1, 2, 4, 8, 16, 32, 64])
    [1, 4, 16, 64]
    """
    ordered = sorted(set(batches))
    if len(ordered) <= most:
        return ordered
    wanted = np.geomspace(ordered[0], ordered[-1], most)
    nearest = [int(np.abs(np.log(np.array(ordered) / place)).argmin()) for place in wanted]
    return [ordered[index] for index in sorted(set(nearest))]


def panels(rows: int, columns: int, *, titles: Sequence[str], spacing: float = 0.1, **options: Any) -> Any:
    """Return an empty Plotly figure of panels, rows apart by a share of the height."""
    from plotly.subplots import make_subplots

    return make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=list(titles),
        horizontal_spacing=0.035 if columns > 2 else 0.08,
        vertical_spacing=spacing if rows > 1 else 0.0,
        **options,
    )

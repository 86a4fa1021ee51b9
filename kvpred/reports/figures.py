"""Figures as values, and what Plotly needs to draw them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from kvpred.errors import MissingExtraError


@dataclass(frozen=True, slots=True)
class Figure:
    """A Plotly figure.

    Parameters
    ----------
    name : str
        Stem of its file.
    finding : str
        Its title: what it shows, in one sentence.
    plot : plotly.graph_objects.Figure
    sheets : tuple of str
        Names of the sheets that hold its data.
    """

    name: str
    finding: str
    plot: Any
    sheets: tuple[str, ...]


def require_plotly() -> None:
    """Raise a MissingExtraError if Plotly is not installed."""
    if find_spec("plotly") is None:
        raise MissingExtraError("plotly", "report")

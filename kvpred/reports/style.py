"""How things look, the same everywhere: one colour and symbol per method, one layout for every figure."""

from __future__ import annotations

from typing import Any
from zlib import crc32

from kvpred.methods import get_method

# Okabe and Ito, "Color Universal Design" (2008): told apart with every common colour vision.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
# The darkest of Tol's muted scheme (SRON/EPS/TN/09-002, 2021), for the method beyond these eight.
WINE = "#882255"
GREY = "#8C8C8C"

_METHODS = {
    "fp16": (BLACK, "circle"),
    "kivi": (ORANGE, "square"),
    "gear": (SKY, "diamond"),
    "h2o": (GREEN, "triangle-up"),
    "streamingllm": (BLUE, "triangle-down"),
    "snapkv": (VERMILION, "star"),
    "turboquant": (PURPLE, "cross"),
    "kv-int8": (YELLOW, "pentagon"),
    "kv-int4": (WINE, "x"),
    "kv-fp8": (GREY, "hexagon"),
}
_OTHERS = ((VERMILION, "hourglass"), (PURPLE, "bowtie"), (SKY, "star-diamond"), (GREY, "asterisk-open"))

STAGES = {"prefill": BLUE, "decode": VERMILION}

WIDTH = 1100
FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"


def method_label(method: str) -> str:
    """Return a method's bare name, with only those parameters that differ from its defaults.

    Examples
    --------
    >>> method_label("kivi:bits=4,group_size=32,residual_length=128"), method_label("kivi:bits=2")
    ('kivi', 'kivi:bits=2')
    """
    name = method.partition(":")[0]
    usual = get_method(name).spec.partition(":")[2].split(",")
    own = [part for part in get_method(method).spec.partition(":")[2].split(",") if part not in usual]
    return f"{name}:{','.join(own)}" if own else name


def method_marker(method: str) -> dict[str, Any]:
    """Return the Plotly marker of a method: its colour and symbol; open where its parameters are unusual."""
    label = method_label(method)
    name, _, unusual = label.partition(":")
    colour, symbol = _METHODS.get(name) or _OTHERS[crc32(name.encode()) % len(_OTHERS)]
    opened = f"{symbol}-open" if unusual and not symbol.endswith("-open") else symbol
    return {"color": colour, "symbol": opened, "size": 8, "line": {"width": 0.6, "color": "#333333"}}


def layout(title: str, *, height: int, below: int = 60) -> dict[str, Any]:
    """Return the Plotly layout that every figure shares.

    Parameters
    ----------
    title : str
        What the figure shows, in a sentence.
    height : int
        Pixels.
    below : int
        Pixels from the panels down to the legend: room for the axis' labels.
    """
    return {
        "template": "simple_white",
        "width": WIDTH,
        "height": height,
        "font": {"family": FONT, "size": 13},
        "title": {
            "text": title,
            "font": {"size": 17},
            "x": 0.01,
            "xanchor": "left",
            "y": 0.98,
            "yanchor": "top",
        },
        "margin": {"l": 70, "r": 25, "t": 90, "b": below + 50},
        "legend": {
            "orientation": "h",
            "x": 0.0,
            "xanchor": "left",
            "y": -below / (height - below - 140),
            "yanchor": "top",
        },
        "hovermode": "closest",
    }

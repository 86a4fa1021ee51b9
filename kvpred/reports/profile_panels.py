"""What the figures of operator profiles share: methods, sites, title and caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvpred.evaluation.profile_parts import AttentionTime, Composition
from kvpred.evaluation.profile_views import ProfileViews
from kvpred.evaluation.speedups import StepTime
from kvpred.methods import BASELINE
from kvpred.reports.style import layout, method_label, method_marker

Item = AttentionTime | Composition | StepTime
"""What was measured of a method at a site."""

STEP = {"decode": "decode step", "prefill": "prefill"}


def methods_of(items: Sequence[Item]) -> list[str]:
    """Return the methods, fp16 first."""
    return sorted({item.method for item in items}, key=lambda method: (method != BASELINE, method))


def stages_of(items: Sequence[Item]) -> list[str]:
    """Return the stages, decode first."""
    return sorted({item.site.stage for item in items})


def named(method: str, *, shown: bool) -> dict[str, Any]:
    """Return what makes a trace a method's: colour, symbol, one entry in the legend."""
    label = method_label(method)
    return {
        "name": label,
        "legendgroup": label,
        "showlegend": shown,
        "marker": method_marker(method),
        "hovertemplate": "%{text}<extra>" + label + "</extra>",
    }


def finish(
    plot: Any, finding: str, views: ProfileViews, *, height: int, below: int = 70, more: str = ""
) -> None:
    """Give a figure its title, and below that the caption that says what was measured."""
    caption = "; ".join(filter(None, (views.caption, more)))
    plot.update_layout(layout(finding, height=height, below=below))
    plot.update_layout(
        title_subtitle={"text": caption, "font": {"size": 12, "color": "#555555"}}, margin_t=115
    )

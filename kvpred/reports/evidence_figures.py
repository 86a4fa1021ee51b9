"""The figure of published ratios against length, and the report's folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple
from itertools import product
from pathlib import Path
from typing import Any

from kvpred.data.evidence import COLUMNS, Evidence
from kvpred.evaluation.evidence import Near, Wanted
from kvpred.evaluation.evidence_score import SPEED, EvidenceScore
from kvpred.reports.axes import log_axis, panels
from kvpred.reports.evidence import near_sheet, source_notes
from kvpred.reports.evidence_score import score_notes, score_sheets
from kvpred.reports.figures import Figure
from kvpred.reports.folder import Written, write_report
from kvpred.reports.sheets import Column, Sheet, sheet
from kvpred.reports.style import BLACK, GREY, layout, method_label, method_marker

# Engines that have a panel of their own, those with the most rows; the others share one.
_OWN_PANELS = 3
_OTHERS = "other engines"
_WITHOUT = "no counterpart (published name)"
_LENGTHS = tuple(4**power for power in range(3, 10))


def evidence_sheet(rows: Sequence[Evidence]) -> Sheet:
    """Return every row whole."""
    return sheet("evidence", "Published measurements", [Column(name, name) for name in COLUMNS],
                 [astuple(row) for row in rows])  # fmt: skip


def _marker(method: str) -> dict[str, Any]:
    if method == _WITHOUT:
        return {"color": GREY, "symbol": "circle-open", "size": 7, "line": {"width": 1, "color": GREY}}
    return method_marker(method)


def _label(method: str) -> str:
    """Return what stands in the legend: variants of a method that look alike share an entry."""
    if method == _WITHOUT:
        return method
    name, _, unusual = method_label(method).partition(":")
    return f"{name}, other parameters" if unusual else name


def ratio_figure(rows: Sequence[Evidence], score: EvidenceScore) -> Figure:
    """Draw each published ratio over its prompt length: a row of panels per stage, a column per engine."""
    shown = [row for row in rows if row.stage in SPEED and row.prompt_len]
    stages = [stage for stage in SPEED if any(row.stage == stage for row in shown)]
    often = Counter(row.engine for row in shown)
    own = [engine for engine, _ in often.most_common(_OWN_PANELS)]
    engines = [*own, *([_OTHERS] if len(often) > len(own) else [])]
    plot = panels(
        len(stages), len(engines), titles=engines, shared_xaxes=True, shared_yaxes=True, spacing=0.04
    )
    groups: dict[tuple[str, str, str], list[Evidence]] = {}
    for one in shown:
        engine = one.engine if one.engine in own else _OTHERS
        groups.setdefault((one.method or _WITHOUT, one.stage, engine), []).append(one)
    for row, column in product(range(1, len(stages) + 1), range(1, len(engines) + 1)):
        # Plotly leaves out the axes of a panel that holds nothing at all.
        plot.add_scatter(x=[None], y=[None], showlegend=False, row=row, col=column)
    named: set[str] = set()
    for (method, stage, engine), group in sorted(groups.items(), key=lambda item: item[0][0]):
        label = _label(method)
        plot.add_scatter(
            x=[row.prompt_len for row in group],
            y=[row.ratio_better for row in group],
            mode="markers",
            marker=_marker(method),
            opacity=0.75,
            name=label,
            legendgroup=label,
            showlegend=label not in named,
            text=[_hover(row) for row in group],
            hovertemplate="%{y:.2f}×, prompt %{x:,}<br>%{text}<extra>" + label + "</extra>",
            row=stages.index(stage) + 1,
            col=engines.index(engine) + 1,
        )
        named.add(label)
    plot.add_hline(y=1, line={"color": BLACK, "width": 1})
    ratios = [row.ratio_better for row in shown]
    plot.update_yaxes(**{**log_axis(ratios), "tickvals": [0.1, 0.2, 0.5, 1, 2],
                         "ticktext": ["0.1", "0.2", "0.5", "1", "2"]})  # fmt: skip
    lengths = [row.prompt_len for row in shown if row.prompt_len]
    plot.update_xaxes(**{**log_axis(lengths), "tickvals": list(_LENGTHS), "tickangle": 0,
                         "ticktext": [_short(n) for n in _LENGTHS]})  # fmt: skip
    plot.update_xaxes(title_text="prompt, tokens", row=len(stages))
    for number, stage in enumerate(stages, 1):
        plot.update_yaxes(title_text=f"{stage}: speed over 16 bit", row=number, col=1)
    finding = _finding(score)
    height = 190 + 230 * len(stages)
    plot.update_layout(layout(finding, height=height))
    missing = sum(row.stage in SPEED for row in rows) - len(shown)
    plot.update_layout(
        title_subtitle={
            "text": "above 1 the compressed cache is faster; "
            f"{missing} rows without a prompt length are not shown",
            "font": {"size": 12, "color": "#555555"},
        },
        margin={"t": 110},
    )
    return Figure("evidence_ratio", finding, plot, ("evidence",))


def _short(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens >= 1024 else str(tokens)


def _hover(row: Evidence) -> str:
    place = ", ".join(filter(None, (row.engine, row.version, row.device, row.model)))
    return f"{row.published_method}<br>{place}, bsz {row.bsz or '?'}<br>{row.source_url}"


def _finding(score: EvidenceScore) -> str:
    """Say which way decoding goes, as the sources have it."""
    decode = next(said for said in score.said if said.group == "stage decode")
    return (
        f"Published: decoding with a compressed cache is slower in {decode.slower:.0%} of rows, faster in "
        f"{decode.faster:.0%} ({decode.n_sources} sources, each weighs the same)"
    )


def write_evidence_report(
    rows: Sequence[Evidence],
    score: EvidenceScore,
    folder: Path,
    *,
    question: Wanted,
    found: Sequence[Near],
) -> Written:
    """Write the page, its tables as CSV and its figure as PNG into a folder, in one step.

    Raises
    ------
    UsageError, MissingExtraError
        See `kvpred.reports.folder.write_report`.
    """
    return write_report(
        folder,
        title="What others measured: compressed against 16-bit caches",
        notes=[*score_notes(score), *source_notes(found)],
        parts=[ratio_figure(rows, score), near_sheet(found, question), *score_sheets(score)],
        data=[evidence_sheet(rows)],
    )

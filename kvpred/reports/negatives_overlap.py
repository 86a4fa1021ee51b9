"""Which runs break the same samples: every combination of runs with the samples that it alone breaks."""

from __future__ import annotations

from collections import Counter
from typing import Any

from kvpred.evaluation.negatives import NegativeStudy
from kvpred.reports.axes import panels
from kvpred.reports.figures import Figure
from kvpred.reports.negatives_figures import finish, label_looks
from kvpred.reports.negatives_words import alone, cells_at, label_names
from kvpred.reports.sheets import Column, Sheet, sheet
from kvpred.reports.style import BLACK, GREY

MOST = 15
_FAINT = "#DDDDDD"


def overlaps(study: NegativeStudy, threshold: float) -> dict[tuple[str, ...], int]:
    """Return how many samples each combination of labels breaks and no other label does, most first.

    Only labels of one run each, on the datasets that all of these have.

    Examples
    --------
    >>> from kvpred.data.scores import ScoreRun
    >>> from kvpred.evaluation.negatives import study_negatives
    >>> scores = {"fp16": (1.0, 1.0, 1.0), "kivi": (0.5, 1.0, 0.5), "h2o": (0.5, 0.5, 0.5)}
    >>> runs = {name: ScoreRun(name, {"trec": dict(zip("abc", own))}) for name, own in scores.items()}
    >>> groups = {"kivi": ["kivi"], "h2o": ["h2o"]}
    >>> study = study_negatives(runs.pop("fp16"), runs, groups=groups, thresholds=[0.1])
    >>> overlaps(study, 0.1)
    {('kivi', 'h2o'): 2, ('h2o',): 1}
    """
    cells = cells_at(study, threshold)
    labels = alone(study)
    common = set.intersection(*({part.dataset for part in cells[label].datasets} for label in labels))
    breakers: dict[tuple[str, str], list[str]] = {}
    for label in labels:
        for part in cells[label].datasets:
            for key in part.negative if part.dataset in common else ():
                breakers.setdefault((part.dataset, key), []).append(label)
    return dict(Counter(map(tuple, breakers.values())).most_common())


def overlap_sheet(study: NegativeStudy, threshold: float) -> Sheet:
    """Return one row per combination, with all of them."""
    names = label_names(study)
    columns = (
        Column("labels", "Broken by these, no others"),
        Column("number", "Number", str),
        Column("negative", "Samples", "{:,}".format),
    )
    rows = [
        (", ".join(names[label] for label in labels), len(labels), count)
        for labels, count in overlaps(study, threshold).items()
    ]
    return sheet("negatives_overlap", overlap_finding(study, threshold), columns, rows)


def overlap_finding(study: NegativeStudy, threshold: float) -> str:
    """Say how many samples one run alone breaks, and how many all do."""
    counts, n_runs = overlaps(study, threshold), len(alone(study))
    broken = sum(counts.values())
    by_one = sum(count for labels, count in counts.items() if len(labels) == 1)
    by_all = sum(count for labels, count in counts.items() if len(labels) == n_runs)
    of = f"Of {broken:,} samples that some run breaks"
    return f"{of}, {by_one:,} are broken by one run alone and {by_all:,} by all {n_runs}"


def overlap_figure(study: NegativeStudy, threshold: float) -> Figure | None:
    """Draw a bar per combination, at most `MOST`, over dots that tell its runs; None without any."""
    counts, labels = overlaps(study, threshold), list(reversed(alone(study)))
    if len(labels) < 2 or not counts:
        return None
    shown = dict(list(counts.items())[:MOST])
    matrix = 26 * len(labels)
    plot = panels(
        2, 1, titles=["", ""], spacing=0.03, row_heights=[300, matrix], shared_xaxes=True,
    )  # fmt: skip
    plot.add_bar(
        x=list(range(len(shown))), y=list(shown.values()), text=[f"{count:,}" for count in shown.values()],
        textposition="outside", width=0.62, marker={"color": BLACK}, cliponaxis=False, row=1, col=1,
        hovertemplate="%{y:,}<extra></extra>",
    )  # fmt: skip
    _add_dots(plot, study, shown, labels)
    totals = {
        label: sum(count for combined, count in counts.items() if label in combined) for label in labels
    }
    names = label_names(study)
    plot.update_yaxes(title_text="samples", range=[0, 1.12 * max(shown.values())], row=1, col=1)
    plot.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=[f"{names[label]} ({totals[label]:,})" for label in labels],
        range=[-0.6, len(labels) - 0.4], showline=False, ticks="", row=2, col=1,
    )  # fmt: skip
    plot.update_xaxes(range=[-0.6, len(shown) - 0.4], showticklabels=False, ticks="")
    plot.update_xaxes(title_text="combinations of runs, each without the other runs", row=2, col=1)
    plot.update_xaxes(showline=False, row=2, col=1)
    found = overlap_finding(study, threshold)
    rest = sum(counts.values()) - sum(shown.values())
    left_out = f"; {len(counts) - len(shown):,} smaller combinations with {rest:,} samples are not shown"
    more = f"threshold {100 * threshold:g} %; only datasets that every run has; in brackets: all of a run"
    finish(plot, study, found, height=420 + matrix, more=more + left_out * (rest > 0))
    plot.update_layout(showlegend=False, margin_l=230, margin_b=70)
    return Figure("overlap", found, plot, ("negatives_overlap",))


def _add_dots(plot: Any, study: NegativeStudy, shown: dict[tuple[str, ...], int], labels: list[str]) -> None:
    """Draw the runs of each combination as dots in their colours on a line, the others faintly."""
    own = label_looks(study)
    grid = [(x, y) for x in range(len(shown)) for y in range(len(labels))]
    plot.add_scatter(
        x=[x for x, _ in grid], y=[y for _, y in grid], mode="markers", hoverinfo="skip",
        marker={"color": _FAINT, "size": 9}, row=2, col=1,
    )  # fmt: skip
    for x, combined in enumerate(shown):
        ends = sorted(labels.index(label) for label in combined)
        plot.add_scatter(
            x=[x] * len(ends), y=ends, mode="lines+markers", line={"color": GREY, "width": 2},
            marker={"color": [own[labels[y]].colour for y in ends], "size": 12,
                    "line": {"color": "#333333", "width": 0.6}},
            hoverinfo="skip", row=2, col=1,
        )  # fmt: skip

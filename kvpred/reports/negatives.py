"""Negative samples as tables, as JSON objects, and as a folder with a page and its data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kvpred.data.longbench import Task
from kvpred.evaluation.negatives import Negatives, NegativeStudy, mean_score
from kvpred.reports.figures import Figure
from kvpred.reports.folder import Written, write_report
from kvpred.reports.negatives_figures import loss_figure, scores_figure, tasks_figure, threshold_figure
from kvpred.reports.negatives_overlap import overlap_figure, overlap_sheet
from kvpred.reports.negatives_words import (
    benign_counts,
    cells_at,
    finding,
    label_names,
    losses,
    per_task,
    run_names,
    set_finding,
    set_scores,
)
from kvpred.reports.sheets import Column, Sheet, percent, sheet

_count = "{:,}".format
_three = "{:.3f}".format

_COUNTED = (
    Column("samples", "Samples", _count),
    Column("benign", "Benign", _count),
    Column("negative", "Negative", _count),
)
_INTERVAL = (
    Column("negative_low", "from", "{:,.0f}".format),
    Column("negative_high", "to", "{:,.0f}".format),
)
_SHARE = Column("share_of_benign", "Of benign %", percent)


def negatives_sheets(study: NegativeStudy, threshold: float = 0.1) -> list[Sheet]:
    """Return the tables for people: totals, by threshold, task type and dataset, and scores on the set.

    Raises
    ------
    UsageError
        If this threshold was not studied.
    """
    return [
        counts_sheet(study, threshold),
        _thresholds_sheet(study),
        _by_task_sheet(study, threshold),
        _datasets_sheet(study, threshold),
        _scores_sheet(study, threshold),
    ]


def counts_sheet(study: NegativeStudy, threshold: float) -> Sheet:
    """Return one row per label: its samples, and what the mean score of its run tells."""
    columns = (
        Column("label", "Method"),
        *_COUNTED,
        *_INTERVAL,
        _SHARE,
        Column("mean_score", "Mean score", _three),
        Column("baseline_score", "Baseline's", _three),
        Column("loss", "Loss %", percent),
    )
    names, lost = label_names(study), losses(study, threshold)
    rows = []
    for label, cell in cells_at(study, threshold).items():
        loss = lost.get(label)
        scores = (loss.score, loss.baseline_score, loss.share) if loss else (None, None, None)
        rows.append((names[label], *_counted(study, label, cell), *scores))
    return sheet("negatives_counts", finding(study, threshold), columns, rows)


def _counted(study: NegativeStudy, label: str, cell: Negatives) -> tuple[Any, ...]:
    interval = study.intervals[label, cell.threshold]
    return cell.samples, cell.benign_count, cell.count, *interval, _ratio(cell.count, cell.benign_count)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _thresholds_sheet(study: NegativeStudy) -> Sheet:
    columns = [Column("label", "Method")]
    columns += [
        Column(f"negative_at_{100 * one:g}_percent", f"{100 * one:g} %", _count) for one in study.thresholds
    ]
    rows = [
        (name, *(study.cells[label, one].count for one in study.thresholds))
        for label, name in label_names(study).items()
    ]
    return sheet("negatives_thresholds", "Negative samples by threshold", columns, rows)


def all_sheet(study: NegativeStudy) -> Sheet:
    """Return one row per label and threshold, with everything that was counted."""
    columns = (
        Column("label", "Method"),
        Column("runs", "Runs"),
        Column("threshold", "Threshold %", percent),
        *_COUNTED,
        *_INTERVAL,
        _SHARE,
        Column("missing_datasets", "Left out"),
    )
    names = label_names(study)
    rows = [
        (names[label], " ".join(cell.methods), at, *_counted(study, label, cell), " ".join(cell.missing))
        for (label, at), cell in study.cells.items()
    ]
    return sheet("negatives", "All that was counted", columns, rows)


def _by_task_sheet(study: NegativeStudy, threshold: float) -> Sheet:
    tasks = per_task(benign_counts(study))
    columns = [Column("label", "Method"), *(Column(str(task), str(task), _count) for task in tasks)]
    names = label_names(study)
    rows = [
        (names[label], *(cell.by_task().get(task) for task in tasks))
        for label, cell in cells_at(study, threshold).items()
    ]
    title = f"Negative samples by task type, at a threshold of {100 * threshold:g} %"
    return sheet("negatives_by_task", title, columns, rows)


def tasks_sheet(study: NegativeStudy, threshold: float) -> Sheet:
    """Return one row per label and task type."""
    columns = (
        Column("label", "Method"),
        Column("task", "Task type"),
        *_COUNTED,
        _SHARE,
        Column("share_of_negative", "Of negative %", percent),
    )
    names = label_names(study)
    rows = []
    for label, cell in cells_at(study, threshold).items():
        for task, counts in _task_counts(cell):
            negative = counts["negative"]
            shares = _ratio(negative, counts["benign"]), _ratio(negative, cell.count)
            rows.append((names[label], str(task), *counts.values(), *shares))
    return sheet("negatives_tasks", "Negative samples by label and task type", columns, rows)


def _datasets_sheet(study: NegativeStudy, threshold: float) -> Sheet:
    cells, names = cells_at(study, threshold), label_names(study)
    parts = {part.dataset: part for cell in cells.values() for part in cell.datasets}
    columns = (
        Column("dataset", "Dataset"),
        *_COUNTED[:2],
        *(Column(f"negative_{names[label]}", names[label], _count) for label in cells),
    )
    rows = [
        (
            name,
            parts[name].samples,
            len(parts[name].benign),
            *(cell.by_dataset().get(name) for cell in cells.values()),
        )
        for name in sorted(parts)
    ]
    title = f"Negative samples by dataset, at a threshold of {100 * threshold:g} %"
    return sheet("negatives_datasets", title, columns, rows)


def _scores_sheet(study: NegativeStudy, threshold: float) -> Sheet:
    rows, names = set_scores(study, threshold), run_names(study)
    runs = list(rows[0].scores) if rows else []
    columns = (
        Column("task", "Task type"),
        _COUNTED[0],
        *(Column(f"score_{names[run]}", names[run], _three) for run in runs),
    )
    title = set_finding(study, threshold)
    return sheet("negatives_scores", title, columns, [(r.task, r.samples, *r.scores.values()) for r in rows])


def _dataset_counts(cell: Negatives) -> dict[str, dict[str, int]]:
    return {
        part.dataset: {
            "samples": part.samples,
            "benign": len(part.benign),
            "negative": len(part.negative),
        }
        for part in cell.datasets
    }


def _task_counts(cell: Negatives) -> Iterator[tuple[Task, dict[str, int]]]:
    found = _dataset_counts(cell)
    by_kind = {
        kind: per_task({dataset: counts[kind] for dataset, counts in found.items()})
        for kind in ("samples", "benign", "negative")
    }
    for task in by_kind["samples"]:
        yield task, {kind: counts[task] for kind, counts in by_kind.items()}


def negatives_records(study: NegativeStudy) -> list[dict[str, Any]]:
    """Return everything as one object per label and threshold that JSON can hold."""
    return [_record(study, label, cell) for (label, _), cell in study.cells.items()]


def _record(study: NegativeStudy, label: str, cell: Negatives) -> dict[str, Any]:
    low, high = study.intervals[label, cell.threshold]
    datasets = [part.dataset for part in cell.datasets]
    return {
        "methods": list(cell.methods),
        "label": label,
        "threshold": cell.threshold,
        "center": str(study.center),
        "definition": str(study.definition),
        "samples": cell.samples,
        "benign": cell.benign_count,
        "negative": cell.count,
        "negative_as_listed": cell.listed_count,
        "negative_low": low,
        "negative_high": high,
        "interval_level": study.level,
        "by_dataset": _dataset_counts(cell),
        "by_task": {str(task): counts for task, counts in _task_counts(cell)},
        "missing_datasets": list(cell.missing),
        "baseline_score": mean_score(study.baseline, datasets),
        "scores": {name: mean_score(study.runs[name], datasets) for name in cell.methods},
    }


def write_negatives_report(study: NegativeStudy, folder: Path, threshold: float = 0.1) -> Written:
    """Write the page, its tables as CSV and its figures as PNG into a folder, in one step.

    Parameters
    ----------
    study : NegativeStudy
    folder : Path
    threshold : float
        Of what is shown at one threshold.

    Raises
    ------
    UsageError, MissingExtraError
        If this threshold was not studied; see `kvpred.reports.folder.write_report`.
    """
    counts, thresholds, tasks, datasets, scores = negatives_sheets(study, threshold)
    parts: list[Sheet | Figure | None] = [
        counts, loss_figure(study, threshold),
        thresholds, threshold_figure(study, threshold),
        tasks, tasks_figure(study, threshold),
        datasets,
        scores, scores_figure(study, threshold),
        overlap_figure(study, threshold),
    ]  # fmt: skip
    return write_report(
        folder,
        title="Which good answers does compression break?",
        notes=study.notes,
        parts=[part for part in parts if part is not None],
        data=[all_sheet(study), tasks_sheet(study, threshold), overlap_sheet(study, threshold)],
    )

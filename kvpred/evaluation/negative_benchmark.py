"""A benchmark of negative samples: chosen from a study, kept in a file, and other runs' scores on it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kvpred.data.files import format_table, read_table, write_text
from kvpred.data.longbench import DATASETS, Task
from kvpred.data.scores import ScoreRun, checked_score, read_json, read_sample
from kvpred.errors import DataError, UsageError
from kvpred.evaluation.negatives import NegativeStudy

_COLUMNS = ("dataset", "id", "task", "baseline_score")
# Before the run's name, in a column's.
_SCORES = "scores."


@dataclass(frozen=True, slots=True)
class BenchmarkItem:
    """A negative sample.

    Parameters
    ----------
    dataset, id : str
    baseline_score : float
    scores : mapping of str to float
        Of the runs that have it, by name.
    """

    dataset: str
    id: str
    baseline_score: float
    scores: Mapping[str, float]

    @property
    def task(self) -> Task:
        """The dataset's task."""
        return DATASETS[self.dataset].task


@dataclass(frozen=True, slots=True)
class BenchmarkScore:
    """What a run scores on the negative samples, or on part of them.

    Parameters
    ----------
    run : str
    part : {"all", "task", "dataset"}
    name : str
        Of the task or dataset; ``all`` for all.
    count : int
        Samples that the run has.
    missing : int
        Samples that it lacks.
    baseline_score, score : float
        Means over the samples that it has; NaN if there is none.
    """

    run: str
    part: str
    name: str
    count: int
    missing: int
    baseline_score: float
    score: float


def negative_items(study: NegativeStudy, label: str, threshold: float) -> list[BenchmarkItem]:
    """Return the negative samples of one group at one threshold, each once, with all runs' scores."""
    return [
        BenchmarkItem(
            dataset=part.dataset,
            id=key,
            baseline_score=study.baseline.scores[part.dataset][key],
            scores={
                name: run.scores[part.dataset][key]
                for name, run in study.runs.items()
                if part.dataset in run.scores
            },
        )
        for part in study.cells[label, threshold].datasets
        for key in part.negative
    ]


def missing_items(items: Sequence[BenchmarkItem], run: ScoreRun) -> list[BenchmarkItem]:
    """Return the samples that a run has no score of."""
    return [item for item in items if item.id not in run.scores.get(item.dataset, {})]


def score_on(items: Sequence[BenchmarkItem], run: ScoreRun) -> list[BenchmarkScore]:
    """Average a run's scores on negative samples: over all, by task and by dataset.

    Parameters
    ----------
    items : sequence of BenchmarkItem
    run : ScoreRun
        Samples that it lacks are left out, and counted.
    """
    parts = {("all", "all"): list(items)}
    for task in Task:
        parts["task", task.value] = [item for item in items if item.task is task]
    for dataset in DATASETS:
        parts["dataset", dataset] = [item for item in items if item.dataset == dataset]
    return [_averaged(part, name, found, run) for (part, name), found in parts.items() if found]


def _averaged(part: str, name: str, items: Sequence[BenchmarkItem], run: ScoreRun) -> BenchmarkScore:
    pairs = [
        (item.baseline_score, run.scores[item.dataset][item.id])
        for item in items
        if item.id in run.scores.get(item.dataset, {})
    ]
    base, own = map(statistics.fmean, zip(*pairs, strict=True)) if pairs else (float("nan"), float("nan"))
    return BenchmarkScore(run.name, part, name, len(pairs), len(items) - len(pairs), base, own)


def check_benchmark_path(path: Path) -> None:
    """Raise a UsageError unless the name ends in .json or .csv."""
    if path.suffix not in {".json", ".csv"}:
        raise UsageError(f"{path}: name a file that ends in .json or .csv")


def write_benchmark(path: Path, study: NegativeStudy, label: str, threshold: float) -> list[BenchmarkItem]:
    """Write the negative samples of one group at one threshold, in one step; `read_benchmark` returns them.

    Parameters
    ----------
    path : Path
        JSON tells how the samples were chosen too, CSV holds the samples alone.
    study : NegativeStudy
    label : str
    threshold : float

    Raises
    ------
    UsageError
        If the name ends in neither, there is no negative sample, or the place cannot be written to.
    """
    check_benchmark_path(path)
    items = negative_items(study, label, threshold)
    if not items:
        raise UsageError(
            f"no negative sample of {label} at {100 * threshold:g} %: nothing to write to {path}"
        )
    write_text(path, _csv(items, study) if path.suffix == ".csv" else _json(items, study, label, threshold))
    return items


def _csv(items: Sequence[BenchmarkItem], study: NegativeStudy) -> str:
    rows = (
        (item.dataset, item.id, item.task.value, item.baseline_score, *map(item.scores.get, study.runs))
        for item in items
    )
    return format_table([*_COLUMNS, *(f"{_SCORES}{name}" for name in study.runs)], rows)


def _json(items: Sequence[BenchmarkItem], study: NegativeStudy, label: str, threshold: float) -> str:
    content: dict[str, Any] = {
        "baseline": study.baseline.name,
        "label": label,
        "methods": list(study.groups[label]),
        "threshold": threshold,
        "center": study.center.value,
        "definition": study.definition.value,
        "items": [
            {
                "dataset": item.dataset,
                "id": item.id,
                "task": item.task.value,
                "baseline_score": item.baseline_score,
                "scores": dict(item.scores),
            }
            for item in items
        ],
    }
    return json.dumps(content, indent=2) + "\n"


def read_benchmark(path: Path) -> list[BenchmarkItem]:
    """Read what `write_benchmark` wrote.

    Raises
    ------
    DataError
        If the file is wrong: an unknown dataset, a sample twice, a score outside 0 to 1.
    UsageError
        If its name ends in neither .json nor .csv.
    """
    check_benchmark_path(path)
    items = list(_from_csv(path) if path.suffix == ".csv" else _from_json(path))
    seen: set[tuple[str, str]] = set()
    for item in items:
        if item.dataset not in DATASETS:
            raise DataError(
                f"id {item.id!r}: unknown dataset; known are {', '.join(DATASETS)}",
                path=path,
                value=item.dataset,
            )
        if (item.dataset, item.id) in seen:
            raise DataError(f"{item.dataset} has id {item.id!r} twice", path=path)
        seen.add((item.dataset, item.id))
    return items


def _from_csv(path: Path) -> Iterator[BenchmarkItem]:
    table = read_table(path)
    table.require([name for name in _COLUMNS if name != "task"])
    runs = [name for name in table.columns if name.startswith(_SCORES)]
    numbers = {name: table.floats(name) for name in ("baseline_score", *runs)}
    for name, values in numbers.items():
        empty = np.isnan(values) & (name != "baseline_score")
        table.check((values <= 1) | empty, name, "expected a score between 0 and 1")
    scores = {name.removeprefix(_SCORES): numbers[name].tolist() for name in runs}
    keys = zip(table.texts("dataset").tolist(), table.texts("id").tolist(), strict=True)
    for row, (dataset, key) in enumerate(keys):
        own = {name: values[row] for name, values in scores.items() if not np.isnan(values[row])}
        yield BenchmarkItem(dataset, key, float(numbers["baseline_score"][row]), own)


def _from_json(path: Path) -> Iterator[BenchmarkItem]:
    content = read_json(path)
    rows = content.get("items") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows:
        raise DataError("expected a list of objects with dataset, id and baseline_score", path=path)
    for place, row in enumerate(rows, 1):
        key, base = read_sample(row, place=place, path=path, field="baseline_score")
        own = row.get("scores", {})
        if not isinstance(own, dict):
            raise DataError(f"id {key!r}: expected scores by run", path=path, value=own)
        scores = {name: checked_score(score, key=key, path=path) for name, score in own.items()}
        yield BenchmarkItem(str(row.get("dataset")), key, base, scores)

"""What a folder of scores holds beside its journal: score files, the prompts' features, the manifest."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kvpred.data.files import format_table, write_text
from kvpred.data.longbench import Sample, get_dataset
from kvpred.data.risk import FEATURES_FILE
from kvpred.data.scores import ScoreRun, run_name, score_path, write_scores

MANIFEST = "manifest.json"
COLUMNS = (
    "dataset", "id", "task", "prompt_tokens", "input_chars", "context_chars", "answers", "truncated",
)  # fmt: skip

Line = Mapping[str, Any]
Samples = Mapping[str, Sequence[Sample]]


def finished(lines: Sequence[Line], methods: Sequence[str], samples: Samples) -> dict[str, list[Sample]]:
    """Return the samples that have a score under every method, by dataset, in the order of the sample file.

    Parameters
    ----------
    lines : sequence of mapping
        Scored answers: ``method``, ``dataset``, ``id`` and ``score``.
    methods : sequence of str
        Full method strings.
    samples : mapping of str to sequence of Sample
    """
    done = {(line["method"], line["dataset"], line["id"]) for line in lines}
    found = {
        dataset: [one for one in own if all((method, dataset, one.id) in done for method in methods)]
        for dataset, own in samples.items()
    }
    return {dataset: own for dataset, own in found.items() if own}


def score_runs(lines: Sequence[Line], methods: Sequence[str], done: Samples) -> dict[str, ScoreRun]:
    """Return each method's scores of the finished samples, by full method string."""
    score = {(line["method"], line["dataset"], line["id"]): float(line["score"]) for line in lines}
    return {
        method: ScoreRun(
            run_name(method),
            {
                dataset: {one.id: score[method, dataset, one.id] for one in own}
                for dataset, own in done.items()
            },
        )
        for method in methods
    }


def write_score_files(
    folder: Path, runs: Mapping[str, ScoreRun], samples: Samples, only: Collection[str]
) -> None:
    """Write the score files of some datasets; those of datasets without a finished sample are deleted.

    Parameters
    ----------
    folder : Path
    runs : mapping of str to ScoreRun
    samples : mapping of str to sequence of Sample
        Of all datasets that may be scored.
    only : collection of str
        Datasets whose files are written.
    """
    for run in runs.values():
        for dataset in samples:
            if dataset not in run.scores:
                score_path(folder, run.name, dataset).unlink(missing_ok=True)
            elif dataset in only:
                write_scores(folder, run.name, dataset, run.scores[dataset])


def score_file_names(runs: Mapping[str, ScoreRun]) -> list[str]:
    """Return the names of all score files of runs."""
    return [score_path(Path(), run.name, dataset).name for run in runs.values() for dataset in run.scores]


def write_features(folder: Path, lines: Sequence[Line], done: Samples) -> None:
    """Write what is known of finished samples before they are answered, one row each; no file for none."""
    if not done:
        (folder / FEATURES_FILE).unlink(missing_ok=True)
        return
    built = {(line["dataset"], line["id"]): line for line in lines}
    rows = [
        (
            dataset,
            one.id,
            get_dataset(dataset).task.value,
            built[dataset, one.id]["prompt_tokens"],
            len(one.input),
            len(one.context),
            len(one.answers),
            built[dataset, one.id]["truncated"],
        )
        for dataset, own in done.items()
        for one in own
    ]
    write_text(folder / FEATURES_FILE, format_table(COLUMNS, rows))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a folder's manifest, empty if there is none that can be read."""
    found: object = None
    with suppress(OSError, ValueError):
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def files_of(folder: Path) -> list[str]:
    """Return the names of what was made of a folder's journal, as its manifest has them."""
    named = map(str, read_manifest(folder).get("score_files", []))
    return [FEATURES_FILE, *(name for name in named if Path(name).name == name), MANIFEST]

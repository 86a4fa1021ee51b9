"""Scores per sample of LongBench runs: files ``<run>_<dataset>_eval.json``, read strictly."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvpred.data.files import is_folder, read_text, write_text
from kvpred.data.longbench import DATASETS, get_dataset
from kvpred.errors import DataError, UsageError

_ENDING = "_eval.json"


@dataclass(frozen=True, slots=True)
class ScoreRun:
    """One run's scores.

    Parameters
    ----------
    name : str
        Of its files.
    scores : mapping of str to mapping of str to float
        Of each dataset, the scores from 0 to 1 by the samples' ids, in the file's order.
    """

    name: str
    scores: Mapping[str, Mapping[str, float]]


def run_name(spec: str) -> str:
    """Return the part of a file's name that stands for a method.

    Examples
    --------
    >>> run_name("h2o:heavy=64,recent=448")
    'h2o_heavy=64_recent=448'
    """
    return re.sub(r"[^\w.=-]+", "_", spec, flags=re.ASCII)


def score_path(folder: Path, run: str, dataset: str) -> Path:
    """Return where a run's scores on a dataset lie."""
    return folder / f"{run}_{dataset}{_ENDING}"


def score_files(folder: Path) -> dict[str, dict[str, Path]]:
    """Find the files of every run, by dataset.

    Raises
    ------
    DataError
        If there is none, or a file's name ends in no dataset.
    """
    if not is_folder(folder):
        raise DataError("no such folder", path=folder)
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob(f"*{_ENDING}")):
        run, dataset = _parts(path)
        found.setdefault(run, {})[dataset] = path
    if not found:
        raise DataError(f"no scores in this folder: no file <run>_<dataset>{_ENDING}", path=folder)
    return found


def _parts(path: Path) -> tuple[str, str]:
    stem = path.name.removesuffix(_ENDING)
    for dataset in DATASETS:
        run = stem.removesuffix(f"_{dataset}")
        if run and run != stem:
            return run, dataset
    raise DataError(
        f"unknown dataset: expected <run>_<dataset>{_ENDING} with one of {', '.join(DATASETS)}", path=path
    )


def run_labels(names: Iterable[str]) -> dict[str, str]:
    """Return a short label of each run: its name without the parts that all have.

    Examples
    --------
    >>> run_labels(["hf_Llama_b1", "kivi_Llama_b1_4bits", "kivi_Llama_b1_2bits"])
    {'hf_Llama_b1': 'hf', 'kivi_Llama_b1_4bits': 'kivi_4bits', 'kivi_Llama_b1_2bits': 'kivi_2bits'}
    """
    parts = {name: name.split("_") for name in names}
    common = set.intersection(*(set(rest) for _, *rest in parts.values())) if len(parts) > 1 else set()
    labels = {
        name: "_".join([first, *(part for part in rest if part not in common)])
        for name, (first, *rest) in parts.items()
    }
    return labels if len(set(labels.values())) == len(labels) else {name: name for name in parts}


def find_run(spec: str, names: Iterable[str]) -> str:
    """Return the run that is meant.

    Parameters
    ----------
    spec : str
        A run's name or label (see `run_labels`), or a beginning that no other run has.
    names : iterable of str
        All runs' names.

    Raises
    ------
    UsageError
        If there is no such run, or several.

    Examples
    --------
    >>> find_run("kivi_4", ["hf_Llama_b1", "kivi_Llama_b1_4bits", "kivi_Llama_b1_2bits"])
    'kivi_Llama_b1_4bits'
    """
    labels = run_labels(names)
    if spec in labels:
        return spec
    exact = [name for name, label in labels.items() if label == spec]
    found = exact or [
        name for name, label in labels.items() if spec and (name.startswith(spec) or label.startswith(spec))
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{spec!r} is the beginning of {len(found)} runs: {', '.join(found)}")
    raise UsageError(f"no run {spec!r}; there are {', '.join(labels)}")


def read_score_runs(folder: Path, names: Sequence[str] | None = None) -> dict[str, ScoreRun]:
    """Read runs, by name.

    Parameters
    ----------
    folder : Path
        Of files ``<run>_<dataset>_eval.json``, each a list of ``{"id", "score"}``.
    names : sequence of str, optional
        Which, as `find_run` takes them, in the order to return; all, if not given.

    Raises
    ------
    DataError
        If there are no files, or one is wrong: no JSON, an id twice, a score outside 0 to 1.
    UsageError
        If a name is unknown or stands for several runs.
    """
    files = score_files(folder)
    wanted = list(files) if names is None else dict.fromkeys(find_run(name, files) for name in names)
    return {
        run: ScoreRun(run, {dataset: _read_scores(path) for dataset, path in files[run].items()})
        for run in wanted
    }


def read_json(path: Path) -> Any:
    """Return what a JSON file holds, or raise a DataError."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {str(error)[:80]}", path=path) from None


def _read_scores(path: Path) -> dict[str, float]:
    items = read_json(path)
    if not isinstance(items, list) or not items:
        raise DataError("expected a list of objects with id and score, scores between 0 and 1", path=path)
    found: dict[str, float] = {}
    for place, item in enumerate(items, 1):
        key, score = read_sample(item, place=place, path=path)
        if key in found:
            raise DataError(f"id {key!r} occurs twice", path=path)
        found[key] = score
    return found


def read_sample(item: object, *, place: int, path: Path, field: str = "score") -> tuple[str, float]:
    """Return id and score of one object of a file, the `place`-th, or raise a DataError that names it."""
    if not isinstance(item, dict) or not {"id", field} <= item.keys():
        known = f" (id {item['id']!r:.80})" if isinstance(item, dict) and "id" in item else ""
        raise DataError(f"item {place}{known}: expected a list of objects with id and {field}", path=path)
    key = item["id"]
    if isinstance(key, bool) or not isinstance(key, int | str) or not str(key).isprintable() or key == "":
        raise DataError(f"item {place}: expected an id that is a number or a text", path=path, value=key)
    return str(key), checked_score(item[field], key=str(key), path=path)


def checked_score(score: object, *, key: str, path: Path) -> float:
    """Return the score of the sample with this id, or raise a DataError that names it."""
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise DataError(f"id {key!r}: expected scores between 0 and 1", path=path, value=score)
    return float(score)


def write_scores(folder: Path, run: str, dataset: str, scores: Mapping[str, float]) -> Path:
    """Write a run's scores on a dataset, in one step; `read_score_runs` returns the same.

    Parameters
    ----------
    folder : Path
        Made if missing.
    run : str
        See `run_name`.
    dataset : str
    scores : mapping of str to float
        By id; ids that are whole numbers are written as such.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    DataError
        If there is no score, or one is not between 0 and 1.
    UsageError
        If the dataset is unknown, or the place cannot be written to.
    """
    path = score_path(folder, run, get_dataset(dataset).name)
    if not scores:
        raise DataError("no scores to write", path=path)
    rows = [
        {
            "id": int(key) if re.fullmatch("0|[1-9][0-9]{0,17}", key) else key,
            "score": checked_score(score, key=key, path=path),
        }
        for key, score in scores.items()
    ]
    write_text(path, json.dumps(rows, indent=4) + "\n")
    return path

"""Collected response lengths: tidy CSV, one row per generated answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from kvpred.data.files import Table, format_table, is_folder, read_table, write_text
from kvpred.errors import DataError


@dataclass(frozen=True, slots=True)
class LengthRun:
    """One generated answer's length; never its text.

    Parameters
    ----------
    model, method, method_params, engine : str
        As in runs: catalogue name, bare name, full method string, engine.
    prompt_id : str
        Of the prompt, the same for every method; for a conversation's turn ``<piece>/<index>``.
    temperature : float
    seed : int
        Of the sampling; the same seed means the same random numbers for every method.
    prompt_tokens, output_tokens : int
    cap : int
        Tokens after which generation was stopped.
    censored : bool
        Whether it was stopped there: the answer is at least `output_tokens` long.
    cache_ratio : float
        Bytes of the method's cache over fp16's at the answer's end, by the memory model; NaN if unknown.
    host, versions, measured_at : str
        As in runs; may be empty.
    """

    model: str
    method: str
    method_params: str
    engine: str
    prompt_id: str
    temperature: float
    seed: int
    prompt_tokens: int
    output_tokens: int
    cap: int
    censored: bool
    cache_ratio: float
    host: str = ""
    versions: str = ""
    measured_at: str = ""


COLUMNS = tuple(field.name for field in fields(LengthRun))
_OPTIONAL = ("cache_ratio", "host", "versions", "measured_at")


def write_lengths(path: Path | str, runs: Iterable[LengthRun]) -> None:
    """Write lengths as CSV, in one step; `read_lengths` returns the same."""
    write_text(path, format_table(COLUMNS, (astuple(run) for run in runs)))


def read_lengths(*paths: Path | str) -> list[LengthRun]:
    """Read lengths from CSV files, or from all files named ``lengths.csv`` under folders.

    Raises
    ------
    DataError
        If there is none, a column is missing, a cell is wrong, or an answer is longer than its cap.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        found = sorted(path.rglob("lengths.csv")) if is_folder(path) else [path]
        if not found:
            raise DataError("no lengths.csv in this folder", path=path)
        files += found
    return [run for file in files for run in _read(read_table(file))]


def _read(table: Table) -> list[LengthRun]:
    table.require([name for name in COLUMNS if name not in _OPTIONAL])
    empty = ("",) * len(table.lines)
    texts = {
        name: table.texts(name).tolist()
        for name in ("model", "method", "method_params", "engine", "prompt_id")
    }
    counts = {name: table.integers(name).tolist() for name in ("seed", "prompt_tokens")}
    counts |= {name: table.integers(name, minimum=1).tolist() for name in ("output_tokens", "cap")}
    temperatures = table.floats("temperature")
    table.check(np.isfinite(temperatures), "temperature", "expected a number")
    over = np.array(counts["output_tokens"]) <= np.array(counts["cap"])
    table.check(over, "output_tokens", "more tokens than the cap allows")
    ratios = table.floats("cache_ratio") if "cache_ratio" in table.columns else np.full(len(empty), np.nan)
    rest: dict[str, Sequence[object]] = {
        name: table.columns.get(name, empty) for name in ("host", "versions", "measured_at")
    }
    columns = texts | counts | rest
    columns |= {"temperature": temperatures.tolist(), "cache_ratio": ratios.tolist()}
    columns["censored"] = table.booleans("censored").tolist()
    return [
        LengthRun(**dict(zip(COLUMNS, row, strict=True)))
        for row in zip(*(columns[name] for name in COLUMNS), strict=True)
    ]

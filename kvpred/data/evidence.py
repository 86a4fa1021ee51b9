"""Published measurements of compressed against 16-bit caches: facts with their source, one row per number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from kvpred.data.files import Table, format_table, read_table, write_text

PACKAGED_EVIDENCE = Path(__file__).parent / "packaged" / "evidence.csv"

STAGES = ("prefill", "decode", "e2e", "memory")
"""What a row tells about: time to the first token, a token after it, whole requests, bytes."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One published number of a compressed cache beside the 16-bit cache's, on the same machine.

    Parameters
    ----------
    stage : {"prefill", "decode", "e2e", "memory"}
    method : str
        Full method string of ours; empty where the published method has no counterpart.
    published_method : str
        The method as the source names it, with the option or format that was set.
    engine, device, model : str
        Catalogue names where there is one, else as published; empty where the source does not say.
    version : str
        Of the engine: a release, a pull request, a commit; may be empty.
    weights : str
        Format of the weights as published; empty where the source does not say.
    tp, bsz, prompt_len, output_len : int or None
        None where the source gives no number. `bsz` counts the requests served at once.
    approximate : bool
        Whether a length was published rounded, such as ``~20k``.
    metric : str
        What was measured, with its unit.
    baseline_value, compressed_value : float
        Of the 16-bit and of the compressed cache, in the metric's unit.
    ratio_better : float
        How many times better the compressed cache is: above 1 it is faster, or smaller.
    quality : {"A", "B", "C"}
        How much the source says: A repeats and all sizes, B sizes, C little.
    date : str
        Of publication; may be empty.
    source_url : str
    """

    stage: str
    method: str
    published_method: str
    engine: str
    version: str
    device: str
    model: str
    weights: str
    tp: int | None
    bsz: int | None
    prompt_len: int | None
    output_len: int | None
    approximate: bool
    metric: str
    baseline_value: float
    compressed_value: float
    ratio_better: float
    quality: str
    date: str
    source_url: str


COLUMNS = tuple(field.name for field in fields(Evidence))
_COUNTS = ("tp", "bsz", "prompt_len", "output_len")
_VALUES = ("baseline_value", "compressed_value", "ratio_better")
_MAY_BE_EMPTY = ("method", "version", "device", "model", "weights", "date")


def write_evidence(path: Path | str, rows: Iterable[Evidence]) -> None:
    """Write rows as CSV, in one step; `read_evidence` returns the same."""
    write_text(path, format_table(COLUMNS, (astuple(row) for row in rows)))


def read_evidence(path: Path | str = PACKAGED_EVIDENCE) -> list[Evidence]:
    """Read published measurements, the packaged ones if no file is named.

    Raises
    ------
    DataError
        If a column is missing or a cell is wrong.

    Examples
    --------
    >>> {row.stage for row in read_evidence()} == set(STAGES)
    True
    """
    table = read_table(path)
    table.require(COLUMNS)
    table.check(np.isin(table.texts("stage"), STAGES), "stage", f"expected one of {', '.join(STAGES)}")
    columns: dict[str, list[object]] = {}
    for name in COLUMNS:
        if name in _COUNTS:
            columns[name] = list(_counts(table, name))
        elif name in _VALUES:
            values = table.floats(name)
            table.check(values > 0, name, "expected a number above 0")
            columns[name] = values.tolist()
        elif name == "approximate":
            columns[name] = table.booleans(name).tolist()
        elif name in _MAY_BE_EMPTY:
            columns[name] = list(table.columns[name])
        else:
            columns[name] = table.texts(name).tolist()
    return [Evidence(*row) for row in zip(*columns.values(), strict=True)]


def _counts(table: Table, name: str) -> Iterable[int | None]:
    values = table.floats(name)
    table.check(np.isnan(values) | (values % 1 == 0), name, "expected a whole number, or nothing")
    return (None if np.isnan(value) else int(value) for value in values)

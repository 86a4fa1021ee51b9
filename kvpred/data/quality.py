"""Published LongBench scores of compressed caches, as the package carries them: one row per run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from kvpred.data.files import format_table, read_table, write_text

PACKAGED = Path(__file__).parent / "packaged" / "quality.csv"


@dataclass(frozen=True, slots=True)
class PublishedQuality:
    """What one run scored.

    Parameters
    ----------
    method_params : str
        Full method string.
    published_as : str
        The run's own name.
    model : str
        Catalogue name.
    score, baseline_score : float
        Mean of the datasets' mean scores, 0 to 1, and fp16's on the same samples.
    loss, loss_low, loss_high : float
        One minus their ratio (negative: better than fp16), and its bootstrap interval.
    level : float
        Of the interval.
    datasets, samples : int
        That both runs have.
    source : str
    """

    method_params: str
    published_as: str
    model: str
    score: float
    baseline_score: float
    loss: float
    loss_low: float
    loss_high: float
    level: float
    datasets: int
    samples: int
    source: str


COLUMNS = tuple(field.name for field in fields(PublishedQuality))
_TEXTS = ("method_params", "published_as", "model", "source")
_COUNTS = ("datasets", "samples")
# Those of runs that beat fp16 are negative.
_SIGNED = ("loss", "loss_low", "loss_high")


def write_quality(path: Path | str, rows: Iterable[PublishedQuality]) -> None:
    """Write runs as CSV, in one step; `read_quality` returns the same."""
    write_text(path, format_table(COLUMNS, (astuple(row) for row in rows)))


def read_quality(path: Path | str = PACKAGED) -> list[PublishedQuality]:
    """Read what `write_quality` wrote; the packaged table, if no other is named.

    Raises
    ------
    DataError
        If a column is missing or a cell is wrong.
    """
    table = read_table(path)
    table.require(COLUMNS)
    columns: dict[str, list[object]] = {name: table.texts(name).tolist() for name in _TEXTS}
    columns |= {name: table.integers(name).tolist() for name in _COUNTS}
    for name in ("score", "baseline_score", "level"):
        values = table.floats(name)
        table.check((values > 0) & (values <= 1), name, "expected a share between 0 and 1")
        columns[name] = values.tolist()
    for name in _SIGNED:
        values = table.numbers(name)
        table.check(np.isfinite(values) & (values <= 1), name, "expected a number of at most 1")
        columns[name] = values.tolist()
    return [
        PublishedQuality(**dict(zip(COLUMNS, row, strict=True)))
        for row in zip(*(columns[name] for name in COLUMNS), strict=True)
    ]

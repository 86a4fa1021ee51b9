"""Predicted distributions of lengths as CSV: one row per answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvpred.data.files import format_table, read_table, write_text

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class LengthPredictions:
    """What was predicted of n answers.

    Parameters
    ----------
    pieces : tuple of str
        Id of each answer's conversation.
    indices : array of int, shape (n,)
        Place of the user's message in it.
    folds : array of int, shape (n,)
        Which part was held out when it was predicted.
    quantiles : array, shape (n, m)
        Tokens, at the levels asked for.
    mean : array, shape (n,)
    """

    pieces: tuple[str, ...]
    indices: Ints
    folds: Ints
    quantiles: Floats
    mean: Floats


def write_predictions(path: Path | str, found: LengthPredictions, *, levels: Sequence[float]) -> None:
    """Write predictions, in one step; tokens to the tenth."""
    header = ("piece", "index", "fold", "mean", *map(_column, levels))
    numbers = np.round(np.column_stack([found.mean, found.quantiles]), 1).tolist()
    keys = zip(found.pieces, found.indices.tolist(), found.folds.tolist(), strict=True)
    rows = ((*key, *row) for key, row in zip(keys, numbers, strict=True))
    write_text(path, format_table(header, rows))


def read_predictions(path: Path | str, *, levels: Sequence[float]) -> LengthPredictions:
    """Read what `write_predictions` wrote.

    Raises
    ------
    DataError
        If a column is missing, a cell is no number, or an answer's quantiles fall.
    """
    table = read_table(path)
    names = [_column(level) for level in levels]
    table.require(("piece", "index", "fold", "mean", *names))
    values = {name: table.floats(name) for name in ("mean", *names)}
    for name, cells in values.items():
        table.check(np.isfinite(cells), name, "expected a number")
    for lower, upper in pairwise(names):
        table.check(values[lower] <= values[upper], upper, f"less than the quantile {lower}")
    return LengthPredictions(
        pieces=tuple(table.texts("piece").tolist()),
        indices=table.integers("index"),
        folds=table.integers("fold"),
        quantiles=np.column_stack([values[name] for name in names]),
        mean=values["mean"],
    )


def _column(level: float) -> str:
    return f"q{level:g}"

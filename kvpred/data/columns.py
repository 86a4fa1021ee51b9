"""Tables made here, column by column, as CSV or Parquet."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kvpred.data.files import format_table, write_bytes, write_text
from kvpred.errors import MissingExtraError, UsageError

Columns = Mapping[str, Sequence[Any]]
CSV, PARQUET = ".csv", ".parquet"


def check_table_path(path: Path) -> None:
    """Refuse a file that `write_columns` could not write.

    Raises
    ------
    UsageError
        If the suffix is neither ``.csv`` nor ``.parquet``.
    MissingExtraError
        If it is ``.parquet`` and PyArrow is not installed.
    """
    if path.suffix.lower() not in (CSV, PARQUET):
        raise UsageError(f"{path}: the suffix says the format; use {CSV} or {PARQUET}")
    if path.suffix.lower() == PARQUET and find_spec("pyarrow") is None:
        raise MissingExtraError("pyarrow", "parquet")


def write_columns(path: Path, columns: Columns) -> None:
    """Write columns of one length, in one step; None becomes an empty cell or null.

    Raises
    ------
    UsageError, MissingExtraError
        See `check_table_path`; or if the place cannot be written to.
    """
    check_table_path(path)
    if path.suffix.lower() == CSV:
        write_text(path, format_table(list(columns), zip(*columns.values(), strict=True)))
        return
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    buffer = io.BytesIO()
    # A column of nothing but null is a text that is missing.
    typed = {
        name: arrow.array(values, arrow.string() if all(value is None for value in values) else None)
        for name, values in columns.items()
    }
    parquet.write_table(arrow.table(typed), buffer)
    write_bytes(path, buffer.getvalue())

"""Plain terminal tables of catalogue entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

# Characters from which a table has room for columns that are nice to have.
WIDE = 110


def plain_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, width: int, wide: Sequence[str] = ()
) -> Table:
    """Draw the named columns of rows, and those of `wide` where there is room; numbers to the right.

    Absent values are a dash. Where there is little room, headings break between their words.
    """
    roomy = width >= WIDE
    columns = [*columns, *(wide if roomy else ())]
    named = len(columns) > 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        numeric = all(
            isinstance(row[column], int | float) and not isinstance(row[column], bool) for row in rows
        )
        heading = column if roomy else column.replace("_", " ")
        table.add_column(
            heading, justify="right" if numeric else "left", overflow="fold", no_wrap=named and number == 0
        )
    for row in rows:
        table.add_row(*(Text(_shown(row[column])) for column in columns))
    return table


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

"""Sheets as tables in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kvpred.reports.sheets import Sheet


def rich_table(sheet: Sheet) -> Table:
    """Draw a sheet, numbers to the right."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in sheet.columns:
        table.add_column(column.heading, justify="right" if column.numeric else "left", overflow="fold")
    for row in sheet.shown():
        table.add_row(*map(Text, row))
    return table


def rich_tables(sheets: Sequence[Sheet], *, notes: Sequence[str] = ()) -> RenderableType:
    """Draw sheets one below the other, each under its title, and notes at the end."""
    drawn: list[RenderableType] = []
    for sheet in sheets:
        drawn += [Text(sheet.title, style="bold"), rich_table(sheet), Text()]
    return Group(*drawn, *(Text(note, style="dim") for note in notes))

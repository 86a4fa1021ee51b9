"""Sheets: tables as plain data, which the terminal, the page and the CSV files all show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kvpred.data.files import format_table

Show = Callable[[Any], str]


def text(value: object) -> str:
    """Show a value as it is."""
    return str(value)


def percent(value: float) -> str:
    """Show a share in percent with one digit."""
    return f"{100 * value:.1f}"


def signed_percent(value: float) -> str:
    """Show a relative difference in percent, with its sign."""
    return f"{100 * value:+.1f}"


def milliseconds(value: float) -> str:
    """Show seconds as milliseconds with three significant digits or all whole ones."""
    ms = 1e3 * value
    return f"{ms:,.0f}" if ms >= 1000 else f"{ms:.3g}"


def decimal(value: float) -> str:
    """Show a number with two decimals."""
    return f"{value:.2f}"


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Parameters
    ----------
    name : str
        In the CSV file, with the unit of the raw value.
    heading : str
        For people, with the unit as shown.
    show : callable
        Turns a raw value into text.
    """

    name: str
    heading: str
    show: Show = text

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers, which stand to the right."""
        return self.show is not text


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table.

    Parameters
    ----------
    name : str
        Stem of its file.
    title : str
    columns : tuple of Column
    rows : tuple of tuple
        Raw values; None where there is none.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]

    def shown(self) -> list[list[str]]:
        """Return the rows as people see them."""
        return [
            [
                "–" if cell is None else column.show(cell)
                for column, cell in zip(self.columns, row, strict=True)
            ]
            for row in self.rows
        ]

    def records(self) -> list[dict[str, Any]]:
        """Return the raw values row by row, by the columns' names."""
        names = [column.name for column in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self.rows]

    def csv(self) -> str:
        """Return the raw values as comma-separated text."""
        return format_table([column.name for column in self.columns], self.rows)


def sheet(name: str, title: str, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> Sheet:
    """Build a sheet from any sequences."""
    return Sheet(name, title, tuple(columns), tuple(tuple(row) for row in rows))

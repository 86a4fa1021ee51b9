"""Print a command's result: JSON or CSV for programs, a table for people, on stdout alone."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kvpred.cli.app import Format

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kvpred.data.journal import Progress
    from kvpred.reports.folder import Written

Row = Mapping[str, Any]
# Characters of a table where stdout is no terminal.
WIDE = 132


def emit(
    rows: Sequence[Row],
    form: Format,
    table: Callable[[int], RenderableType],
    *,
    columns: Sequence[str] = (),
) -> None:
    """Print rows in the form asked for; `table` draws them for people in so many characters.

    JSON is a list of objects; a number that is not finite is unknown there, so null. In CSV
    nested fields become columns such as ``interval.ttft_s.low``, lists of objects JSON in their cell, and
    `columns` are the header where there are no rows.
    """
    if form is Format.json:
        sys.stdout.write(json.dumps(_known(rows), indent=2, allow_nan=False) + "\n")
    elif form is Format.csv:
        sys.stdout.write(_csv([_flat(row) for row in rows], columns))
    else:
        from rich.console import Console

        width = Console().width if sys.stdout.isatty() else WIDE
        Console(width=width, highlight=False).print(table(width))


def note(message: str) -> None:
    """Print a remark on stderr."""
    print(f"kvpred: {message}", file=sys.stderr)


def announce(written: Written) -> None:
    """Say on stderr where a report was written, and what it lacks."""
    note(f"wrote {written.page} and {len(written.files) - 1} files beside it")
    if written.remark:
        note(written.remark)


@contextmanager
def progress_bar() -> Iterator[Callable[[Progress], None]]:
    """Show points, rate and remaining time on stderr; lines instead of a bar where it is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None, left="")

        def show(progress: Progress) -> None:
            known = math.isfinite(progress.remaining_s)
            left = f"about {progress.remaining_s / 60:.1f} min left" if known else ""
            bar.update(
                task, completed=progress.done, total=progress.total, description=progress.text, left=left
            )
            if not console.is_terminal:
                note(f"{progress.done + 1}/{progress.total} {progress.text}{left and ', '}{left}")

        yield show


def _known(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _known(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_known(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(row: Row, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}.")
        elif (
            isinstance(value, list | tuple)
            and len(value) == 2
            and all(isinstance(v, int | float) for v in value)
        ):
            flat |= {f"{name}.low": value[0], f"{name}.high": value[1]}
        elif isinstance(value, list | tuple):
            objects = any(isinstance(item, Mapping) for item in value)
            flat[name] = json.dumps(_known(value)) if objects else "; ".join(map(str, value))
        else:
            flat[name] = value
    return flat


def _csv(rows: Sequence[dict[str, Any]], header: Sequence[str]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row)) or header
    if not columns:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

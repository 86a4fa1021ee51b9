"""Safe CSV files: strict reading that names what is wrong and where, and writing that is never half done."""

from __future__ import annotations

import codecs
import csv
import io
import math
import os
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvpred.errors import DataError, UsageError

_FOREIGN_DELIMITERS = ";\t|"
# Random ones in a draft's name.
_DRAFT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV file as text, column by column.

    Parameters
    ----------
    path : Path
        Where it was read from.
    columns : dict of str to tuple of str
        The cells of each column, top to bottom.
    lines : tuple of int
        Line of the file that each row ends on (the header is line 1).
    """

    path: Path
    columns: dict[str, tuple[str, ...]]
    lines: tuple[int, ...]

    def require(self, names: Iterable[str]) -> None:
        """Raise a DataError that names every column of `names` that the table lacks."""
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise DataError(
                f"missing column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
                f"the header has {', '.join(self.columns)}",
                path=self.path,
            )

    def bad_cell(self, row: int, name: str, message: str) -> DataError:
        """Return the error that points at the cell of column `name` in the `row`-th row (from 0)."""
        value = self.columns[name][row]
        return DataError(message, path=self.path, row=self.lines[row], column=name, value=value)

    def check(self, good: NDArray[np.bool_], name: str, message: str) -> None:
        """Raise a DataError at the first row where `good` is false, with the count of such rows."""
        bad = np.flatnonzero(~good)
        if bad.size:
            more = f" ({bad.size} rows are like this)" if bad.size > 1 else ""
            raise self.bad_cell(int(bad[0]), name, message + more)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column as numbers of any kind; a cell that is none becomes NaN."""
        cells = self.columns[name]
        return np.fromiter(map(_parse_float, cells, repeat(np.nan)), np.float64, len(cells))

    def floats(self, name: str) -> NDArray[np.float64]:
        """Return a column as numbers that are finite and not negative; empty cells become NaN."""
        cells, values = self.columns[name], self.numbers(name)
        filled = np.fromiter(map(bool, cells), np.bool_, len(cells))
        self.check(np.isfinite(values) | ~filled, name, "expected a finite number")
        self.check((values >= 0) | ~filled, name, "expected a number that is not negative")
        return values

    def integers(self, name: str, *, minimum: int = 0) -> NDArray[np.int64]:
        """Return a column as whole numbers from `minimum` to 2**53, none of them empty."""
        values = self.floats(name)
        good = (values >= minimum) & (values <= 2.0**53) & (values % 1 == 0)
        self.check(good, name, f"expected a whole number of at least {minimum}")
        return values.astype(np.int64)

    def booleans(self, name: str) -> NDArray[np.bool_]:
        """Return a column of True and False (or 1 and 0)."""
        cells = np.char.lower(np.array(self.columns[name], dtype=np.str_))
        self.check(np.isin(cells, ("true", "false", "1", "0")), name, "expected True or False")
        return np.isin(cells, ("true", "1"))

    def texts(self, name: str) -> NDArray[np.str_]:
        """Return a column as text, none of it empty."""
        cells = np.array(self.columns[name], dtype=np.str_)
        self.check(cells != "", name, "expected a text, found nothing")
        return cells


def _parse_float(cell: str, otherwise: float) -> float:
    """Return a plain decimal number, or `otherwise` for anything else (Python's 1_000 included)."""
    try:
        return float(cell) if cell.isascii() and "_" not in cell else otherwise
    except ValueError:
        return otherwise


def is_folder(path: Path) -> bool:
    """Whether a folder is there; a name that no folder can have is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def read_text(path: Path | str) -> str:
    """Return a file's text.

    Raises
    ------
    DataError
        If the file is missing, a folder, empty, unreadable, binary or anything but UTF-8.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError("no such file", path=path) from None
    except IsADirectoryError:
        raise DataError("this is a folder, expected a file", path=path) from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", path=path) from None
    # Spreadsheets begin their "CSV UTF-8" with this mark.
    raw = raw.removeprefix(codecs.BOM_UTF8)
    if not raw.strip():
        raise DataError("the file is empty", path=path)
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError("starts with UTF-16's byte order mark: save it as UTF-8", path=path)
    if b"\0" in raw:
        raise DataError("this is a binary file, expected UTF-8 text", path=path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError("not UTF-8 text: save the file as UTF-8", path=path, row=line) from None


def read_table(path: Path | str) -> Table:
    """Return a comma-separated file, checked to be a table: one header, rows of equal length.

    Raises
    ------
    DataError
        For what `read_text` refuses, another delimiter, duplicate names, ragged rows or no rows at all.
    """
    path = Path(path)
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows, lines = [], []
    try:
        for row in reader:
            if row:
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"not a CSV table: {error}", path=path, row=reader.line_num) from None
    if not rows:
        raise DataError("the file holds no table", path=path)
    header = [name.strip() for name in rows[0]]
    _check_header(header, path)
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(header):
            raise DataError(f"{len(row)} cells, the header has {len(header)}", path=path, row=line)
    if len(rows) == 1:
        raise DataError("only a header, no rows", path=path)
    columns = dict(zip(header, zip(*rows[1:], strict=True), strict=True))
    return Table(path=path, columns=columns, lines=tuple(lines[1:]))


def _check_header(header: Sequence[str], path: Path) -> None:
    if len(header) == 1:
        found = [mark for mark in _FOREIGN_DELIMITERS if mark in header[0]]
        if found:
            raise DataError(f"the delimiter seems to be {found[0]!r}, expected a comma", path=path, row=1)
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(f"column names occur twice: {', '.join(map(repr, repeated))}", path=path, row=1)


def format_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as comma-separated text; floats keep every digit, None and NaN become empty cells."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([["" if _is_blank(cell) else cell for cell in row] for row in rows])
    return buffer.getvalue()


def _is_blank(cell: object) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def write_text(path: Path | str, text: str) -> None:
    """Write a text as UTF-8, in one step; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a file in one step: whoever reads it sees the old content or the new, never a part.

    Raises
    ------
    UsageError
        If the place cannot be written to.
    """
    path = Path(path)
    draft = _draft_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            draft.unlink()


@contextmanager
def replaced_folder(folder: Path | str) -> Iterator[Path]:
    """Yield an empty folder to fill; it takes the place of `folder` once the block ends without error.

    Raises
    ------
    UsageError
        If the place cannot be written to.
    """
    folder = Path(folder)
    draft, old = _draft_beside(folder), _draft_beside(folder)
    try:
        draft.mkdir(parents=True)
        yield draft
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror}") from None
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_replaceable(folder: Path, *, ours: Collection[str]) -> None:
    """Refuse a folder that replacing as a whole would take anything else than the named files from.

    Parameters
    ----------
    folder : Path
        May be missing or empty.
    ours : collection of str
        Names that may lie in it.

    Raises
    ------
    UsageError
        If it holds others, or is a file or a link.
    """
    if not folder.name:
        raise UsageError(f"{folder} cannot be replaced as a whole: name a folder in it")
    if folder.is_symlink():
        raise UsageError(f"{folder} is a symbolic link: name the folder that it stands for")
    if not is_folder(folder):
        if folder.exists():
            raise UsageError(f"{folder} is a file: name a new folder")
        return
    if others := sorted({path.name for path in folder.iterdir()} - set(ours)):
        raise UsageError(f"{folder} holds other files ({', '.join(others[:3])}): name a new or empty folder")


def remove_drafts(path: Path) -> None:
    """Delete the drafts of a file or folder and of all that lies in it that killed processes left behind."""
    hexadecimal = 2 * _DRAFT_BYTES * "[0-9a-f]"
    beside = path.parent.glob(f".{path.name}.{hexadecimal}.tmp")
    for draft in (*beside, *path.rglob(f".*.{hexadecimal}.tmp")):
        shutil.rmtree(draft, ignore_errors=True)
        with suppress(OSError):
            draft.unlink()


def _draft_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(_DRAFT_BYTES)}.tmp")

"""A journal of measurements: one line of JSON per finished one, on disk before the next starts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvpred.data.files import write_text
from kvpred.errors import DataError, UsageError

FILE = "sweep.jsonl"


@dataclass(frozen=True, slots=True)
class Progress:
    """Told before every measurement: how many are done of how many, and what remains in seconds."""

    done: int
    total: int
    remaining_s: float
    text: str


class Journal:
    """Points of one sweep, appended and synced to disk one by one.

    The first line says what the sweep is; a torn last line, which a killed process leaves behind, is dropped.

    Parameters
    ----------
    folder : Path
        Made with the first point.
    header : mapping
        What must not change between one call and the next, as JSON holds it.
    file : str
        Its name.

    Attributes
    ----------
    folder : Path
    points : list of dict
        In the order in which they were measured.

    Raises
    ------
    UsageError
        If the folder is a file, or holds the journal of another sweep; the message names the differences.
    DataError
        If the journal is damaged before its last line.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], *, file: str = FILE) -> None:
        if folder.exists() and not folder.is_dir():
            raise UsageError(
                f"cannot write {folder}: {folder.name} is a file, not a folder; name another --output."
            )
        self.folder, self._path = folder, folder / file
        self.points: list[dict[str, Any]] = []
        self._header = json.loads(json.dumps(header))
        self._opened = False
        lines = list(self._lines()) if self._path.exists() else []
        if lines and (differences := _differences(lines[0], self._header)):
            raise UsageError(
                f"{folder} holds another sweep ({'; '.join(differences)}): choose another --output, or "
                "--no-resume to replace it."
            )
        self.points = lines[1:]

    def add(self, point: Mapping[str, Any]) -> None:
        """Append a point; on disk when this returns. Nothing is written before the first.

        Raises
        ------
        UsageError
            If the place cannot be written to; the points before stay.
        """
        if not self._opened:
            # Also drops a torn line, so that the point begins on a line of its own.
            write_text(self._path, "".join(map(_line, (self._header, *self.points))))
            self._opened = True
        try:
            with self._path.open("ab") as file:
                file.write(_line(point).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(f"cannot write {self._path}: {error.strerror}") from None
        self.points.append(dict(point))

    def _lines(self) -> Iterator[dict[str, Any]]:
        texts = self._path.read_bytes().split(b"\n")
        for number, text in enumerate(texts, start=1):
            try:
                value = json.loads(text)
            except ValueError:
                if number == len(texts):
                    return
                raise DataError("not JSON: the journal is damaged", path=self._path, row=number) from None
            if not isinstance(value, dict):
                raise DataError("not a point of a sweep", path=self._path, row=number)
            yield value


def discard(folder: Path, files: Sequence[str]) -> None:
    """Delete what a journal and the files made of it hold, if the journal is there; it goes last.

    Parameters
    ----------
    folder : Path
    files : sequence of str
        The journal's name, then those of the files made of it.
    """
    if (folder / files[0]).exists():
        for name in reversed(files):
            (folder / name).unlink(missing_ok=True)


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, allow_nan=False) + "\n"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say what differs, field by field, down into nested fields."""
    found = []
    for key in dict.fromkeys((*old, *new)):
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            found += [f"{key}.{difference}" for difference in _differences(before, now)]
        elif before != now:
            found.append(f"{key} was {_shown(before)}, now {_shown(now)}")
    return found


def _shown(value: object) -> str:
    return json.dumps(value) if value is not None else "not there"

"""Traces of requests, when each comes and its tokens: Azure's, Mooncake's and kvpred's own format."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvpred.data.files import Table, format_table, read_table, read_text, write_text
from kvpred.errors import DataError, UsageError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

COLUMNS = ("id", "arrived_at_s", "prompt_tokens", "output_tokens")
_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_MOONCAKE = ("timestamp", "input_length", "output_length")
# Universal time: Azure's second trace writes the offset out. Nanoseconds cannot tell years after 2261.
_STAMP = re.compile(r"((?:19|20)\d\d-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d{1,9})?)(?:Z|\+00:00)?")
# Beyond, not every whole number is a float.
_MOST = 2**53
_ORDER = (
    "earlier than the request before: sort the file by arrival, or take its lengths alone and draw arrivals "
    "(--arrivals poisson)"
)


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Requests in the order of their arrival: aligned arrays, shape (n,).

    Parameters
    ----------
    arrived_at_s : array
        Seconds since the first request's arrival, never falling.
    prompt_tokens, output_tokens : array of int
        At least 1 each.
    name : str
        For people: where the requests come from.
    ids : tuple of str
        In files without ids the number of the line.
    """

    arrived_at_s: Floats
    prompt_tokens: Counts
    output_tokens: Counts
    name: str
    ids: tuple[str, ...]

    @classmethod
    def at_once(cls, name: str, prompts: Counts, outputs: Counts, ids: Sequence[str] | None = None) -> Trace:
        """Return requests that all come at once, numbered from 1 if they have no ids."""
        n = len(prompts)
        return cls(np.zeros(n), prompts, outputs, name, tuple(ids or map(str, range(1, n + 1))))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def qps(self) -> float:
        """Requests per second between the first arrival and the last; infinite if all come at once."""
        span_s = float(self.arrived_at_s[-1]) if len(self) else 0.0
        return (len(self) - 1) / span_s if span_s else float("inf")

    @property
    def simultaneous(self) -> int:
        """Requests that come at the very moment of the one before."""
        return int((np.diff(self.arrived_at_s) == 0).sum())

    def at_qps(self, qps: float) -> Trace:
        """Return the same requests at another rate: every gap times the same factor.

        Raises
        ------
        UsageError
            If the rate is not positive, or all requests come at once, so that there is no gap to stretch.
        """
        check_qps(qps)
        if len(self) < 2:
            return self
        if not np.isfinite(self.qps):
            raise UsageError(f"all requests of {self.name} come at once: draw arrivals (--arrivals poisson)")
        return self.arriving(self.arrived_at_s * (self.qps / qps))

    def arriving(self, at_s: Floats) -> Trace:
        """Return the same requests, in their order, at other times."""
        return replace(self, arrived_at_s=np.asarray(at_s, dtype=np.float64))

    def with_outputs(self, tokens: ArrayLike) -> Trace:
        """Return the requests with other answers: one number of tokens for all, or one each."""
        outputs = np.broadcast_to(np.asarray(tokens, dtype=np.int64), len(self))
        return replace(self, output_tokens=outputs.copy())

    def scaled_outputs(self, multiplier: float) -> Trace:
        """Return the requests with answers so many times as long, in whole tokens and at least one."""
        return self.with_outputs(whole_tokens(self.output_tokens * multiplier))

    def first(self, n: int) -> Trace:
        """Return the first `n` requests, or all if there are fewer."""
        return self.where(np.arange(len(self)) < n)

    def where(self, kept: NDArray[np.bool_]) -> Trace:
        """Return the requests of a mask, the first of them at 0."""
        at_s = self.arrived_at_s[kept]
        ids = tuple(name for name, keep in zip(self.ids, kept.tolist(), strict=True) if keep)
        return Trace(
            at_s - at_s[0] if len(at_s) else at_s,
            self.prompt_tokens[kept],
            self.output_tokens[kept],
            self.name,
            ids,
        )


def whole_tokens(tokens: ArrayLike) -> Counts:
    """Return numbers of tokens rounded to whole ones, at least one each."""
    found: Counts = np.maximum(np.rint(tokens), 1).astype(np.int64)
    return found


def check_qps(qps: float) -> None:
    """Raise `UsageError` if a rate of requests is no positive number."""
    if not 0 < qps < float("inf"):
        raise UsageError(f"{qps:g} requests per second: give a positive number")


def read_trace(path: Path | str) -> Trace:
    """Read a trace; its content tells the format.

    Azure's CSV (``TIMESTAMP,ContextTokens,GeneratedTokens``), Mooncake's JSON lines (``timestamp`` in ms,
    ``input_length``, ``output_length``), or ``arrived_at_s,prompt_tokens,output_tokens`` with or without
    ``id``. Further columns are ignored. Equal times are kept: Mooncake's come in batches of three seconds.

    Raises
    ------
    DataError
        If the file is missing, empty or none of these; a cell is no number; a request has no token; or a
        time is before the one above.
    """
    path = Path(path)
    text = read_text(path)
    if text.lstrip().startswith("{"):
        return _read_mooncake(text, path)
    table = read_table(path)
    for columns, read in ((_AZURE, _stamps_s), (COLUMNS[1:], _own_s)):
        if set(columns) <= set(table.columns):
            return _from_table(table, columns, read)
    raise DataError(
        f"no trace: the header has {', '.join(table.columns)}, expected {', '.join(_AZURE)} (Azure), or "
        f"{', '.join(COLUMNS)}",
        path=path,
        row=1,
    )


def write_trace(path: Path | str, trace: Trace) -> None:
    """Write a trace as kvpred's own CSV, in one step; `read_trace` returns the same."""
    columns = (
        trace.ids,
        trace.arrived_at_s.tolist(),
        trace.prompt_tokens.tolist(),
        trace.output_tokens.tolist(),
    )
    write_text(path, format_table(COLUMNS, zip(*columns, strict=True)))


def _from_table(table: Table, columns: tuple[str, ...], read: Callable[[Table, str], Floats]) -> Trace:
    when, prompt, output = columns
    at_s = read(table, when)
    table.check(np.diff(at_s, prepend=at_s[0]) >= 0, when, _ORDER)
    lines = tuple(map(str, table.lines))
    return Trace(
        at_s - at_s[0],
        table.integers(prompt, minimum=1),
        table.integers(output, minimum=1),
        table.path.name,
        tuple(table.texts("id").tolist()) if "id" in table.columns else lines,
    )


def _own_s(table: Table, name: str) -> Floats:
    at_s = table.floats(name)
    table.check(np.isfinite(at_s), name, "expected a number of seconds")
    return at_s


def _stamps_s(table: Table, name: str) -> Floats:
    cells = table.columns[name]
    found = [_STAMP.fullmatch(cell.strip()) for cell in cells]
    sound = np.array([match is not None for match in found])
    table.check(sound, name, "expected a time such as 2023-11-16 18:17:03.9799600")
    texts = [f"{match[1]}T{match[2]}" for match in found if match]
    try:
        stamps = np.array(texts, dtype="datetime64[ns]")
    except ValueError:
        good = np.array([_is_time(text) for text in texts])
        table.check(good, name, "no day or time that there is")
        raise
    return np.asarray((stamps - stamps[0]) / np.timedelta64(1, "s"), dtype=np.float64)


def _is_time(text: str) -> bool:
    try:
        np.datetime64(text, "ns")
    except ValueError:
        return False
    return True


def _read_mooncake(text: str, path: Path) -> Trace:
    lines, rows = [], []
    for line, row_text in enumerate(text.split("\n"), start=1):
        if row_text.strip():
            lines.append(line)
            rows.append(_mooncake_row(row_text, path, line))
    stamps, prompts, outputs = (np.array(values) for values in zip(*rows, strict=True))
    if (early := np.flatnonzero(np.diff(stamps) < 0)).size:
        row = int(early[0]) + 1
        raise DataError(_ORDER, path=path, row=lines[row], column=_MOONCAKE[0], value=f"{stamps[row]:g}")
    at_s = (stamps - stamps[0]) / 1e3
    return Trace(at_s, prompts.astype(np.int64), outputs.astype(np.int64), path.name, tuple(map(str, lines)))


def _mooncake_row(text: str, path: Path, line: int) -> tuple[float, ...]:
    try:
        item: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError("not JSON: expected one object per line", path=path, row=line) from None
    if not isinstance(item, dict):
        raise DataError("expected an object", path=path, row=line)
    stamp = item.get(_MOONCAKE[0])
    if isinstance(stamp, bool) or not isinstance(stamp, int | float) or not 0 <= stamp <= _MOST:
        message = "expected a number of milliseconds that is not negative"
        raise DataError(message, path=path, row=line, column=_MOONCAKE[0], value=stamp)
    return float(stamp), *(_tokens(item.get(name), path, line, name) for name in _MOONCAKE[1:])


def _tokens(value: object, path: Path, line: int, name: str) -> int:
    if type(value) is not int or not 1 <= value <= _MOST:
        message = "expected a whole number of at least 1"
        raise DataError(message, path=path, row=line, column=name, value=value)
    return value

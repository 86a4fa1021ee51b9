"""Requests that were served, one by one: when each came, got its first token and its last. CSV in and out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvpred.data.files import Table, format_table, read_table, write_text
from kvpred.errors import DataError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

COLUMNS = (
    "run", "method_params", "id", "arrived_at_s", "first_token_at_s", "completed_at_s", "prompt_tokens",
    "output_tokens", "restarts", "device_s",
)  # fmt: skip
_TIMES = ("arrived_at_s", "first_token_at_s", "completed_at_s")


@dataclass(frozen=True, slots=True, eq=False)
class ServedRequests:
    """Requests of one run, served for real or simulated: aligned arrays, shape (n,).

    Parameters
    ----------
    ids : tuple of str
    arrived_at_s, first_token_at_s, completed_at_s : array
        Seconds since the run began.
    prompt_tokens, output_tokens : array of int
    restarts : array of int
        Times that a request lost its cache and began again.
    device_s : array
        Seconds of steps that fell to each request: every step in equal shares to the sequences in it, so that
        all together were the time that the device was busy. NaN if unknown.
    """

    ids: tuple[str, ...]
    arrived_at_s: Floats
    first_token_at_s: Floats
    completed_at_s: Floats
    prompt_tokens: Counts
    output_tokens: Counts
    restarts: Counts
    device_s: Floats

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ttft_s(self) -> Floats:
        """Seconds from each request's arrival to its first token, queueing included."""
        return self.first_token_at_s - self.arrived_at_s

    @property
    def e2e_s(self) -> Floats:
        """Seconds from each request's arrival to its last token."""
        return self.completed_at_s - self.arrived_at_s

    @property
    def tpot_s(self) -> Floats:
        """Seconds per token after the first; NaN for answers of one token."""
        gaps = np.where(self.output_tokens > 1, self.output_tokens - 1.0, np.nan)
        return np.asarray((self.completed_at_s - self.first_token_at_s) / gaps)

    @property
    def makespan_s(self) -> float:
        """Seconds from the first arrival to the last token of all."""
        return float(self.completed_at_s.max() - self.arrived_at_s.min())

    @property
    def busy_share(self) -> float:
        """Share of the makespan that the device was busy; NaN if unknown."""
        return float(self.device_s.sum() / self.makespan_s)

    @property
    def throughput_tok_s(self) -> float:
        """Answered tokens per second of the makespan."""
        return float(self.output_tokens.sum() / self.makespan_s)


def write_requests(path: Path | str, runs: Mapping[tuple[str, str], ServedRequests]) -> None:
    """Write runs as CSV, in one step; `read_requests` returns the same.

    Parameters
    ----------
    path : Path or str
    runs : mapping of (str, str) to ServedRequests
        By the run's name and the full method string.
    """
    rows = (
        (run, method, *row)
        for (run, method), served in runs.items()
        for row in zip(served.ids, *(getattr(served, name).tolist() for name in COLUMNS[3:]), strict=True)
    )
    write_text(path, format_table(COLUMNS, rows))


def read_requests(path: Path | str) -> dict[tuple[str, str], ServedRequests]:
    """Read what `write_requests` wrote.

    Raises
    ------
    DataError
        If a column is missing, a cell is wrong, or a request ended before it came.
    """
    table = read_table(path)
    table.require(COLUMNS)
    keys = list(zip(table.texts("run").tolist(), table.texts("method_params").tolist(), strict=True))
    if not keys:
        raise DataError("no requests", path=path)
    columns = _columns(table)
    rows = {key: np.array([own == key for own in keys]) for key in dict.fromkeys(keys)}
    ids = np.array(table.texts("id"))
    return {
        key: ServedRequests(
            ids=tuple(ids[own].tolist()), **{name: values[own] for name, values in columns.items()}
        )
        for key, own in rows.items()
    }


def _columns(table: Table) -> dict[str, NDArray[np.generic]]:
    times = {name: table.floats(name) for name in _TIMES}
    for name, values in times.items():
        table.check(np.isfinite(values), name, "expected a number")
    for earlier, later in (_TIMES[:2], _TIMES[1:]):
        table.check(times[earlier] <= times[later], later, f"expected a time not before {earlier}")
    counts = {name: table.integers(name, minimum=1) for name in ("prompt_tokens", "output_tokens")}
    return {
        **times,
        **counts,
        "restarts": table.integers("restarts"),
        "device_s": table.floats("device_s"),
    }

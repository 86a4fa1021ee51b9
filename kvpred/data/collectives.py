"""Times of communication between devices, as Vidur lays them out: one table per collective."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvpred.data.files import is_folder, read_table
from kvpred.data.profiles import time_column
from kvpred.errors import DataError

COLLECTIVES = ("all_reduce", "send_recv")
FILES = tuple(f"{name}.csv" for name in COLLECTIVES)


@dataclass(frozen=True, slots=True, eq=False)
class CollectiveTimes:
    """Times of one collective: aligned arrays of shape (n_rows,).

    Parameters
    ----------
    num_workers : array of int
        Devices that take part.
    devices_per_node : array of int
        How many of them share a node.
    size_bytes : array of int
        Bytes that each device holds.
    median_ms : array of float
    """

    num_workers: NDArray[np.int64]
    devices_per_node: NDArray[np.int64]
    size_bytes: NDArray[np.int64]
    median_ms: NDArray[np.float64]

    def among(self, num_workers: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return sizes in bytes and times in ms among so many devices, on as few nodes as were timed.

        Both arrays are empty where nobody timed so many.
        """
        rows = self.num_workers == num_workers
        rows &= self.devices_per_node == self.devices_per_node[rows].max(initial=0)
        return self.size_bytes[rows], self.median_ms[rows]


def read_collectives(folder: Path | str) -> dict[str, CollectiveTimes]:
    """Read the collectives measured on a device.

    Parameters
    ----------
    folder : path
        ``network/<device>``, with ``all_reduce.csv``, ``send_recv.csv`` or both.

    Returns
    -------
    dict of str to CollectiveTimes

    Raises
    ------
    DataError
        If neither file is there or one is wrong: with file, line, column and value.
    """
    folder = Path(folder)
    if not is_folder(folder):
        raise DataError("no such folder", path=folder)
    files = [path for name in FILES if (path := folder / name).exists()]
    if not files:
        raise DataError(f"no collectives here: neither {' nor '.join(COLLECTIVES)}.csv", path=folder)
    return {path.stem: _read(path) for path in files}


def _read(path: Path) -> CollectiveTimes:
    table = read_table(path)
    time = time_column(path.stem)
    table.require(("num_workers", "devices_per_node", "size", "collective", time))
    table.check(table.texts("collective") == path.stem, "collective", f"expected {path.stem}")
    median_ms = table.floats(time)
    table.check(median_ms > 0, time, "expected a positive time")
    return CollectiveTimes(
        num_workers=table.integers("num_workers", minimum=1),
        devices_per_node=table.integers("devices_per_node", minimum=1),
        size_bytes=table.integers("size", minimum=1),
        median_ms=median_ms,
    )

"""What else the host does while something is timed."""

from __future__ import annotations

import time
from collections.abc import Sequence

from kvpred.errors import MissingExtraError
from kvpred.hardware import detect_cpu

BUSY_SHARE = 0.1
"""Share of the cores that others may take before a run counts as disturbed."""


class OtherLoad:
    """Count the cores that other processes keep busy.

    Examples
    --------
    >>> load = OtherLoad()
    >>> load.start()
    >>> load.cores_busy() >= 0.0
    True
    """

    def __init__(self) -> None:
        try:
            import psutil
        except ImportError:
            raise MissingExtraError("psutil", "openvino") from None
        self._psutil = psutil
        self._own = psutil.Process()
        self.cores = detect_cpu().cores or 1
        self._at, self._busy_s, self._own_s = 0.0, 0.0, 0.0

    def start(self) -> None:
        """Begin to count."""
        self._at, self._busy_s, self._own_s = time.perf_counter(), self._host_s(), self._tree_s()

    def cores_busy(self) -> float:
        """Return the mean cores that others kept busy since the start; never less than 0."""
        elapsed = max(time.perf_counter() - self._at, 1e-3)
        others = (self._host_s() - self._busy_s) - (self._tree_s() - self._own_s)
        return max(others / elapsed, 0.0)

    def _host_s(self) -> float:
        """Return CPU seconds of everything on this host."""
        times = self._psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # Linux counts a guest's time as user time already.
        return float(sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0))

    def _tree_s(self) -> float:
        """Return CPU seconds of this process and the ones that it started."""
        total = 0.0
        for process in (self._own, *self._own.children(recursive=True)):
            try:
                times: Sequence[float] = process.cpu_times()
            except self._psutil.Error:
                continue
            total += times[0] + times[1]
        return total

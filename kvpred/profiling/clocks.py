"""Clocks that tell when a device reached a point of the program: the processor's, and CUDA's events."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch


class Clock(ABC):
    """Marks points in a program's run, and tells afterwards when each was reached."""

    @abstractmethod
    def mark(self) -> Any:
        """Note this point; costs a microsecond."""

    @abstractmethod
    def seconds(self, marks: Sequence[Any]) -> list[float]:
        """Return when the marks were reached, in seconds after the first; waits for the last."""

    @abstractmethod
    def wait(self) -> None:
        """Wait until the device has done all that it was given."""


class CpuClock(Clock):
    """The processor's monotonic clock: operators run as they are called."""

    mark = staticmethod(time.perf_counter_ns)

    def seconds(self, marks: Sequence[int]) -> list[float]:
        """See `Clock.seconds`."""
        return [(mark - marks[0]) * 1e-9 for mark in marks]

    def wait(self) -> None:
        """Return at once."""


class CudaClock(Clock):
    """CUDA events, which the device itself passes between kernels."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> torch.cuda.Event:
        """See `Clock.mark`."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, marks: Sequence[torch.cuda.Event]) -> list[float]:
        """See `Clock.seconds`."""
        self.wait()
        return [float(marks[0].elapsed_time(mark)) * 1e-3 for mark in marks]

    def wait(self) -> None:
        """See `Clock.wait`."""
        torch.cuda.synchronize(self._device)


def clock_of(device: torch.device) -> Clock:
    """Return the clock that fits a device."""
    return CudaClock(device) if device.type == "cuda" else CpuClock()

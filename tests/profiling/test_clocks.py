"""Clocks tell when a device reached a point of the program."""

from __future__ import annotations

import time

import pytest
import torch

from kvpred.profiling.clocks import Clock, CpuClock, CudaClock, clock_of


def _device(kind: str) -> torch.device:
    if kind == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device(kind)


@pytest.mark.parametrize(("kind", "clock"), [("cpu", CpuClock), ("cuda", CudaClock)])
def test_each_device_has_its_clock(kind: str, clock: type[Clock]) -> None:
    assert isinstance(clock_of(_device(kind)), clock)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_marks_are_counted_in_seconds_after_the_first(kind: str) -> None:
    device = _device(kind)
    clock = clock_of(device)
    matrix = torch.ones(256, 256, device=device)
    clock.wait()
    begin = time.perf_counter()
    marks = [clock.mark()]
    for _ in range(3):
        matrix @ matrix
        marks.append(clock.mark())
    seconds = clock.seconds(marks)
    assert seconds[0] == 0
    assert seconds == sorted(seconds)
    assert 0 < seconds[-1] <= time.perf_counter() - begin

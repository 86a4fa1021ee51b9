"""The reference that a sweep watches its machine with."""

from __future__ import annotations

import pytest
import torch

from kvpred.profiling import reference
from kvpred.profiling.clocks import CpuClock
from kvpred.profiling.reference import Reference


@pytest.fixture
def on_cpu() -> Reference:
    return Reference.on(torch.device("cpu"), dtype=torch.bfloat16, clock=CpuClock())


def test_the_read_has_the_bytes_and_the_product_the_size_that_the_roofline_counts(on_cpu: Reference) -> None:
    assert on_cpu.matrix.numel() * on_cpu.matrix.element_size() == reference.READ_BYTES
    assert on_cpu.square.shape == (reference.GEMM_SIZE, reference.GEMM_SIZE)
    assert on_cpu.square.dtype == torch.bfloat16


def test_the_roofline_is_the_best_of_what_the_reference_reached(on_cpu: Reference) -> None:
    read, product = on_cpu.seconds()
    assert read > 0 and product > 0
    roofline = on_cpu.roofline()
    assert set(roofline) == {"bytes_s", "flops_s"}
    assert all(rate > 0 for rate in roofline.values())


def test_more_bytes_take_longer(monkeypatch: pytest.MonkeyPatch, on_cpu: Reference) -> None:
    monkeypatch.setattr(reference, "READ_BYTES", 64 * reference.READ_BYTES)
    larger = Reference.on(torch.device("cpu"), dtype=torch.bfloat16, clock=CpuClock())
    assert larger.seconds()[0] > on_cpu.seconds()[0]

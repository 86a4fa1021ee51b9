"""What the device reaches on plain work: its roofline before a sweep, and any drift between points."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import torch

from kvpred.profiling.clocks import Clock

READ_BYTES = 2**28
"""A read this large finds nothing in any processor's last-level cache."""

GEMM_SIZE = 1024
REPEATS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A fixed read and a fixed matrix product, timed again and again.

    Parameters
    ----------
    matrix, vector : Tensor
        Of the read: a matrix-vector product in fp32, whose bytes outweigh its FLOPs.
    square : Tensor
        Of the matrix product, in the model's dtype.
    clock : Clock
    """

    matrix: torch.Tensor
    vector: torch.Tensor
    square: torch.Tensor
    clock: Clock

    @classmethod
    def on(cls, device: torch.device, *, dtype: torch.dtype, clock: Clock) -> Reference:
        """Make it on a device."""
        width = 4096
        return cls(
            matrix=torch.ones(READ_BYTES // 4 // width, width, device=device),
            vector=torch.ones(width, device=device),
            square=torch.ones(GEMM_SIZE, GEMM_SIZE, device=device, dtype=dtype),
            clock=clock,
        )

    def seconds(self) -> tuple[float, float]:
        """Return the medians of a read and of a matrix product."""
        with torch.inference_mode():
            pairs = [self._once() for _ in range(REPEATS)]
        return median(read for read, _ in pairs), median(product for _, product in pairs)

    def roofline(self) -> dict[str, float]:
        """Return ``bytes_s`` and ``flops_s`` that the device reached, the best of several tries."""
        tries = [self.seconds() for _ in range(REPEATS)]
        return {
            "bytes_s": READ_BYTES / min(read for read, _ in tries),
            "flops_s": 2 * GEMM_SIZE**3 / min(product for _, product in tries),
        }

    def _once(self) -> tuple[float, float]:
        clock = self.clock
        clock.wait()
        begin = clock.mark()
        torch.mv(self.matrix, self.vector)
        middle = clock.mark()
        torch.mm(self.square, self.square)
        read, total = clock.seconds([begin, middle, clock.mark()])[1:]
        return read, total - read

"""H2O: keep the heavy hitters and the most recent tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kvpred.methods.eviction import StepEvicting
from kvpred.methods.quantities import MAX_TOKENS, Heads, IntArray, Traffic, causal_pairs

ACCUMULATOR_BYTES = 4
"""An fp32 sum of attention probabilities; fp16 would stall once a sum reaches 2,048."""


@dataclass(frozen=True)
class H2O(StepEvicting):
    """H2O (Zhang et al., 2023).

    The prompt uses full causal attention, whose probabilities are summed per column and KV head; then all but
    the `heavy` largest sums and the `recent` last tokens are evicted. Decoding adds its probabilities to the
    sums, which stay beside the cache, and evicts the smallest for each new token.

    Parameters
    ----------
    heavy : int, default 64
        Heavy hitters kept.
    recent : int, default 448
        Most recent tokens kept.

    Examples
    --------
    >>> H2O().attended_tokens(4096)
    512
    """

    name: ClassVar[str] = "h2o"
    title: ClassVar[str] = "H2O"
    paper: ClassVar[str] = "https://arxiv.org/abs/2306.14048"

    heavy: int = 64
    recent: int = 448

    def __post_init__(self) -> None:
        """Refuse empty budgets."""
        super().__post_init__()
        for parameter, count in (("heavy", self.heavy), ("recent", self.recent)):
            self._require(parameter, 1 <= count <= MAX_TOKENS, f"from 1 to {MAX_TOKENS:,}")

    @property
    def _budget(self) -> int:
        return self.heavy + self.recent

    def _sequence_parts(self, heads: Heads, kv_len: IntArray, prompt_len: IntArray) -> dict[str, IntArray]:
        accumulators = ACCUMULATOR_BYTES * heads.kv * self._stored(kv_len, prompt_len)
        return super()._sequence_parts(heads, kv_len, prompt_len) | {"accumulators": accumulators}

    def _prompt_statistic_bytes(self, heads: Heads) -> int:
        return ACCUMULATOR_BYTES * heads.kv

    def _decode_upkeep(self, heads: Heads, kv_len: IntArray, prompt_len: IntArray) -> Traffic:
        """Write the sums back (reading them is part of reading the cache), add to them, find the smallest."""
        stored = self._stored(kv_len, prompt_len)
        return Traffic(
            write_bytes=stored * (ACCUMULATOR_BYTES * heads.kv), flops=stored * float(heads.q + heads.kv)
        )

    def _prefill_upkeep(self, heads: Heads, prompt_len: IntArray) -> Traffic:
        """Recompute the probabilities column by column, write and rank their sums, evict once.

        Fused attention never holds the probabilities, so that a second pass multiplies queries and keys
        again: 2 FLOPs per query head, channel and pair, plus an exponential and an addition per pair.
        """
        sums = prompt_len * float(ACCUMULATOR_BYTES * heads.kv)
        keys = prompt_len * (heads.token_bytes / 2)
        return super()._prefill_upkeep(heads, prompt_len) + Traffic(
            read_bytes=keys + sums,
            write_bytes=sums,
            flops=heads.q * (2 * heads.dim + 2) * causal_pairs(prompt_len) + prompt_len * float(heads.kv),
        )

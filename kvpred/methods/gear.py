"""GEAR: KIVI's quantisation, whose error is mended by outliers and a low-rank approximation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from kvpred.errors import UsageError
from kvpred.methods.kivi import Kivi
from kvpred.methods.quantities import BYTES_16BIT, Heads, IntArray, Traffic

OUTLIER_BYTES = 4
"""An fp16 value and its 16-bit index."""

MAX_INDEXED = 2**16

POWER_ITERATIONS = 3
"""Rounds of the power iteration, two products with the error matrix each (``loop`` in GEAR's settings)."""

SELECT_FLOPS = 2
"""Per entry: one comparison for each tail."""


@dataclass(frozen=True)
class Gear(Kivi):
    """GEAR (Kang et al., 2024) on KIVI's backbone.

    The quantised entries' outliers are kept as an fp16 value and a 16-bit index: for keys, of each head's
    block of G tokens x head_dim entries; for values, of each token's entries over the device's KV heads. Each
    tail takes ``outlier / 2`` of them, rounded up. The remaining error of the keys and of the values of each
    head is approximated by fp16 factors A (quantised tokens x r) and B (head_dim x r), with
    r = ceil(rank · head_dim).

    Parameters
    ----------
    bits, group_size, residual_length : int
        As in `Kivi`.
    outlier : float, default 0.02
        Share of the quantised entries kept as outliers, both tails together; from 0 to less than 1.
    rank : float, default 0.02
        Rank of the factors as a share of head_dim; from 0 to 1.

    Examples
    --------
    >>> Gear().spec
    'gear:bits=4,group_size=32,residual_length=128,outlier=0.02,rank=0.02'
    """

    name: ClassVar[str] = "gear"
    title: ClassVar[str] = "GEAR"
    paper: ClassVar[str] = "https://arxiv.org/abs/2403.05527"

    outlier: float = 0.02
    rank: float = 0.02

    def __post_init__(self) -> None:
        """Refuse shares out of range."""
        super().__post_init__()
        self._require("outlier", 0 <= self.outlier < 1, "from 0 to less than 1")
        self._require("rank", 0 <= self.rank <= 1, "from 0 to 1")

    def _check_heads(self, heads: Heads) -> None:
        super()._check_heads(heads)
        indexed = max(self.group_size, heads.kv) * heads.dim
        if indexed > MAX_INDEXED:
            raise UsageError(
                f"{self.name}: outliers are chosen among {indexed:,} entries, more than a 16-bit index "
                f"addresses ({MAX_INDEXED:,}): use a smaller group_size or a larger tp."
            )

    def _rank(self, heads: Heads) -> int:
        return rounded_up(self.rank * heads.dim)

    def _block_outliers(self, heads: Heads) -> int:
        """Outliers among the keys of G tokens."""
        return heads.kv * 2 * rounded_up(self.outlier / 2 * self.group_size * heads.dim)

    def _token_outliers(self, heads: Heads) -> int:
        """Outliers among the values of a token."""
        return 2 * rounded_up(self.outlier / 2 * heads.kv * heads.dim)

    def _outliers(self, heads: Heads, kv_len: IntArray) -> IntArray:
        """Outliers of a whole sequence."""
        keys, values = self._quantised(kv_len)
        return keys // self.group_size * self._block_outliers(heads) + values * self._token_outliers(heads)

    def _sequence_parts(self, heads: Heads, kv_len: IntArray, prompt_len: IntArray) -> dict[str, IntArray]:
        keys, values = self._quantised(kv_len)
        bases = (1 * (keys > 0) + (values > 0)) * heads.dim
        return super()._sequence_parts(heads, kv_len, prompt_len) | {
            "outliers": OUTLIER_BYTES * self._outliers(heads, kv_len),
            "low_rank": (keys + values + bases) * (BYTES_16BIT * heads.kv * self._rank(heads)),
        }

    def _decode_upkeep(self, heads: Heads, kv_len: IntArray, prompt_len: IntArray) -> Traffic:
        """KIVI's upkeep; add each outlier once; attend through both factors; extend them.

        A newly quantised token's outliers are selected, and its row of A is its projection on B.
        """
        keys, values = self._quantised(kv_len)
        rank, leaving = self._rank(heads), self._leaving(kv_len)
        new_keys = self._block_outliers(heads) / self.group_size
        new_values = (leaving - 1) * self._token_outliers(heads)
        low_rank = 2.0 * heads.q * rank * (keys + values + 2 * heads.dim)
        extend = leaving * float(heads.kv * heads.dim * (SELECT_FLOPS + 2 * rank))
        return super()._decode_upkeep(heads, kv_len, prompt_len) + Traffic(
            write_bytes=OUTLIER_BYTES * (new_keys + new_values) + leaving * (BYTES_16BIT * heads.kv * rank),
            flops=self._outliers(heads, kv_len) + low_rank + extend,
        )

    def _prefill_upkeep(self, heads: Heads, prompt_len: IntArray) -> Traffic:
        """KIVI's upkeep; select outliers; power iterations, two passes over the 16-bit error each; write."""
        keys, values = self._quantised(prompt_len)
        parts = self._sequence_parts(heads, prompt_len, prompt_len)
        entries = (keys + values) * float(heads.kv * heads.dim)
        passes = 2 * POWER_ITERATIONS if self._rank(heads) else 0
        return super()._prefill_upkeep(heads, prompt_len) + Traffic(
            read_bytes=entries * (BYTES_16BIT * passes),
            write_bytes=parts["outliers"] + parts["low_rank"],
            flops=entries * (SELECT_FLOPS + 2 * passes * self._rank(heads)),
        )


def rounded_up(count: float) -> int:
    """Round up, unless only the float's last digits are above a whole number."""
    return math.ceil(round(count, 9))

"""Arithmetic that quantising methods share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from kvpred.methods.base import Method
from kvpred.methods.quantities import Heads, IntArray, Traffic

SCALE_ZERO_BYTES = 4
"""An fp16 scale and an fp16 zero."""

QUANTISE_FLOPS = 4
"""Per entry: its group's minimum and maximum, subtract the zero, divide by the scale and round."""

DEQUANTISE_FLOPS = 2
"""Per entry: multiply by the scale, add the zero (or look up the codebook and multiply by the norm)."""


def code_bytes(entries: int, bits: int) -> int:
    """Count the bytes of `entries` packed codes, the last byte padded."""
    return -(-entries * bits // 8)


@dataclass(frozen=True)
class WriteQuantised(Method):
    """A method that compresses every token alone as it is written, so that no 16-bit cache ever exists."""

    @abstractmethod
    def _entry_bytes(self, heads: Heads) -> dict[str, int]:
        """Bytes of one token's keys and values in one layer, by component."""

    def _transform_flops(self, heads: Heads) -> int:
        """FLOPs per token that bring its keys and values into the space they are quantised in."""
        return 0

    def _query_flops(self, heads: Heads) -> int:
        """FLOPs per decode step that bring the query there and the output back."""
        return 0

    def _sequence_parts(self, heads: Heads, kv_len: IntArray, prompt_len: IntArray) -> dict[str, IntArray]:
        return {part: size * kv_len for part, size in self._entry_bytes(heads).items()}

    def _append_bytes(self, heads: Heads) -> int:
        return sum(self._entry_bytes(heads).values())

    def _decode_upkeep(self, heads: Heads, kv_len: IntArray, prompt_len: IntArray) -> Traffic:
        """Dequantise the cache, quantise one token; both in registers, so that no bytes are added."""
        entries = 2 * heads.kv * heads.dim
        token = QUANTISE_FLOPS * entries + self._transform_flops(heads) + self._query_flops(heads)
        return Traffic(flops=DEQUANTISE_FLOPS * entries * kv_len + float(token))

    def _prefill_upkeep(self, heads: Heads, prompt_len: IntArray) -> Traffic:
        """Quantise every token of the prompt on its way to the cache; attention uses the 16-bit values."""
        token = QUANTISE_FLOPS * 2 * heads.kv * heads.dim + self._transform_flops(heads)
        return Traffic(flops=float(token) * prompt_len)


@dataclass(frozen=True)
class PerTokenInteger(WriteQuantised):
    """Asymmetric integers with one fp16 scale and zero per token and head, for keys and for values."""

    bits: ClassVar[int]

    def _entry_bytes(self, heads: Heads) -> dict[str, int]:
        return {
            "codes": 2 * heads.kv * code_bytes(heads.dim, self.bits),
            "scales_zeros": 2 * heads.kv * SCALE_ZERO_BYTES,
        }

"""KIVI: keys quantised per channel, values per token, the most recent tokens in 16 bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvpred.errors import UsageError
from kvpred.methods.base import Method
from kvpred.methods.quantisation import DEQUANTISE_FLOPS, QUANTISE_FLOPS, SCALE_ZERO_BYTES
from kvpred.methods.quantities import BYTES_16BIT, MAX_TOKENS, Heads, IntArray, Traffic

BITS = (2, 4, 8)


@dataclass(frozen=True)
class Kivi(Method):
    """KIVI (Liu et al., 2024).

    Keys are quantised per channel in groups of G tokens once R of them have gathered, so that ``len mod R``
    keys stay in 16 bit; values per token in groups of G channels, once they leave the window of the last R
    tokens. Each group has an fp16 scale and an fp16 zero.

    Parameters
    ----------
    bits : int, default 4
        Width of a code: 2, 4 or 8.
    group_size : int, default 32
        Entries G that share a scale and a zero; a multiple of 8 that divides `residual_length` and the
        model's head_dim.
    residual_length : int, default 128
        Most recent tokens R kept in 16 bit.

    Examples
    --------
    >>> Kivi(bits=2).spec
    'kivi:bits=2,group_size=32,residual_length=128'
    """

    name: ClassVar[str] = "kivi"
    title: ClassVar[str] = "KIVI"
    paper: ClassVar[str] = "https://arxiv.org/abs/2402.02750"

    bits: int = 4
    group_size: int = 32
    residual_length: int = 128

    def __post_init__(self) -> None:
        """Refuse parameters that do not fit together."""
        super().__post_init__()
        self._require("bits", self.bits in BITS, f"one of {', '.join(map(str, BITS))}")
        grouped = self.group_size > 0 and self.group_size % 8 == 0
        self._require("group_size", grouped, "a positive multiple of 8 (whole bytes of codes)")
        whole = 0 < self.residual_length <= MAX_TOKENS and self.residual_length % self.group_size == 0
        allowed = f"a multiple of group_size ({self.group_size}), at most {MAX_TOKENS:,}"
        self._require("residual_length", whole, allowed)

    def _check_heads(self, heads: Heads) -> None:
        if heads.dim % self.group_size:
            divisors = [d for d in range(8, heads.dim + 1, 8) if heads.dim % d == 0]
            raise UsageError(
                f"{self.name}: group_size={self.group_size} must divide the model's head_dim ({heads.dim}): "
                f"use one of {', '.join(map(str, divisors))}."
            )

    def _quantised(self, kv_len: IntArray) -> tuple[IntArray, IntArray]:
        """Tokens whose keys, and whose values, are quantised."""
        keys = kv_len - kv_len % self.residual_length
        values = np.maximum(kv_len - self.residual_length, 0)
        return keys, values

    def _sequence_parts(self, heads: Heads, kv_len: IntArray, prompt_len: IntArray) -> dict[str, IntArray]:
        keys, values = self._quantised(kv_len)
        return {
            "codes": (keys + values) * self._token_code_bytes(heads),
            # Per token on average: keys share a scale over G tokens, values over G channels; whole in sum, as
            # G divides both the quantised keys and head_dim.
            "scales_zeros": (keys + values) * self._token_scale_bytes(heads),
            "residual": (2 * kv_len - keys - values) * (BYTES_16BIT * heads.kv * heads.dim),
        }

    def _token_code_bytes(self, heads: Heads) -> int:
        """Code bytes of one token's keys, or of its values."""
        return heads.kv * heads.dim * self.bits // 8

    def _token_scale_bytes(self, heads: Heads) -> int:
        """Scale and zero bytes of one token's keys (its share), or of its values."""
        return heads.kv * heads.dim // self.group_size * SCALE_ZERO_BYTES

    def _leaving(self, kv_len: IntArray) -> IntArray:
        """Tensors (keys, values) of which a decode step quantises one token, on average.

        Keys gather for R steps and are then quantised together, one token a step on average; values move one
        by one, once the window is full.
        """
        return 1 + (kv_len >= self.residual_length).astype(np.int64)

    def _decode_upkeep(self, heads: Heads, kv_len: IntArray, prompt_len: IntArray) -> Traffic:
        """Dequantise the cache in registers; quantise what leaves the window: read 16 bit, write codes."""
        keys, values = self._quantised(kv_len)
        entries = heads.kv * heads.dim
        leaving = self._leaving(kv_len)
        return Traffic(
            read_bytes=leaving * (BYTES_16BIT * entries),
            write_bytes=leaving * (self._token_code_bytes(heads) + self._token_scale_bytes(heads)),
            flops=(DEQUANTISE_FLOPS * (keys + values) + QUANTISE_FLOPS * leaving) * float(entries),
        )

    def _prefill_upkeep(self, heads: Heads, prompt_len: IntArray) -> Traffic:
        """Quantise all of the prompt but the window: read 16 bit, write codes, scales and zeros."""
        keys, values = self._quantised(prompt_len)
        quantised = keys + values
        entries = heads.kv * heads.dim
        return Traffic(
            read_bytes=quantised * (BYTES_16BIT * entries),
            write_bytes=quantised * (self._token_code_bytes(heads) + self._token_scale_bytes(heads)),
            flops=quantised * float(QUANTISE_FLOPS * entries),
        )

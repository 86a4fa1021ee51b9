"""Arithmetic that evicting methods share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from kvpred.methods.base import Method
from kvpred.methods.quantities import Heads, IntArray, Traffic


@dataclass(frozen=True)
class PromptEvicting(Method):
    """A method that keeps at most `budget` tokens of the prompt, in 16 bit."""

    @property
    @abstractmethod
    def _budget(self) -> int:
        """Most tokens kept of a prompt."""

    def _sequence_parts(self, heads: Heads, kv_len: IntArray, prompt_len: IntArray) -> dict[str, IntArray]:
        return {"kv": heads.token_bytes * self._stored(kv_len, prompt_len)}

    def _prefill_upkeep(self, heads: Heads, prompt_len: IntArray) -> Traffic:
        """Copy the kept tokens to the front of the cache, where a prompt exceeds the budget."""
        moved = np.where(prompt_len > self._budget, float(self._budget * heads.token_bytes), 0.0)
        return Traffic(read_bytes=moved, write_bytes=moved)


@dataclass(frozen=True)
class StepEvicting(PromptEvicting):
    """A method that also evicts one token for each that decoding adds, which takes over its slot."""

    def _attended(self, kv_len: IntArray, prompt_len: IntArray) -> IntArray:
        kept: IntArray = np.minimum(kv_len, self._budget)
        return kept

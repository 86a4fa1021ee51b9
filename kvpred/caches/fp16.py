"""The uncompressed cache."""

from __future__ import annotations

from torch import Tensor

from kvpred.caches.base import CacheLayer
from kvpred.methods.fp16 import Fp16


class Fp16Layer(CacheLayer[Fp16]):
    """Keys and values of every token in the model's own 16-bit dtype."""

    method_type = Fp16

    def compress(self, query: Tensor | None, key: Tensor, value: Tensor, scaling: float) -> None:
        """Copy the prompt's entries."""
        self.append(key, value)

    def append(self, key: Tensor, value: Tensor) -> None:
        """Add entries."""
        self._tokens("kv/keys").append(key)
        self._tokens("kv/values").append(value)

    def materialise(self) -> tuple[Tensor, Tensor]:
        """Return all entries in order."""
        return self._tokens("kv/keys").view, self._tokens("kv/values").view

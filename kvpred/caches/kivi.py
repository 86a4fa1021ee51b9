"""KIVI's cache: keys quantised per channel, values per token, the most recent tokens in the model's dtype."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from kvpred.caches.base import CacheLayer
from kvpred.caches.quantisation import QuantisedTokens
from kvpred.methods.kivi import Kivi

K = TypeVar("K", bound=Kivi)


class KiviLayer(CacheLayer[K]):
    """KIVI (Liu et al., 2024, algorithm 1).

    Once R keys have gathered, they are quantised together, in groups of G tokens per channel; a value is
    quantised, in groups of G channels, when the R-th one after it comes. Both happen before the step attends.

    The window of values is a ring: the value at position p stands in slot ``p mod R``.
    """

    method_type = Kivi

    def __init__(self, method: K) -> None:
        super().__init__(method)
        self._quantised_keys = QuantisedTokens(
            self._tokens,
            "keys",
            bits=method.bits,
            group_tokens=method.group_size,
            group_width=1,
        )
        self._quantised_values = QuantisedTokens(
            self._tokens,
            "values",
            bits=method.bits,
            group_width=method.group_size,
        )

    @property
    def period(self) -> int:
        """Keys are quantised every R steps."""
        return self.method.residual_length

    def compress(self, query: Tensor | None, key: Tensor, value: Tensor, scaling: float) -> None:
        """Quantise all of the prompt but the latest ``len mod R`` keys and R values."""
        key, value = self._without_padding(key), self._without_padding(value)
        tokens, window = key.shape[2], self.method.residual_length
        n_keys, n_values = tokens - tokens % window, max(tokens - window, 0)
        if n_keys:
            self._store_keys(key[:, :, :n_keys])
        if n_values:
            self._store_values(value[:, :, :n_values])
        self._tokens("residual/keys").append(key[:, :, n_keys:])
        self._tokens("residual/values").append(value[:, :, n_values:].roll(n_values, dims=2))

    def append(self, key: Tensor, value: Tensor) -> None:
        """Take one token's entries; quantise R gathered keys, and the value whose place the new one takes."""
        keys, values = self._tokens("residual/keys"), self._tokens("residual/values")
        keys.append(key)
        if len(keys) == self.method.residual_length:
            self._store_keys(keys.view)
            keys.clear()
        if len(values) < self.method.residual_length:
            values.append(value)
        else:
            slot = self._oldest_slot
            oldest = values.view[:, :, slot : slot + 1]
            self._store_values(oldest)
            oldest.copy_(value)

    def materialise(self) -> tuple[Tensor, Tensor]:
        """Return all entries in order, the quantised ones dequantised."""
        window = self._tokens("residual/values").view
        bsz, heads, _, head_dim = window.shape
        n_keys, n_values = len(self._quantised_keys), len(self._quantised_values)
        keys = window.new_empty(bsz, heads, n_values + window.shape[2], head_dim)
        values = torch.empty_like(keys)
        if n_keys:
            self._read_keys(keys[:, :, :n_keys])
        if n_values:
            self._read_values(values[:, :, :n_values])
        keys[:, :, n_keys:] = self._tokens("residual/keys").view
        values[:, :, n_values:] = window.roll(-self._oldest_slot, dims=2)
        return keys, values

    @property
    def _oldest_slot(self) -> int:
        return len(self._quantised_values) % self.method.residual_length

    # How a subclass keeps more than codes:

    def _store_keys(self, keys: Tensor) -> None:
        """Quantise the keys of whole groups of tokens."""
        self._quantised_keys.append(keys)

    def _store_values(self, values: Tensor) -> None:
        """Quantise values."""
        self._quantised_values.append(values)

    def _read_keys(self, out: Tensor) -> None:
        """Write the quantised keys to a tensor of shape (bsz, heads, tokens, head_dim)."""
        self._quantised_keys.read(out)

    def _read_values(self, out: Tensor) -> None:
        """Write the quantised values to a tensor of shape (bsz, heads, tokens, head_dim)."""
        self._quantised_values.read(out)

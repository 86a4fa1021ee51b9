"""SnapKV's cache: the prompt tokens that its last queries look at, and all later ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from kvpred.caches.base import CacheLayer
from kvpred.caches.eviction import attention_sums, take
from kvpred.methods.snapkv import SnapKV


class SnapKVLayer(CacheLayer[SnapKV]):
    """Keys and values in 16 bit, in order of position."""

    method_type = SnapKV
    needs_queries = True

    def compress(self, query: Tensor | None, key: Tensor, value: Tensor, scaling: float) -> None:
        """Let the window's queries vote, and evict once."""
        assert query is not None
        n_evicted = key.shape[2] - self.method.budget
        if n_evicted > 0:
            places = self._vote(query[:, :, -self.method.window :], key, scaling)
            key, value = take(key, places), take(value, places)
            self._forget_padding(n_evicted)
        self.append(key, value)

    def append(self, key: Tensor, value: Tensor) -> None:
        """Add entries."""
        self._tokens("kv/keys").append(key)
        self._tokens("kv/values").append(value)

    def materialise(self) -> tuple[Tensor, Tensor]:
        """Return all entries kept, in order."""
        return self._tokens("kv/keys").view, self._tokens("kv/values").view

    def _vote(self, window_query: Tensor, key: Tensor, scaling: float) -> Tensor:
        """Return the positions to keep in order, shape (bsz, KV heads, budget)."""
        n_tokens, window = key.shape[2], self.method.window
        votes = attention_sums(window_query, key, scaling, n_pad=self.n_pad)[..., :-window]
        votes = max_pool1d(votes, self.method.kernel, stride=1, padding=self.method.kernel // 2)
        positions = torch.arange(n_tokens, device=key.device)
        if self.n_pad is not None:
            votes.masked_fill_((positions[:-window] < self.n_pad[:, None])[:, None], -torch.inf)
        # Pooling makes ties: a stable order lets the earlier token win, with padding or without.
        ranking = votes.argsort(dim=2, descending=True, stable=True)
        chosen = ranking[..., : self.method.budget - window].sort().values
        return torch.cat([chosen, positions[-window:].expand(*chosen.shape[:2], -1)], dim=2)

    def _forget_padding(self, n_evicted: int) -> None:
        """Count the padding that is left: it goes first, and what stays leads the entries in order."""
        if self.n_pad is not None:
            n_pad = (self.n_pad - n_evicted).clamp(min=0)
            self.n_pad = n_pad if bool(n_pad.any()) else None

"""What evicting methods share: slots that newer tokens take over, and the attention that tokens received."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

import torch
from torch import Tensor

from kvpred.caches.base import CacheLayer
from kvpred.caches.tokens import Tokens
from kvpred.methods import Method

M = TypeVar("M", bound=Method)

MOST_SCORES = 2**24
"""Attention scores held at once when a prompt's are summed: 64 MiB of fp32."""

MOST_CPU_SCORES = 2**21
"""The same on a CPU: 8 MiB stay in its last-level cache, and are summed 2 to 4 times faster than 64 MiB."""

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by their bytes: on a CPU torch scatters 16-bit floats ten times slower than 16-bit integers."""


class RingLayer(CacheLayer[M]):
    """A cache of a fixed number of slots: first the tokens that stay, then a ring of the most recent ones.

    It grows in order of position until its slots are full. From then on each new token takes the slot that
    the oldest of the ring has left: nothing is shifted, since attention asks for no order. Between two steps
    one slot is free, and `materialise` shows what it last held.

    Parameters
    ----------
    method : Method
    ring : range
        The slots of the ring, up to the last of all: one more than the method's budget.
    """

    needs_queries = True

    def __init__(self, method: M, ring: range) -> None:
        super().__init__(method)
        self._ring = ring
        self._free = ring[-1]

    def append(self, key: Tensor, value: Tensor) -> None:
        """Write one token into the free slot, or add a slot."""
        self._write("kv/keys", key)
        self._write("kv/values", value)

    def evict(self) -> None:
        """Free the slot of the ring's oldest token, once all slots are taken."""
        if len(self._tokens("kv/keys")) < self._ring.stop:
            return
        oldest = self._free + 1 if self._free < self._ring[-1] else self._ring.start
        self._leave(oldest)
        self._free = oldest

    def materialise(self) -> tuple[Tensor, Tensor]:
        """Return all slots."""
        return self._tokens("kv/keys").view, self._tokens("kv/values").view

    @abstractmethod
    def _leave(self, slot: int) -> None:
        """Move the ring's oldest token from its slot to where the method wants it, if it does."""

    def _tokens(self, name: str) -> Tokens:
        return self.sequences.setdefault(name, Tokens(most=self._ring.stop))

    def _write(self, name: str, entry: Tensor) -> None:
        tokens = self._tokens(name)
        if len(tokens) < self._ring.stop:
            tokens.append(entry)
        else:
            tokens.view[:, :, self._free : self._free + 1] = entry

    def _move(self, slot: int, places: Tensor) -> None:
        """Copy what all tensors hold at a slot to each head's own place, shape (bsz, heads or 1, 1, 1)."""
        for tokens in self.sequences.values():
            slots = tokens.view.view(BITS[tokens.view.element_size()])
            # A copy, since torch refuses to scatter a tensor into itself.
            entry = slots[:, :, slot : slot + 1].clone()
            slots.scatter_(2, places.expand_as(entry), entry)


def take(entries: Tensor, places: Tensor) -> Tensor:
    """Take each head's own tokens.

    Parameters
    ----------
    entries : Tensor, shape (bsz, heads, tokens, width)
    places : Tensor, shape (bsz or 1, heads or 1, kept)
        Indices of tokens, int64.

    Returns
    -------
    Tensor
        Shape (bsz, heads, kept, width).
    """
    bsz, heads, _, width = entries.shape
    return entries.gather(2, places[..., None].expand(bsz, heads, -1, width))


def attention_sums(query: Tensor, key: Tensor, scaling: float, *, n_pad: Tensor | None = None) -> Tensor:
    """Sum the causal attention that each token of a prompt receives from the prompt's last queries.

    Fused attention never shows its probabilities. Here they are computed in fp32, for so many queries at a
    time that `MOST_SCORES` of them, or those of one query, are held at once.

    Parameters
    ----------
    query : Tensor, shape (bsz, query heads, queries, head_dim)
        The last ones, or all.
    key : Tensor, shape (bsz, KV heads, tokens, head_dim)
    scaling : float
    n_pad : Tensor, optional
        Left padding of each sequence, shape (bsz,).

    Returns
    -------
    Tensor
        Sums over the queries and over the query heads of a KV head, shape (bsz, KV heads, tokens); those of
        padding mean nothing.
    """
    bsz, n_q_heads, n_queries, head_dim = query.shape
    n_kv_heads, n_keys = key.shape[1:3]
    sums = key.new_zeros(bsz, n_kv_heads, n_keys, dtype=torch.float32)
    most = MOST_CPU_SCORES if key.device.type == "cpu" else MOST_SCORES
    rows = max(1, most // (bsz * n_q_heads * n_keys))
    for start in range(0, n_queries, rows):
        part = query[:, :, start : start + rows]
        n_rows = part.shape[2]
        n_seen = n_keys - n_queries + start + n_rows
        by_kv_head = part.reshape(bsz, n_kv_heads, -1, head_dim)
        logits = (by_kv_head @ key[:, :, :n_seen].transpose(2, 3)).float().mul_(scaling)
        if n_pad is not None:
            padding = torch.arange(n_seen, device=key.device) < n_pad[:, None]
            # Finite, so that padding's own queries, which see nothing else, do not turn to NaN.
            logits.masked_fill_(padding[:, None, None], torch.finfo(torch.float32).min)
        later = torch.ones(n_rows, n_rows, dtype=torch.bool, device=key.device).triu(1)
        by_row = logits.view(bsz, n_kv_heads, -1, n_rows, n_seen)
        by_row[..., n_seen - n_rows :].masked_fill_(later, -torch.inf)
        sums[:, :, :n_seen] += logits.softmax(dim=-1).sum(dim=2)
    return sums

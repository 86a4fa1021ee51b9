"""H2O's cache: the tokens that received most attention stay, the recent ones run in a ring."""

from __future__ import annotations

import torch
from torch import Tensor

from kvpred.caches.attention import grouped
from kvpred.caches.eviction import RingLayer, attention_sums, take
from kvpred.methods.h2o import H2O

SUMS = "accumulators"


class H2OLayer(RingLayer[H2O]):
    """One slot more than heavy hitters are kept, and a ring of the recent tokens.

    The token that leaves the ring takes the slot of the one with the smallest sum among those kept. Sums are
    fp32, of shape (bsz, KV heads, slots, 1); padding's is -inf, so that it goes first.
    """

    method_type = H2O

    def __init__(self, method: H2O) -> None:
        n_slots = method.heavy + method.recent + 1
        super().__init__(method, range(method.heavy + 1, n_slots))

    def compress(self, query: Tensor | None, key: Tensor, value: Tensor, scaling: float) -> None:
        """Sum the prompt's attention, and evict once."""
        assert query is not None
        n_tokens, device = key.shape[2], key.device
        sums = attention_sums(query, key, scaling, n_pad=self.n_pad)
        if self.n_pad is not None:
            padding = torch.arange(n_tokens, device=device) < self.n_pad[:, None]
            sums.masked_fill_(padding[:, None], -torch.inf)
        entries = {"kv/keys": key, "kv/values": value, SUMS: sums[..., None]}
        if n_tokens > self._ring.stop:
            n_old = n_tokens - self.method.recent
            heavy = sums[..., :n_old].topk(self._ring.start).indices
            recent = torch.arange(n_old, n_tokens, device=device).expand(*sums.shape[:2], -1)
            places = torch.cat([heavy, recent], dim=2)
            entries = {name: take(entry, places) for name, entry in entries.items()}
        for name, entry in entries.items():
            self._tokens(name).append(entry)
        self.evict()

    def append(self, key: Tensor, value: Tensor) -> None:
        """Write one token, which nobody has looked at yet, into the free slot, or add a slot."""
        super().append(key, value)
        self._write(SUMS, key.new_zeros(*key.shape[:3], 1, dtype=torch.float32))

    def attend(self, query: Tensor, scaling: float) -> Tensor:
        """Attend from one token to the cache, and add its probabilities to the sums.

        Parameters
        ----------
        query : Tensor, shape (bsz, query heads, 1, head_dim)
        scaling : float

        Returns
        -------
        Tensor
            Shape (bsz, query heads, 1, head_dim).
        """
        keys, values = self.materialise()
        sums = self._tokens(SUMS).view.squeeze(3)
        logits = (grouped(query, keys.shape[1]) @ keys.transpose(2, 3)).float().mul_(scaling)
        if self.n_pad is not None:
            logits.masked_fill_(sums[:, :, None] == -torch.inf, -torch.inf)
        probabilities = logits.softmax(dim=-1)
        sums += probabilities.sum(dim=2)
        return (probabilities.to(values.dtype) @ values).reshape(query.shape)

    def _leave(self, slot: int) -> None:
        """Give the token the place of the smallest sum among the kept and itself."""
        sums = self._tokens(SUMS).view[:, :, : self._ring.start]
        self._move(slot, sums.argmin(dim=2, keepdim=True))

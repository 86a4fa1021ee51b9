"""StreamingLLM's cache: the first tokens stay, the recent ones run in a ring."""

from __future__ import annotations

import torch
from torch import Tensor

from kvpred.caches.eviction import RingLayer, take
from kvpred.methods.streamingllm import StreamingLLM

REAL = "kv/real"
"""Which slots hold no padding, shape (bsz, 1, slots, 1); kept only while any does."""


class StreamingLLMLayer(RingLayer[StreamingLLM]):
    """The sinks, each at its position modulo their number, and a ring of one slot more than recent tokens.

    The sinks of a padded sequence are its first real tokens: those that stand in the ring when it begins to
    turn take over padding's slots as they leave it.
    """

    method_type = StreamingLLM

    def __init__(self, method: StreamingLLM) -> None:
        super().__init__(method, range(method.sinks, method.sinks + method.recent + 1))
        self._sinks_end = 0

    def compress(self, query: Tensor | None, key: Tensor, value: Tensor, scaling: float) -> None:
        """Keep the sinks and the recent tokens."""
        entries = {"kv/keys": key, "kv/values": value}
        if self.n_pad is not None:
            positions = torch.arange(key.shape[2], device=key.device)
            entries[REAL] = (positions >= self.n_pad[:, None])[:, None, :, None]
            self._sinks_end = int(self.n_pad.max()) + self.method.sinks
        if key.shape[2] >= self._ring.stop:
            places = self._places(key.shape[2], key.device)
            entries = {name: take(entry, places) for name, entry in entries.items()}
            self._free = self._ring.start
        for name, entry in entries.items():
            self._tokens(name).append(entry)

    def append(self, key: Tensor, value: Tensor) -> None:
        """Write one token into the free slot, or add a slot."""
        super().append(key, value)
        if REAL in self.sequences:
            self._write(REAL, key.new_ones(key.shape[0], 1, 1, 1, dtype=torch.bool))

    def _leave(self, slot: int) -> None:
        """Move a token that is a sink to its slot; others are let go of."""
        if self.n_pad is None or REAL not in self.sequences:
            return
        position = self.seen - self.method.recent
        sink = (self.n_pad <= position) & (position < self.n_pad + self.method.sinks)
        places = torch.where(sink, position % max(self.method.sinks, 1), slot)
        self._move(slot, places[:, None, None, None])
        if position + 1 >= self._sinks_end:
            del self.sequences[REAL]

    def _places(self, n_tokens: int, device: torch.device) -> Tensor:
        """Return the positions whose tokens go into the slots, the free one first in the ring: any."""
        n_sinks, n_left = self.method.sinks, n_tokens - self.method.recent
        n_pad = torch.zeros(1, dtype=torch.int64, device=device) if self.n_pad is None else self.n_pad
        sinks = n_pad[:, None] + (torch.arange(n_sinks, device=device) - n_pad[:, None]) % max(n_sinks, 1)
        # A sink still in the ring leaves its slot to padding.
        sinks = torch.where(sinks < n_left, sinks, sinks - n_sinks)
        ring = torch.arange(n_left - 1, n_tokens, device=device).expand(len(n_pad), -1)
        return torch.cat([sinks, ring], dim=1)[:, None]

    def _mask(self, length: int) -> Tensor | None:
        real = self.sequences.get(REAL)
        return None if real is None else real.view.transpose(2, 3)

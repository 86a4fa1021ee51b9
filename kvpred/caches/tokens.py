"""Tensors that grow along their tokens without being copied at every step."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64
"""Tokens by which a full buffer grows: a copy of it every 64 steps is about 3 % of what the steps read."""


class Tokens:
    """Entries of shape (bsz, heads, tokens, width), appended along the third dimension.

    The first entries take exactly the room they need; later room comes in blocks.

    Parameters
    ----------
    most : int, optional
        Tokens that will ever be held at once: a last block ends there, and full tensors are contiguous.

    Examples
    --------
    >>> keys = Tokens()
    >>> keys.append(torch.zeros(1, 2, 3, 4))
    >>> len(keys), keys.view.shape
    (3, torch.Size([1, 2, 3, 4]))
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._room: Tensor | None = None
        self._count = 0

    def __len__(self) -> int:
        """Count the tokens held."""
        return self._count

    @property
    def view(self) -> Tensor:
        """The tokens held, shape (bsz, heads, len, width), contiguous if full; writing to it changes them."""
        if self._room is None:
            raise ValueError("no entries yet")
        if self._count == self._room.shape[2]:
            return self._room
        return self._room[:, :, : self._count]

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens held; room for further ones is not counted."""
        return self.view.numel() * self.view.element_size() if self._room is not None else 0

    def append(self, entries: Tensor) -> None:
        """Add entries of shape (bsz, heads, tokens, width)."""
        end = self._count + entries.shape[2]
        if self._room is None:
            self._room, self._count = entries.clone(memory_format=torch.contiguous_format), end
            return
        if end > self._room.shape[2]:
            bsz, heads, _, width = entries.shape
            room = -(-end // BLOCK) * BLOCK
            if self._most is not None:
                room = max(end, min(room, self._most))
            grown = entries.new_empty(bsz, heads, room, width)
            grown[:, :, : self._count] = self._room[:, :, : self._count]
            self._room = grown
        self._room[:, :, self._count : end] = entries
        self._count = end

    def clear(self) -> None:
        """Forget all tokens, and keep the room."""
        self._count = 0

    def reorder(self, sequences: Tensor) -> None:
        """Take the sequences with these indices, in their order."""
        if self._room is not None:
            self._room = self._room.index_select(0, sequences)

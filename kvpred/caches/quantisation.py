"""Entries as packed integer codes, and the layers of methods that quantise each token alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from kvpred.caches.base import CacheLayer
from kvpred.caches.packing import pack, unpack
from kvpred.caches.tokens import Tokens
from kvpred.methods.quantisation import PerTokenInteger

P = TypeVar("P", bound=PerTokenInteger)

SMALLEST_SCALE = torch.finfo(torch.float16).smallest_normal
"""Below it fp16 loses digits, and a group of equal entries would divide by zero."""

SLICE = 2**21
"""Entries that are dequantised at once, so that their 32-bit copy stays small: 8 MiB."""


class QuantisedTokens:
    """Entries of shape (bsz, heads, tokens, width) in asymmetric integer codes.

    A group of entries shares an fp16 scale s and an fp16 zero z: its code c stands for c · s + z, where z is
    the group's smallest entry and the largest code its largest.

    Parameters
    ----------
    tokens : callable
        Makes the tensors, as `CacheLayer._tokens` does: the packed codes, shape (bsz, heads, tokens, bytes),
        and the scales and zeros of the groups of each run of `group_tokens` tokens, shape
        (bsz, heads, runs, groups).
    name : str
        What the entries are: "keys" or "values".
    bits : int
        Width of a code, 2 to 8.
    group_tokens : int, default 1
        Neighbouring tokens in a group; tokens come in multiples of it.
    group_width : int, optional
        Neighbouring entries of a token in a group; all of them if not given.

    Examples
    --------
    >>> quantised = QuantisedTokens(lambda name: Tokens(), "keys", bits=2)
    >>> quantised.append(torch.tensor([[[[0.0, 1.0, 2.0, 4.5]]]]))
    >>> quantised.read(torch.empty(1, 1, 1, 4))
    tensor([[[[0.0000, 1.5000, 1.5000, 4.5000]]]])
    """

    def __init__(
        self,
        tokens: Callable[[str], Tokens],
        name: str,
        *,
        bits: int,
        group_tokens: int = 1,
        group_width: int | None = None,
    ) -> None:
        self._codes = tokens(f"codes/{name}")
        self._scales = tokens(f"scales_zeros/{name}/scales")
        self._zeros = tokens(f"scales_zeros/{name}/zeros")
        self._bits = bits
        self._group_tokens = group_tokens
        self._group_width = group_width

    def __len__(self) -> int:
        """Count the tokens held."""
        return len(self._codes)

    def append(self, entries: Tensor) -> None:
        """Quantise entries of shape (bsz, heads, tokens, width) and keep their codes."""
        groups = self._grouped(entries)
        zero = groups.amin(dim=(3, 5), keepdim=True).half()
        largest = 2**self._bits - 1
        step = (groups.amax(dim=(3, 5), keepdim=True).float() - zero).div_(largest)
        scale = step.clamp_(min=SMALLEST_SCALE).half()
        # With scale and zero as kept, so that codes make up for their rounding; in 32 bit, as when read.
        codes = (groups.float() - zero).div_(scale).round_().clamp_(0, largest)
        self._codes.append(pack(codes.to(torch.uint8).view_as(entries), self._bits))
        self._scales.append(scale.flatten(3))
        self._zeros.append(zero.flatten(3))

    def read(self, out: Tensor, since: int = 0) -> Tensor:
        """Dequantise into a tensor, in its dtype.

        Parameters
        ----------
        out : Tensor, shape (bsz, heads, tokens, width)
            Written to.
        since : int, default 0
            First token wanted.

        Returns
        -------
        Tensor
            `out`.
        """
        bsz, heads, tokens, width = out.shape
        length = max(1, SLICE // (bsz * heads * width * self._group_tokens)) * self._group_tokens
        for start in range(0, tokens, length):
            self._read_slice(out[:, :, start : start + length], since + start)
        return out

    def _read_slice(self, out: Tensor, start: int) -> None:
        """Dequantise the tokens from `start` on in 32 bit: bfloat16 would be off by up to 1.5 8-bit codes."""
        codes = unpack(self._codes.view[:, :, start : start + out.shape[2]], self._bits, out.shape[3])
        runs = slice(start // self._group_tokens, (start + out.shape[2]) // self._group_tokens)
        scale, zero = (kept.view[:, :, runs, None, :, None].float() for kept in (self._scales, self._zeros))
        entries = codes.float()
        self._grouped(entries).mul_(scale).add_(zero)
        out.copy_(entries)

    def _grouped(self, entries: Tensor) -> Tensor:
        """View entries as (bsz, heads, runs, tokens of a group, groups, width of a group)."""
        width = self._group_width or entries.shape[3]
        groups: Tensor = entries.unflatten(3, (-1, width)).unflatten(2, (-1, self._group_tokens))
        return groups


class PerTokenLayer(CacheLayer[P]):
    """Keys and values in integer codes, with a scale and a zero per token and head.

    Keys and values are kept side by side as twice as many heads: each operator runs once for both.
    """

    def __init__(self, method: P) -> None:
        super().__init__(method)
        self._entries = QuantisedTokens(self._tokens, "entries", bits=method.bits)
        self._head_dim = 0

    def compress(self, query: Tensor | None, key: Tensor, value: Tensor, scaling: float) -> None:
        """Quantise the prompt's entries."""
        self._head_dim = key.shape[3]
        self.append(key, value)

    def append(self, key: Tensor, value: Tensor) -> None:
        """Quantise entries."""
        self._entries.append(torch.cat((key, value), dim=1))

    def materialise(self) -> tuple[Tensor, Tensor]:
        """Return all entries in order, dequantised."""
        codes = self._tokens("codes/entries").view
        entries = codes.new_empty(*codes.shape[:3], self._head_dim, dtype=self.dtype)
        keys, values = self._entries.read(entries).chunk(2, dim=1)
        return keys, values

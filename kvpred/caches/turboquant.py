"""TurboQuant's cache: directions rotated at random and quantised with one codebook, and their norms."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from kvpred.caches.attention import grouped
from kvpred.caches.base import CacheLayer
from kvpred.caches.packing import pack, unpack
from kvpred.methods.turboquant import TurboQuant

SEED = 20250428
"""Of the rotation: fixed, so that the same input gives the same cache."""

LLOYD_STEPS = 200
"""Within a thousandth of the least error for 2 to 8 bits."""

WORD_BITS = {2: 8, 3: 12, 4: 8, 6: 12, 8: 8}
"""Bits of packed codes that are looked up at once; codes of other widths are unpacked."""

ELEMENTS = {2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}
"""One element by its bytes: torch gathers elements several times faster than short rows."""


class TurboQuantLayer(CacheLayer[TurboQuant]):
    """Packed codes and fp16 norms of every token, attended to in the rotated space.

    The query is rotated and the output rotated back; norms multiply scores and probabilities, so that the
    codes are looked up and nothing else is done to them.
    """

    method_type = TurboQuant

    def compress(self, query: Tensor | None, key: Tensor, value: Tensor, scaling: float) -> None:
        """Make the rotation and the codebooks, and quantise the prompt."""
        head_dim = key.shape[-1]
        self.shared["rotation"] = rotation(head_dim).to(key.device, torch.float16)
        self._codebooks: dict[str, Codebook] = {}
        for name, bits in (("keys", self.method.key_bits), ("values", self.method.value_bits)):
            levels = optimal_levels(bits, head_dim).to(key.device, torch.float16)
            self.shared[f"codebooks/{name}"] = levels
            self._codebooks[name] = Codebook(levels, bits, key.dtype)
        self.append(key, value)

    def append(self, key: Tensor, value: Tensor) -> None:
        """Quantise entries and add them."""
        entries = torch.cat((key, value), dim=1).float()
        norms = entries.norm(dim=-1, keepdim=True)
        rotated = entries @ self.shared["rotation"].float().T
        directions = rotated / norms.clamp_min(torch.finfo(torch.float32).tiny)
        for name, part in zip(self._codebooks, directions.chunk(2, dim=1), strict=True):
            self._tokens(f"codes/{name}").append(self._codebooks[name].encode(part))
        self._tokens("norms").append(norms.half())

    def attend(self, query: Tensor, scaling: float) -> Tensor:
        """Attend in the rotated space."""
        keys, values = self._directions("keys"), self._directions("values")
        key_norms, value_norms = self._tokens("norms").view.mT.float().chunk(2, dim=1)
        rotation = self.shared["rotation"].float()
        rows = grouped(query.float() @ rotation.T, keys.shape[1]).to(keys.dtype)
        scores = (rows @ keys.mT).float() * (scaling * key_norms)
        mask = self._mask(keys.shape[2])
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        weights = scores.softmax(dim=-1) * value_norms
        output = (weights.to(values.dtype) @ values).float() @ rotation
        return output.to(query.dtype).reshape(query.shape)

    def materialise(self) -> tuple[Tensor, Tensor]:
        """Return all entries in order, rotated back."""
        directions = torch.cat((self._directions("keys"), self._directions("values")), dim=1).float()
        entries = directions * self._tokens("norms").view @ self.shared["rotation"].float()
        keys, values = entries.to(self.dtype).chunk(2, dim=1)
        return keys, values

    def _directions(self, name: str) -> Tensor:
        """Rotated directions in the model's dtype, shape (bsz, KV heads, tokens, head_dim)."""
        head_dim = self.shared["rotation"].shape[0]
        return self._codebooks[name].decode(self._tokens(f"codes/{name}").view, head_dim)


class Codebook:
    """Levels, with what makes codes of numbers and numbers of packed codes quickly.

    Parameters
    ----------
    levels : Tensor, shape (2^bits,)
        Ascending.
    bits : int
        Width of a code, 2 to 8.
    dtype : torch.dtype
        Of decoded numbers.
    """

    def __init__(self, levels: Tensor, bits: int, dtype: torch.dtype) -> None:
        self._bits, self._dtype = bits, dtype
        self._bounds = (levels[1:].float() + levels[:-1].float()) / 2
        n_codes = WORD_BITS.get(bits, bits) // bits
        words = torch.arange(2 ** (n_codes * bits), device=levels.device)[:, None]
        shifts = bits * torch.arange(n_codes, device=levels.device)
        numbers = levels.to(dtype)[words >> shifts & 2**bits - 1]
        self._table = numbers.view(ELEMENTS[numbers.element_size() * n_codes])[:, 0]

    def encode(self, numbers: Tensor) -> Tensor:
        """Return the packed codes of the nearest levels, uint8, shape (..., ceil(n · bits / 8))."""
        codes = torch.bucketize(numbers.contiguous(), self._bounds, out_int32=True)
        return pack(codes.to(torch.uint8), self._bits)

    def decode(self, packed: Tensor, n: int) -> Tensor:
        """Return the levels of `n` packed codes along the last axis."""
        numbers = self._table.index_select(0, self._words(packed, n).flatten()).view(self._dtype)
        return numbers.view(*packed.shape[:-1], -1)[..., :n]

    def _words(self, packed: Tensor, n: int) -> Tensor:
        """Regroup packed codes into the words that the table knows, int32."""
        if self._bits not in WORD_BITS:
            return unpack(packed, self._bits, n).int()
        if WORD_BITS[self._bits] == 8:
            return packed.int()
        threes = torch.nn.functional.pad(packed, (0, -packed.shape[-1] % 3)).unflatten(-1, (-1, 3))
        first, second, third = threes.int().unbind(dim=-1)
        return torch.stack((first | (second & 15) << 8, second >> 4 | third << 4), dim=-1)


@cache
def rotation(head_dim: int) -> Tensor:
    """Return a random orthogonal matrix, the same at every call: the Q of a Gaussian matrix, fp32.

    With the signs of R's diagonal moved into Q it is uniform over all rotations and reflections
    (Mezzadri, 2007, https://arxiv.org/abs/math-ph/0609050).
    """
    gaussian = torch.randn(head_dim, head_dim, generator=torch.Generator().manual_seed(SEED))
    q, r = torch.linalg.qr(gaussian)
    signed: Tensor = q * r.diagonal().sign()
    return signed


@cache
def optimal_levels(bits: int, head_dim: int) -> Tensor:
    """Return the levels that quantise a coordinate of a random unit vector with least mean squared error.

    Lloyd's algorithm on the coordinate's exact density, proportional to (1 - x²)^((head_dim - 3) / 2)
    (TurboQuant, lemma 1), from levels as dense as its cube root, which is optimal for many levels.

    Parameters
    ----------
    bits : int
        There are 2^bits levels.
    head_dim : int
        Coordinates of the vector; at least 2.

    Returns
    -------
    Tensor
        fp32, ascending, shape (2^bits,).

    Examples
    --------
    >>> 8 * optimal_levels(1, 64)  # about sqrt(2 / pi) each, as for a Gaussian of variance 1
    tensor([-0.8010,  0.8010])
    """
    edges = np.linspace(-1, 1, 2**16 + 1)
    x = (edges[1:] + edges[:-1]) / 2
    density = (1 - x**2) ** ((head_dim - 3) / 2)
    mass, moment, spread = (np.append(0, np.cumsum(f)) for f in (density, density * x, density ** (1 / 3)))
    levels = np.interp((np.arange(2**bits) + 0.5) / 2**bits, spread / spread[-1], edges)
    for _ in range(LLOYD_STEPS):
        bounds = np.concatenate(([-1], (levels[1:] + levels[:-1]) / 2, [1]))
        levels = np.diff(np.interp(bounds, edges, moment)) / np.diff(np.interp(bounds, edges, mass))
    return torch.from_numpy(levels).float()

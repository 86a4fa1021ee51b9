"""GEAR's cache: KIVI's, whose error is mended by outliers and a low-rank approximation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kvpred.caches.kivi import KiviLayer
from kvpred.caches.quantisation import QuantisedTokens
from kvpred.caches.tokens import Tokens
from kvpred.methods.gear import POWER_ITERATIONS, Gear, rounded_up

INDEX_OFFSET = 2**15
"""Taken from an index so that signed 16 bits hold it: torch computes little on unsigned ones."""


class GearLayer(KiviLayer[Gear]):
    """GEAR (Kang et al., 2024) on KIVI's backbone.

    Outliers are the entries farthest above and below their group's mean: those that widen its range. Before
    the group is quantised its mean takes their place, so that its scale shrinks. An outlier is kept as the
    entry itself and overwrites what codes and factors say in its place: it comes back exact up to fp16.
    """

    method_type = Gear

    def __init__(self, method: Gear) -> None:
        super().__init__(method)
        self._key_outliers = Outliers(self._tokens, "keys", share=method.outlier)
        self._value_outliers = Outliers(self._tokens, "values", share=method.outlier)
        self._key_error = LowRank(self._tokens, "keys", share=method.rank)
        self._value_error = LowRank(self._tokens, "values", share=method.rank)

    def _store_keys(self, keys: Tensor) -> None:
        """Quantise keys; outliers are chosen in each head's block of G tokens."""
        blocks = keys.float().unflatten(2, (-1, self.method.group_size))
        means = blocks.mean(dim=3, keepdim=True).expand_as(blocks)
        inside = self._key_outliers.take(blocks.flatten(3), means.flatten(3)).view_as(keys)
        self._key_error.append(_error(self._quantised_keys, inside))

    def _store_values(self, values: Tensor) -> None:
        """Quantise values; outliers are chosen in each token over its heads."""
        rows = values.float().transpose(1, 2)
        groups = rows.unflatten(3, (-1, self.method.group_size))
        means = groups.mean(dim=4, keepdim=True).expand_as(groups)
        inside = self._value_outliers.take(rows.flatten(2)[:, None], means.flatten(2)[:, None])
        self._value_error.append(_error(self._quantised_values, inside.view_as(rows).transpose(1, 2)))

    def _read_keys(self, out: Tensor) -> None:
        super()._read_keys(out)
        self._key_error.add_to(out)
        blocks = out.unflatten(2, (-1, self.method.group_size)).flatten(3)
        blocks.scatter_(3, self._key_outliers.places, self._key_outliers.entries.to(out.dtype))

    def _read_values(self, out: Tensor) -> None:
        super()._read_values(out)
        self._value_error.add_to(out)
        places = self._value_outliers.places[:, 0]
        bsz, _, tokens, head_dim = out.shape
        sequence = torch.arange(bsz, device=out.device)[:, None, None]
        token = torch.arange(tokens, device=out.device)[:, None]
        entries = self._value_outliers.entries[:, 0].to(out.dtype)
        out[sequence, places // head_dim, token, places % head_dim] = entries


class Outliers:
    """The largest and the smallest entries of each set, with their 16-bit indices."""

    def __init__(self, tokens: Callable[[str], Tokens], name: str, *, share: float) -> None:
        self._entries = tokens(f"outliers/{name}/entries")
        self._indices = tokens(f"outliers/{name}/indices")
        self._share = share

    def take(self, entries: Tensor, means: Tensor) -> Tensor:
        """Keep the outliers of each set, and return the entries with means in their place.

        Parameters
        ----------
        entries, means : Tensor, fp32, shape (bsz, heads, sets, set's entries)
            The entries, and the mean of each one's group.
        """
        count = rounded_up(self._share / 2 * entries.shape[3])
        deviations = entries - means
        tails = [deviations.topk(count, largest=largest).indices for largest in (True, False)]
        indices = torch.cat(tails, dim=3)
        self._entries.append(entries.gather(3, indices).half())
        self._indices.append((indices - INDEX_OFFSET).to(torch.int16))
        return entries.scatter(3, indices, means.gather(3, indices))

    @property
    def entries(self) -> Tensor:
        """The outliers, fp16, shape (bsz, heads, sets, outliers of a set)."""
        return self._entries.view

    @property
    def places(self) -> Tensor:
        """Their indices in the set, int64, same shape."""
        return self._indices.view.to(torch.int64) + INDEX_OFFSET


class LowRank:
    """Errors of shape (bsz, heads, tokens, head_dim) as A · Bᵀ, with the orthonormal B of the first ones.

    Rows of A, one a token, are the errors' projections on B.
    """

    def __init__(self, tokens: Callable[[str], Tokens], name: str, *, share: float) -> None:
        self._rows = tokens(f"low_rank/{name}/rows")
        self._basis = tokens(f"low_rank/{name}/basis")
        self._share = share

    def append(self, errors: Tensor) -> None:
        """Approximate the errors of further tokens, fp32."""
        if not len(self._basis):
            self._basis.append(principal_basis(errors, rounded_up(self._share * errors.shape[3])).half())
        self._rows.append((errors @ self._basis.view.float()).half())

    def add_to(self, out: Tensor) -> None:
        """Add the approximation to a tensor of shape (bsz, heads, tokens, head_dim)."""
        rows, basis = (kept.view.to(out.dtype).flatten(0, 1) for kept in (self._rows, self._basis))
        out.flatten(0, 1).baddbmm_(rows, basis.mT)


def principal_basis(errors: Tensor, rank: int) -> Tensor:
    """Find the directions that errors lean to by power iteration, from a start that is always the same.

    Parameters
    ----------
    errors : Tensor, fp32, shape (..., tokens, head_dim)
    rank : int

    Returns
    -------
    Tensor
        Orthonormal columns, shape (..., head_dim, rank).
    """
    generator = torch.Generator(errors.device).manual_seed(0)
    rows = torch.randn(errors.shape[-2], rank, generator=generator, device=errors.device)
    basis: Tensor = torch.linalg.qr(errors.mT @ rows).Q
    for _ in range(POWER_ITERATIONS - 1):
        basis = torch.linalg.qr(errors.mT @ (errors @ basis)).Q
    return basis


def _error(quantised: QuantisedTokens, entries: Tensor) -> Tensor:
    """Quantise entries, fp32, and return by how much they come back too small."""
    quantised.append(entries)
    return entries - quantised.read(torch.empty_like(entries), since=len(quantised) - entries.shape[2])

"""What an operator's time depends on: the three families of operators, their physics terms and features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvpred.errors import UsageError

FloatArray = NDArray[np.float64]
Terms = dict[str, FloatArray]

VIDUR_TOKEN_ROUNDING = 8
"""Vidur looks tokens up rounded up to this (vidur 0.0.26, ``vidur/entities/batch.py``)."""

VIDUR_KV_ROUNDING = 256
"""Vidur looks KV lengths up rounded up to this (0.0.26, ``kv_cache_prediction_granularity``)."""


@dataclass(frozen=True, slots=True)
class Family:
    """Operators whose time depends on the same numbers in the same way.

    Parameters
    ----------
    name : str
    inputs : tuple of str
        What the time depends on, in the order of the regressors' columns: tokens and sequences.
    terms : callable
        ``terms(inputs, reach)`` returns the non-negative physics terms by name; `reach` are the largest
        inputs of the training data, beyond half of which no knee is placed: it could not be told from a line,
        but would bend the extrapolation.
    plain : tuple of str
        Terms of a kernel without tiles and without knees.
    learnt : callable
        Features for trees: the inputs and how full the last tile is.
    vidur : callable
        The features that Vidur trains its forests on.
    vidur_rounding : tuple of int
        What Vidur rounds each input up to before it looks a time up.
    """

    name: str
    inputs: tuple[str, ...]
    terms: Callable[[FloatArray, FloatArray], Terms]
    plain: tuple[str, ...]
    learnt: Callable[[FloatArray], FloatArray]
    vidur: Callable[[FloatArray], FloatArray]
    vidur_rounding: tuple[int, ...]

    def check(self, inputs: ArrayLike) -> FloatArray:
        """Return inputs as an array of shape (n, n_inputs).

        Raises
        ------
        UsageError
            If the shape is wrong or a value is negative or not finite.
        """
        array = np.asarray(inputs, dtype=np.float64)
        if array.ndim != 2 or array.shape[1] != len(self.inputs):
            raise UsageError(
                f"inputs of shape {array.shape}: expected one column each for {', '.join(self.inputs)}"
            )
        bad = np.flatnonzero(~(np.isfinite(array) & (array >= 0)).all(axis=1))
        if bad.size:
            raise UsageError(f"row {bad[0]}: {', '.join(self.inputs)} must be finite and not negative")
        return array

    def stack(self, values: Mapping[str, ArrayLike | None]) -> tuple[FloatArray, tuple[int, ...]]:
        """Return named, mutually broadcast inputs as rows, and the shape that they broadcast to.

        Raises
        ------
        UsageError
            If one is missing, or their shapes do not fit together.
        """
        missing = [name for name in self.inputs if values.get(name) is None]
        if missing:
            raise UsageError(f"this operator's time depends on {', '.join(self.inputs)}: give {missing[0]}")
        arrays: list[Any] = [np.asarray(values[name], dtype=np.float64) for name in self.inputs]
        try:
            columns = np.broadcast_arrays(*arrays)
        except ValueError:
            shapes = ", ".join(f"{n} {a.shape}" for n, a in zip(self.inputs, arrays, strict=True))
            raise UsageError(f"shapes do not fit together: {shapes}") from None
        return np.stack([column.ravel() for column in columns], axis=1), columns[0].shape


def family_of(operator: str) -> Family:
    """Return the family of an operator, which the end of its name tells (as Vidur names them).

    Examples
    --------
    >>> family_of("attn_decode").inputs, family_of("mlp_act").inputs
    (('batch_size', 'kv_len'), ('num_tokens',))
    """
    stage = operator.rpartition("_")[2]
    return FAMILIES[stage if stage in (DECODE.name, PREFILL.name) else TOKENS.name]


def _tiles(x: FloatArray, tile: int) -> FloatArray:
    """Return `x` rounded up to whole tiles: kernels work on all rows of a tile, filled or not."""
    filled: FloatArray = np.ceil(x / tile) * tile
    return filled


def _levels(name: str, x: FloatArray, places: Iterable[int], reach: float) -> Terms:
    """Return what levels off (a device filling up, a rate getting better) at each place."""
    return {f"min({name},{place})": np.minimum(x, place) for place in places if 2 * place <= reach}


def _knees(name: str, x: FloatArray, places: Iterable[int], reach: float, times: FloatArray | float) -> Terms:
    """Return what levels off (a device filling up) and what sets in (a cache overflowing) at each place."""
    terms = {}
    for place in places:
        if 2 * place <= reach:
            terms[f"min({name},{place})"] = np.minimum(x, place) * times
            terms[f"max({name}-{place},0)"] = np.maximum(x - place, 0) * times
    return terms


def _token_terms(inputs: FloatArray, reach: FloatArray) -> Terms:
    """Launch, bytes and FLOPs per token, GEMM tiles, and knees: from GEMV to GEMM, the roofline's octaves."""
    tokens = inputs[:, 0]
    terms = {"1": np.ones_like(tokens), "tokens": tokens}
    terms |= {f"ceil(tokens,{tile})": _tiles(tokens, tile) for tile in (64, 128, 256)}
    return terms | _knees("tokens", tokens, (2, *(2**i for i in range(4, 12))), reach[0], 1.0)


def _decode_terms(inputs: FloatArray, reach: FloatArray) -> Terms:
    """Launch, queries, KV read, the longest sequence, and how both fill caches and multiprocessors."""
    bsz, kv_len = inputs.T
    kv_read = bsz * kv_len
    terms = {"1": np.ones_like(bsz), "bsz": bsz, "kv_len": kv_len, "bsz*kv_len": kv_read}
    terms |= _knees("bsz*kv_len", kv_read, (2**i for i in range(10, 17, 2)), reach[0] * reach[1], 1.0)
    by_batch = _knees("bsz", bsz, (2, 8, 32), reach[0], kv_len)
    return terms | {f"kv_len*{name}": term for name, term in by_batch.items()}


def _prefill_terms(inputs: FloatArray, reach: FloatArray) -> Terms:
    """Launch, then per sequence: queries, prefix read, queries x prefix, and the causal square, in tiles.

    The causal square and the rectangle over the prefix are separate terms, for kernels run them at different
    rates. Rates get better with the tokens of the step, and with longer chunks, which get larger tiles.
    """
    bsz, chunk, kv_len = inputs.T
    terms = {"1": np.ones_like(bsz), "kv_len": bsz * kv_len}
    rows = {"chunk": chunk} | {f"ceil(chunk,{tile})": _tiles(chunk, tile) for tile in (64, 128)}
    for name, row in rows.items():
        terms |= {name: bsz * row, f"{name}*kv_len": bsz * row * kv_len, f"{name}^2": bsz * row**2}
    tokens = bsz * chunk
    terms |= _levels("tokens", tokens, (2**i for i in range(6, 12)), reach[0] * reach[1])
    by_chunk = _levels("chunk", chunk, (2**i for i in range(7, 12)), reach[1])
    return terms | {f"tokens*{name}": tokens * term for name, term in by_chunk.items()}


def _prefill_learnt(inputs: FloatArray) -> FloatArray:
    """Return the inputs and the fill of the last tile of 128 queries and of 128 keys."""
    return np.column_stack([inputs, inputs[:, 1:] % 128])


def _as_they_are(inputs: FloatArray) -> FloatArray:
    return inputs


def _prefill_vidur(inputs: FloatArray) -> FloatArray:
    """Return KV length and chunk, as 0.0.26; Vidur's main branch squares the chunk, which a tree ignores."""
    return inputs[:, [2, 1]]


TOKENS = Family(
    name="tokens",
    inputs=("num_tokens",),
    terms=_token_terms,
    plain=("1", "tokens"),
    learnt=_as_they_are,
    vidur=_as_they_are,
    vidur_rounding=(VIDUR_TOKEN_ROUNDING,),
)
DECODE = Family(
    name="decode",
    inputs=("batch_size", "kv_len"),
    terms=_decode_terms,
    plain=("1", "bsz", "kv_len", "bsz*kv_len"),
    learnt=_as_they_are,
    vidur=_as_they_are,
    vidur_rounding=(1, VIDUR_KV_ROUNDING),
)
PREFILL = Family(
    name="prefill",
    inputs=("batch_size", "prefill_chunk_size", "kv_len"),
    terms=_prefill_terms,
    plain=("1", "chunk", "chunk^2", "kv_len", "chunk*kv_len"),
    learnt=_prefill_learnt,
    vidur=_prefill_vidur,
    vidur_rounding=(1, 1, VIDUR_KV_ROUNDING),
)
FAMILIES: Mapping[str, Family] = {family.name: family for family in (TOKENS, DECODE, PREFILL)}

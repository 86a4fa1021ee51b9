"""What methods count in: a device's heads, traffic, and checked arrays of whole numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvpred.errors import UsageError

IntArray = NDArray[np.int64]
Ints = int | IntArray
"""Whole numbers: one, or an array of them."""

Floats = float | NDArray[Any]
"""Real numbers: one, or an array of them (float64 in results)."""

MAX_TOKENS = 10**7
MAX_BSZ = 10**5
"""Limits of what is asked, so that byte counts stay exact in 64 bits."""

BYTES_16BIT = 2


@dataclass(frozen=True, slots=True)
class Heads:
    """The attention of one layer on one device.

    Parameters
    ----------
    q, kv : int
        Query heads and KV heads on this device.
    dim : int
        Channels of a head.
    """

    q: int
    kv: int
    dim: int

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values in 16 bit."""
        return 2 * BYTES_16BIT * self.kv * self.dim


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an operation moves and computes on one device.

    Parameters
    ----------
    read_bytes, write_bytes : float or ndarray
        Bytes read from and written to device memory.
    flops : float or ndarray
        Floating-point operations.
    """

    read_bytes: Floats = 0.0
    write_bytes: Floats = 0.0
    flops: Floats = 0.0

    def __add__(self, other: Traffic) -> Traffic:
        """Add two operations' bytes and FLOPs."""
        return Traffic(
            self.read_bytes + other.read_bytes,
            self.write_bytes + other.write_bytes,
            self.flops + other.flops,
        )

    def __mul__(self, times: int) -> Traffic:
        """Repeat the operation `times` times."""
        return Traffic(self.read_bytes * times, self.write_bytes * times, self.flops * times)


def causal_pairs(prompt_len: IntArray) -> NDArray[np.float64]:
    """Count the pairs of tokens that causal attention over a prompt compares."""
    return prompt_len * (prompt_len + 1.0) / 2


def plain_ints(values: Any) -> Ints:
    """Turn a numpy scalar into a Python int, and leave arrays as int64 arrays of their own."""
    array = np.array(values, dtype=np.int64)
    return int(array) if array.ndim == 0 else array


def plain_traffic(traffic: Traffic, *, like: IntArray) -> Traffic:
    """Bring every field to the lengths' shape: Python floats for one length."""
    values = (traffic.read_bytes, traffic.write_bytes, traffic.flops)
    if like.ndim == 0:
        return Traffic(*(float(v) for v in values))
    return Traffic(*(np.array(np.broadcast_to(v, like.shape), dtype=np.float64) for v in values))


def lengths(kv_len: Ints, prompt_len: Ints | None) -> tuple[IntArray, IntArray]:
    """Take lengths as arrays of one shape; without a prompt's length, all of the sequence was prompt."""
    tokens = whole("kv_len", kv_len, high=MAX_TOKENS)
    if prompt_len is None:
        return tokens, tokens
    prompt = whole("prompt_len", prompt_len, high=MAX_TOKENS)
    tokens, prompt = np.broadcast_arrays(tokens, prompt)
    if np.any(prompt > tokens):
        raise UsageError(f"prompt_len={prompt.max()} must not exceed kv_len={tokens.min()}.")
    return tokens, prompt


def whole(what: str, values: Ints, *, high: int, low: int = 0) -> IntArray:
    """Take whole numbers from `low` to `high` as an int64 array."""
    array = np.asarray(values)
    if array.dtype.kind == "O" and all(isinstance(value, int) for value in array.flat):
        raise UsageError(f"{what}={str(values)[:80]} must be between {low} and {high:,}.")
    if array.dtype.kind not in "iu":
        raise UsageError(f"{what}={str(values)[:80]} must be whole numbers.")
    if array.size and (array.min() < low or array.max() > high):
        wrong = array.min() if array.min() < low else array.max()
        raise UsageError(f"{what}={wrong} must be between {low} and {high:,}.")
    return array.astype(np.int64, copy=False)

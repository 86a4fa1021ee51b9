"""Predict how much device memory a batch needs, and the largest batch that fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvpred.errors import UsageError
from kvpred.hardware import DEFAULT_RESERVE_BYTES, DeviceSpec
from kvpred.methods import Ints, Method
from kvpred.methods.quantities import MAX_BSZ, MAX_TOKENS, IntArray, plain_ints, whole
from kvpred.models import ModelSpec

ACTIVATION_BYTES = 2
"""16-bit activations."""

LOGIT_BYTES = 4
"""Logits are sampled from in fp32."""

MAX_BLOCK_TOKENS = 2**16
MAX_RESERVE_BYTES = 2**50
WHOLE_BATCH = MAX_BSZ * MAX_TOKENS
"""More tokens than any batch has."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes on each device, and what they allow. Fields that vary with the request are arrays if it was.

    Parameters
    ----------
    weights_bytes : int
        The model's weights.
    kv_cache_bytes : int or ndarray
        The cache at the end of decoding (prompt_len + output_len - 1 tokens), exact, without page rounding.
    kv_cache_parts : mapping of str to int or ndarray
        The same by component.
    page_rounding_bytes : int or ndarray
        What whole pages add to it: each empty slot of a sequence's last page costs what its average stored
        token does.
    activation_bytes : int or ndarray
        Largest live tensors of one layer during prefill, and the logits of each sequence's last token.
    prefill_transient_bytes : int or ndarray
        The cache when the prompt has passed but is not yet quantised or evicted, all layers.
    reserve_bytes : int
        What the engine holds beside all this.
    peak_memory_bytes : int or ndarray
        Weights, activations, reserve, and the larger of the prefill's transient and the rounded cache.
    usable_bytes : int
        What may be used of the device's memory.
    fits : bool or ndarray of bool
        Whether the peak is within the usable bytes.
    max_bsz : int or ndarray
        Largest batch of such sequences that fits; 0 if none does.
    """

    weights_bytes: int
    kv_cache_bytes: Ints
    kv_cache_parts: Mapping[str, Ints]
    page_rounding_bytes: Ints
    activation_bytes: Ints
    prefill_transient_bytes: Ints
    reserve_bytes: int
    peak_memory_bytes: Ints
    usable_bytes: int
    fits: bool | NDArray[np.bool_]
    max_bsz: Ints


@dataclass(frozen=True, slots=True)
class _PerSequence:
    """Bytes of one sequence, without what all sequences share."""

    transient: IntArray
    cache: IntArray
    rounding: IntArray

    @property
    def held(self) -> IntArray:
        """The larger of the prefill's transient and the rounded cache at the end."""
        larger: IntArray = np.maximum(self.transient, self.cache + self.rounding)
        return larger


def predict_memory(
    model: ModelSpec,
    method: Method,
    device: DeviceSpec,
    *,
    bsz: Ints,
    prompt_len: Ints,
    output_len: Ints = 256,
    tp: int = 1,
    weight_bits: int = 16,
    block_tokens: int = 1,
    prefill_tokens: int | None = None,
    reserve_bytes: int = DEFAULT_RESERVE_BYTES,
    memory_utilization: float = 0.9,
) -> MemoryEstimate:
    """Predict the bytes that a batch needs on each device.

    Parameters
    ----------
    model, method, device
        What is served, how its cache is compressed, and on what.
    bsz, prompt_len, output_len : int or ndarray of int
        Sequences, and each one's tokens; broadcast together.
    tp : int
        Tensor-parallel degree.
    weight_bits : int
        Width of the weights (see `ModelSpec.weight_bytes`).
    block_tokens : int
        Tokens in a page of the engine's cache; 1 if it is not paged.
    prefill_tokens : int, optional
        Most tokens of the batch that pass the layers at a time; all of them, if not given.
    reserve_bytes : int
        What the engine holds beside weights, activations and cache; an assumption of about 1 GiB.
    memory_utilization : float
        Share of the device's memory that may be used, above 0 and at most 1.

    Returns
    -------
    MemoryEstimate
        Integers for one request, arrays of the broadcast shape for several.

    Raises
    ------
    UsageError
        If a number is out of range, or `tp` does not divide the model's heads.

    Notes
    -----
    Activations of a layer, in 16 bit per token: residual stream and its norm (2 · hidden), and the larger of
    queries, keys, values and attention's output ((2 · n_q_heads + 2 · n_kv_heads) · head_dim / tp) and the
    MLP's two inner tensors (2 · intermediate / tp); then fp32 logits over the whole vocabulary for one token
    of each sequence. The prefill's transient takes all layers' prompt as uncompressed at once: an upper bound
    for implementations that compress layer by layer, tight for chunked and paged prefill of a whole batch.

    Examples
    --------
    >>> from kvpred.hardware import get_device
    >>> from kvpred.methods import get_method
    >>> from kvpred.models import get_model
    >>> a6000, fp16 = get_device("a6000"), get_method("fp16")
    >>> predict_memory(get_model("llama-2-7b"), fp16, a6000, bsz=32, prompt_len=2048).fits
    False
    """
    sequences, prompt, output = np.broadcast_arrays(
        _check_range("bsz", bsz, low=1, high=MAX_BSZ),
        _check_range("prompt_len", prompt_len, low=1, high=MAX_TOKENS),
        _check_range("output_len", output_len, low=1, high=MAX_TOKENS),
    )
    _check_range("block_tokens", block_tokens, low=1, high=MAX_BLOCK_TOKENS)
    _check_range("reserve_bytes", reserve_bytes, low=0, high=MAX_RESERVE_BYTES)
    if prefill_tokens is not None:
        _check_range("prefill_tokens", prefill_tokens, low=1, high=WHOLE_BATCH)
    if not 0 < memory_utilization <= 1:
        raise UsageError(f"memory_utilization={memory_utilization} must be above 0 and at most 1.")

    kv_len = prompt + output - 1
    weights = model.weight_bytes(weight_bits=weight_bits, tp=tp)
    usable = int(memory_utilization * device.memory_bytes)
    shared = int(method.cache_bytes(model, bsz=0, kv_len=0, tp=tp))
    each = _per_sequence(model, method, kv_len=kv_len, prompt_len=prompt, tp=tp, block_tokens=block_tokens)
    chunk = prefill_tokens or WHOLE_BATCH
    token, logits = _activation_bytes(model, tp=tp)

    activations = np.minimum(sequences * prompt, chunk) * token + sequences * logits
    peak = weights + reserve_bytes + activations + each.held * sequences + shared
    largest = _max_bsz(
        each.held + logits,
        budget=usable - weights - reserve_bytes - shared,
        prefill=prompt * token,
        chunk=chunk * token,
    )
    fits = peak <= usable
    return MemoryEstimate(
        weights_bytes=weights,
        kv_cache_bytes=plain_ints(each.cache * sequences + shared),
        kv_cache_parts=method.cache_parts(model, bsz=sequences, kv_len=kv_len, prompt_len=prompt, tp=tp),
        page_rounding_bytes=plain_ints(each.rounding * sequences),
        activation_bytes=plain_ints(activations),
        prefill_transient_bytes=plain_ints(each.transient * sequences + shared),
        reserve_bytes=reserve_bytes,
        peak_memory_bytes=plain_ints(peak),
        usable_bytes=usable,
        fits=bool(fits) if fits.ndim == 0 else fits,
        max_bsz=plain_ints(largest),
    )


def _per_sequence(
    model: ModelSpec, method: Method, *, kv_len: IntArray, prompt_len: IntArray, tp: int, block_tokens: int
) -> _PerSequence:
    def count(values: Ints) -> IntArray:
        return np.asarray(values, dtype=np.int64)

    shared = count(method.cache_bytes(model, bsz=0, kv_len=0, tp=tp))
    cache = count(method.cache_bytes(model, bsz=1, kv_len=kv_len, prompt_len=prompt_len, tp=tp)) - shared
    transient = count(method.prefill_cache_bytes(model, bsz=1, prompt_len=prompt_len, tp=tp)) - shared
    stored = count(method.stored_tokens(kv_len, prompt_len=prompt_len))
    empty = -stored % block_tokens
    return _PerSequence(transient=transient, cache=cache, rounding=-(-cache * empty // stored))


def _activation_bytes(model: ModelSpec, *, tp: int) -> tuple[int, int]:
    """Prefill activations per token, and logits per sequence."""
    attention = 2 * (model.n_q_heads + model.n_kv_heads) // tp * model.head_dim
    mlp = 2 * model.intermediate_size // tp
    return ACTIVATION_BYTES * (2 * model.hidden_size + max(attention, mlp)), LOGIT_BYTES * model.vocab_size


def _max_bsz(sequence: IntArray, *, budget: int, prefill: IntArray, chunk: int) -> IntArray:
    """Solve bsz · sequence + min(bsz · prefill, chunk) <= budget for the largest whole bsz.

    The minimum is below the budget's rest as soon as either of its sides is, so the larger solution counts.
    """
    whole_batch = budget // (sequence + prefill)
    chunked = (budget - chunk) // sequence
    found: IntArray = np.maximum(np.maximum(whole_batch, chunked), 0)
    return found


def _check_range(what: str, values: Ints, *, low: int, high: int) -> IntArray:
    """Take whole numbers from `low` to `high` as an int64 array."""
    numbers = whole(what, values, high=high)
    smallest = numbers.min(initial=high)
    if smallest < low:
        raise UsageError(f"{what}={smallest} must be at least {low}.")
    return numbers

"""The bytes that requests hold in a replica's KV cache, exact for every method and every length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvpred.hardware import EngineSpec
from kvpred.methods import Method
from kvpred.predictors.memory import MemoryEstimate, predict_memory
from kvpred.predictors.scaling import Place

IntArray = NDArray[np.int64]

# Token positions whose bytes are computed together.
_TOGETHER = 200_000


@dataclass(frozen=True, slots=True)
class Holding:
    """What one request holds, in bytes.

    Parameters
    ----------
    prompt_bytes : int
        While its prompt passes: the larger of the uncompressed prompt and what is kept of it.
    held_bytes : array of int
        Afterwards, when it has stored 0, 1, 2, … tokens of its answer.
    """

    prompt_bytes: int
    held_bytes: IntArray

    @property
    def most_bytes(self) -> int:
        """The most that it ever holds."""
        return max(self.prompt_bytes, int(self.held_bytes.max()))


@dataclass(frozen=True, slots=True)
class CacheBudget:
    """What a replica's cache may hold, and what each request holds of it.

    Counted in bytes, with the engine's page rounding, not in pages of one size: a page of a quantised cache
    has other bytes when its tokens are still in 16 bit, and evicting methods give pages back.

    Parameters
    ----------
    place : Place
    method : Method
    block_tokens : int
        Tokens in a page.
    capacity_bytes : int
        Usable bytes of a device without weights, the engine's reserve, the activations of the largest step,
        and what the method stores once for all requests.
    """

    place: Place
    method: Method
    block_tokens: int
    capacity_bytes: int

    @classmethod
    def of(
        cls,
        place: Place,
        method: Method,
        engine: EngineSpec,
        *,
        max_bsz: int,
        step_tokens: int,
        weight_bits: int = 16,
        memory_utilization: float = 0.9,
    ) -> CacheBudget:
        """Return what is left for the cache.

        Parameters
        ----------
        place : Place
        method : Method
        engine : EngineSpec
        max_bsz : int
            Most requests at once, of each of which a step computes logits.
        step_tokens : int
            Most tokens that a step passes through the layers.
        weight_bits, memory_utilization
            As in `predict_memory`.
        """
        chunk = min(step_tokens, engine.prefill_tokens or step_tokens)
        largest = predict_memory(
            place.model,
            method,
            place.device,
            bsz=max_bsz,
            prompt_len=-(-chunk // max_bsz),
            output_len=1,
            tp=place.tp,
            weight_bits=weight_bits,
            prefill_tokens=chunk,
            reserve_bytes=engine.reserve_bytes,
            memory_utilization=memory_utilization,
        )
        beside = largest.weights_bytes + largest.reserve_bytes + int(largest.activation_bytes)
        shared = int(method.cache_bytes(place.model, bsz=0, kv_len=0, tp=place.tp))
        return cls(place, method, engine.block_tokens, largest.usable_bytes - beside - shared)

    def holding(self, prompt_len: int, output_len: int) -> Holding:
        """Return what one request holds."""
        return next(self.holdings(np.array([prompt_len]), np.array([output_len])))

    def holdings(self, prompt_len: IntArray, output_len: IntArray) -> Iterator[Holding]:
        """Return what each of many requests holds, in their order.

        Parameters
        ----------
        prompt_len, output_len : array of int, shape (n,)
            The last token of an answer is never stored.
        """
        first = 0
        ends = np.cumsum(output_len)
        while first < len(ends):
            last = max(first + 1, int(np.searchsorted(ends, ends[first] + _TOGETHER)))
            yield from self._together(prompt_len[first:last], output_len[first:last])
            first = last

    def _together(self, prompt_len: IntArray, output_len: IntArray) -> Iterator[Holding]:
        begins = np.cumsum(output_len) - output_len
        answered = np.arange(int(output_len.sum())) - np.repeat(begins, output_len)
        memory = self._alone(np.repeat(prompt_len, output_len), answered + 1)
        shared = int(self.method.cache_bytes(self.place.model, bsz=0, kv_len=0, tp=self.place.tp))
        held: IntArray = np.asarray(memory.kv_cache_bytes + memory.page_rounding_bytes - shared)
        transient = np.asarray(memory.prefill_transient_bytes)[begins] - shared
        prompts = np.maximum(transient, held[begins]).tolist()
        yield from (
            Holding(prompt, own) for prompt, own in zip(prompts, np.split(held, begins[1:]), strict=True)
        )

    def _alone(self, prompt_len: IntArray, output_len: IntArray) -> MemoryEstimate:
        return predict_memory(
            self.place.model,
            self.method,
            self.place.device,
            bsz=1,
            prompt_len=prompt_len,
            output_len=output_len,
            tp=self.place.tp,
            block_tokens=self.block_tokens,
        )

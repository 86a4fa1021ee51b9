"""A real stack of layers to time operators in: prompts pass it, or caches are filled as if they had."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvpred.caches import CacheLayer, MethodCache, cache_for
from kvpred.methods import Method
from kvpred.models import ModelSpec


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """A causal language model on a device, perhaps of fewer layers than the model it stands for.

    Parameters
    ----------
    model : PreTrainedModel
    spec : ModelSpec
        The whole model.
    n_layers : int
        Layers that the stack has.
    generator : torch.Generator
        Where tokens, keys and values come from; on the model's device.
    """

    model: Any
    spec: ModelSpec
    n_layers: int
    generator: torch.Generator

    @property
    def device(self) -> torch.device:
        """Where the stack runs."""
        return torch.device(self.model.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, keys and values."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    def empty_cache(self, method: Method) -> MethodCache:
        """Return a cache that nothing passed yet."""
        return cache_for(self.model, method)

    def filled_cache(self, method: Method, *, bsz: int, length: int) -> MethodCache:
        """Return a cache as a prompt of random keys and values would leave it.

        The prompt does not pass the model, which would take much longer than what is then timed; every layer
        holds tensors of its own, so that none is found in the processor's caches.

        Parameters
        ----------
        method : Method
        bsz, length : int
            Sequences, and tokens of each.
        """
        cache = self.empty_cache(method)
        first: Any = cache.layers[0]
        query = self._random(bsz, self.spec.n_q_heads, length) if first.needs_queries else None
        key, value = (self._random(bsz, self.spec.n_kv_heads, length) for _ in range(2))
        first.lazy_initialization(key, value)
        first.compress(query, key, value, self.spec.head_dim**-0.5)
        first.seen = length
        del query, key, value
        cache.layers[1:] = [_twin(first) for _ in cache.layers[1:]]
        return cache

    def tokens(self, *, bsz: int, length: int) -> Tensor:
        """Return random token ids, shape (bsz, length)."""
        high = self.spec.vocab_size
        return torch.randint(high, (bsz, length), generator=self.generator, device=self.device)

    def step(self, tokens: Tensor, cache: MethodCache) -> Tensor:
        """Pass tokens through the stack and choose each sequence's next token, shape (bsz, 1)."""
        logits = self.model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        chosen: Tensor = logits[:, -1].argmax(dim=-1, keepdim=True)
        return chosen

    def _random(self, bsz: int, heads: int, length: int) -> Tensor:
        shape = (bsz, heads, length, self.spec.head_dim)
        return torch.randn(shape, generator=self.generator, device=self.device, dtype=self.dtype)


def _twin(layer: CacheLayer[Any]) -> CacheLayer[Any]:
    """Return a layer that holds the same in memory of its own."""
    return copy.deepcopy(layer)

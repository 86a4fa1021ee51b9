"""What every method's cache layer shares: its order of operators, padding, bytes, transformers' interface."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from kvpred.caches.attention import causal_attention, decode_attention
from kvpred.caches.tokens import Tokens
from kvpred.errors import UsageError
from kvpred.methods import Method

M = TypeVar("M", bound=Method)


class CacheLayer(CacheLayerMixin, Generic[M]):
    """One layer's cache under a compression method, as tensors.

    The prompt passes `attend_prompt`, then `compress`; each further token passes `append`, `attend`, `evict`.
    These five are the operators that `kvpred profile` times. A subclass stands in the file named as its
    method's, sets `method_type`, keeps what each sequence owns in `Tokens` made by `_tokens` and what all
    sequences share in `shared`, and overrides the operators that differ.

    Keys and queries come rotated (RoPE), with their original positions. Tensors have shape
    (bsz, heads, tokens, head_dim): KV heads for keys and values, query heads for queries.

    Parameters
    ----------
    method : Method
        The method with its parameters.

    Attributes
    ----------
    seen : int
        Tokens that have passed, evicted ones included.
    n_pad : Tensor or None
        Left padding of each sequence in tokens, int64, shape (bsz,); None without any.
    """

    method_type: ClassVar[type[Method]]

    needs_queries: ClassVar[bool] = False
    """Whether the method asks for queries or padding, which only kvpred's own attention hands over."""

    is_croppable = False

    def __init__(self, method: M) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.method = method
        self.seen = 0
        self.n_pad: Tensor | None = None
        self.sequences: dict[str, Tokens] = {}
        self.shared: dict[str, Tensor] = {}

    # The operators:

    def attend_prompt(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Attend causally over the whole prompt in 16 bit.

        Returns
        -------
        Tensor
            Shape (bsz, query heads, tokens, head_dim).
        """
        return causal_attention(query, key, value, scaling, n_pad=self.n_pad)

    @abstractmethod
    def compress(self, query: Tensor | None, key: Tensor, value: Tensor, scaling: float) -> None:
        """Take the whole prompt into the empty cache; `query` is None unless `needs_queries`."""

    @abstractmethod
    def append(self, key: Tensor, value: Tensor) -> None:
        """Take one token's keys and values into the cache."""

    def attend(self, query: Tensor, scaling: float) -> Tensor:
        """Attend from one token, whose own entry was appended, to the cache.

        Parameters
        ----------
        query : Tensor, shape (bsz, query heads, 1, head_dim)
        scaling : float

        Returns
        -------
        Tensor
            Shape (bsz, query heads, 1, head_dim).
        """
        keys, values = self.materialise()
        return decode_attention(query, keys, values, scaling, mask=self._mask(keys.shape[2]))

    def evict(self) -> None:
        """Let go of what the method drops after a decode step."""

    @abstractmethod
    def materialise(self) -> tuple[Tensor, Tensor]:
        """Return the stored keys and values in the model's dtype, in the order of their positions or not."""

    # What others ask:

    @property
    def period(self) -> int:
        """Decode steps between two bulk compressions; 1 if all steps do the same work."""
        return 1

    def parts(self) -> dict[str, int]:
        """Count the bytes of the tensors held, by the components that the method's memory model names."""
        sizes = {name: tokens.nbytes for name, tokens in self.sequences.items()}
        sizes |= {name: tensor.numel() * tensor.element_size() for name, tensor in self.shared.items()}
        total: dict[str, int] = {}
        for name, size in sizes.items():
            part = name.partition("/")[0]
            total[part] = total.get(part, 0) + size
        return total

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors held; spare room is not counted."""
        return sum(self.parts().values())

    # What kvpred's attention and transformers call:

    def step(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float, attention_mask: Tensor | None
    ) -> Tensor:
        """Pass tokens through the cache: the prompt at once, later ones one by one.

        Parameters
        ----------
        query : Tensor, shape (bsz, query heads, tokens, head_dim)
        key, value : Tensor, shape (bsz, KV heads, tokens, head_dim)
        scaling : float
        attention_mask : Tensor or None
            Shape (bsz, tokens so far), false for padding; looked at for the prompt only.

        Returns
        -------
        Tensor
            Attention's output, shape (bsz, query heads, tokens, head_dim).

        Raises
        ------
        UsageError
            If the padding is not on the left.
        """
        if not self.seen:
            self._start(key, attention_mask)
            output = self.attend_prompt(query, key, value, scaling)
            self.compress(query if self.needs_queries else None, key, value, scaling)
            self.seen = key.shape[2]
            return output
        outputs = []
        for token in range(key.shape[2]):
            here = slice(token, token + 1)
            self.append(key[:, :, here], value[:, :, here])
            outputs.append(self.attend(query[:, :, here], scaling))
            self.evict()
            self.seen += 1
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Take tokens under transformers' own attention, and return what it should attend to.

        Raises
        ------
        UsageError
            If the method needs kvpred's attention.
        """
        if self.needs_queries:
            raise UsageError(
                f"{self.method.name} needs the queries and the padding: set the model's attention with "
                "model.set_attn_implementation('kvpred')."
            )
        if not self.seen:
            self._start(key_states, None)
            self.compress(None, key_states, value_states, 1.0)
            self.seen = key_states.shape[2]
            return key_states, value_states
        for token in range(key_states.shape[2]):
            here = slice(token, token + 1)
            self.append(key_states[:, :, here], value_states[:, :, here])
            self.evict()
            self.seen += 1
        return self.materialise()

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Note dtype and device; tensors are made with the first tokens."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Count the tokens that have passed, evicted ones included: the next token's position."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length of the mask over all tokens so far, and its offset."""
        return self.seen + query_length, 0

    def get_max_length(self) -> int:
        """Return -1: no maximum."""
        return -1

    def reset(self) -> None:
        """Forget everything."""
        type(self).__init__(self, self.method)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the sequences with these indices (beam search)."""
        for tokens in self.sequences.values():
            tokens.reorder(beam_idx)
        if self.n_pad is not None:
            self.n_pad = self.n_pad.index_select(0, beam_idx)

    # Help for subclasses:

    def _tokens(self, name: str) -> Tokens:
        """Return the tensor of this name, empty at first; ``part/detail`` counts as `part` of the memory."""
        return self.sequences.setdefault(name, Tokens())

    def _mask(self, length: int) -> Tensor | None:
        """Return which of `length` entries in order of position are no padding, shape (bsz, 1, 1, length)."""
        if self.n_pad is None:
            return None
        positions = torch.arange(length, device=self.n_pad.device)
        return (positions >= self.n_pad[:, None])[:, None, None]

    def _without_padding(self, entries: Tensor) -> Tensor:
        """Put each sequence's first real token in the place of its padding: no group's range widens."""
        if self.n_pad is None:
            return entries
        positions = torch.arange(entries.shape[2], device=entries.device)
        real = torch.maximum(positions, self.n_pad[:, None])[:, None, :, None]
        return entries.gather(2, real.expand_as(entries))

    def _start(self, key: Tensor, attention_mask: Tensor | None) -> None:
        self.lazy_initialization(key, key)
        if attention_mask is None or bool(attention_mask.all()):
            return
        mask = attention_mask.bool()
        if bool((mask[:, :-1] & ~mask[:, 1:]).any()) or not bool(mask[:, -1].all()):
            raise UsageError("kvpred's caches take prompts padded on the left: set padding_side='left'.")
        self.n_pad = (~mask).sum(dim=1)

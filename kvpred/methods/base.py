"""What every KV-cache compression method answers: which tokens it keeps, in what bytes, at what upkeep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NoReturn

import numpy as np

from kvpred.errors import UsageError
from kvpred.methods.quantities import (
    MAX_BSZ,
    MAX_TOKENS,
    Heads,
    IntArray,
    Ints,
    Traffic,
    causal_pairs,
    lengths,
    plain_ints,
    plain_traffic,
    whole,
)
from kvpred.models import ModelSpec


@dataclass(frozen=True)
class Method(ABC):
    """A KV-cache compression method on paper.

    A subclass is a frozen dataclass in a file of its own, each field a parameter with a default. It sets
    `name`, `title` and `paper`, says in `_sequence_parts` what one sequence's cache of one layer is made of,
    and overrides the questions below where the defaults (every token kept and attended, appended in 16 bit,
    no upkeep) do not hold. Questions get 64-bit arrays of broadcast shapes and answer for one layer on one
    device.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]

    def __post_init__(self) -> None:
        """Refuse parameters of another type than their default's."""
        for field in fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if kind is float and type(value) is int:
                object.__setattr__(self, field.name, float(value))
            elif type(value) is not kind:
                self._refuse(field.name, f"of type {kind.__name__}")

    # What others ask:

    @property
    def spec(self) -> str:
        """The method with all its parameters, as `kvpred.methods.get_method` reads it back."""
        parameters = ",".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))
        return f"{self.name}:{parameters}" if parameters else self.name

    def attended_tokens(self, kv_len: Ints, *, prompt_len: Ints | None = None) -> Ints:
        """Count the tokens that one decode step attends to per KV head.

        Parameters
        ----------
        kv_len : int or ndarray of int
            Tokens of the sequence before this step; the step's own token is not counted.
        prompt_len : int or ndarray of int, optional
            How many of them were the prompt; all, if not given.

        Returns
        -------
        int or ndarray of int64
            Tokens, of the broadcast shape.
        """
        kv_len, prompt_len = lengths(kv_len, prompt_len)
        return plain_ints(self._attended(kv_len, prompt_len))

    def stored_tokens(self, kv_len: Ints, *, prompt_len: Ints | None = None) -> Ints:
        """Count the tokens that the cache holds per KV head; parameters as in `attended_tokens`."""
        kv_len, prompt_len = lengths(kv_len, prompt_len)
        return plain_ints(self._stored(kv_len, prompt_len))

    def cache_parts(
        self, model: ModelSpec, *, bsz: Ints, kv_len: Ints, prompt_len: Ints | None = None, tp: int = 1
    ) -> dict[str, Ints]:
        """Count the cache's bytes on one device over all layers, by component.

        Parameters
        ----------
        model : ModelSpec
            The served model.
        bsz : int or ndarray of int
            Sequences; 0 leaves only what all sequences share.
        kv_len, prompt_len : int or ndarray of int
            Tokens of each sequence so far, and how many of them were the prompt (all, if not given).
        tp : int
            Tensor-parallel degree; must divide the heads.

        Returns
        -------
        dict of str to int or ndarray of int64
            Exact bytes of each component, without page rounding.

        Raises
        ------
        UsageError
            If `tp` does not divide the heads, the method does not suit the model, or a number is too large.
        """
        heads = self.heads(model, tp=tp)
        kv_len, prompt_len = lengths(kv_len, prompt_len)
        sequences = whole("bsz", bsz, high=MAX_BSZ)
        shape = np.broadcast_shapes(sequences.shape, kv_len.shape)
        parts: dict[str, Any] = {}
        for part, size in self._sequence_parts(heads, kv_len, prompt_len).items():
            parts[part] = sequences * size
        parts |= self._shared_parts(heads)
        return {k: plain_ints(np.broadcast_to(model.n_layers * v, shape)) for k, v in parts.items()}

    def cache_bytes(
        self, model: ModelSpec, *, bsz: Ints, kv_len: Ints, prompt_len: Ints | None = None, tp: int = 1
    ) -> Ints:
        """Count the cache's bytes on one device over all layers: the sum of `cache_parts`."""
        parts = self.cache_parts(model, bsz=bsz, kv_len=kv_len, prompt_len=prompt_len, tp=tp)
        return sum(parts.values(), start=0)

    def prefill_cache_bytes(self, model: ModelSpec, *, bsz: Ints, prompt_len: Ints, tp: int = 1) -> Ints:
        """Count the cache's bytes on one device when the prompt has passed but is not yet compressed.

        All layers are counted as still uncompressed. An implementation that compresses each layer as soon as
        its attention is done holds less; chunked and paged prefill hold all of it.

        Parameters
        ----------
        model, bsz, prompt_len, tp
            As in `cache_parts`.
        """
        heads = self.heads(model, tp=tp)
        tokens = whole("prompt_len", prompt_len, high=MAX_TOKENS)
        sequences = whole("bsz", bsz, high=MAX_BSZ)
        per_token = self._append_bytes(heads) + self._prompt_statistic_bytes(heads)
        shared = sum(self._shared_parts(heads).values())
        return plain_ints(model.n_layers * (sequences * tokens * per_token + shared))

    def decode_traffic(
        self, model: ModelSpec, *, kv_len: Ints, prompt_len: Ints | None = None, tp: int = 1
    ) -> Traffic:
        """Count what one decode step of one sequence costs in attention and cache upkeep, over all layers.

        Read: everything the sequence's cache stores, once. Written: the new token's entry. FLOPs: the two
        products of attention, 4 per query head, attended token and channel. To these the method adds its own
        upkeep (`_decode_upkeep`). Tables that all sequences share are left out.

        Parameters
        ----------
        model, kv_len, prompt_len, tp
            As in `cache_parts`.

        Returns
        -------
        Traffic
            Floats, of the broadcast shape of the lengths.
        """
        heads = self.heads(model, tp=tp)
        kv_len, prompt_len = lengths(kv_len, prompt_len)
        attention = Traffic(
            sum(self._sequence_parts(heads, kv_len, prompt_len).values(), start=np.zeros_like(kv_len)),
            self._append_bytes(heads),
            4 * heads.q * heads.dim * self._attended(kv_len, prompt_len),
        )
        layer = attention + self._decode_upkeep(heads, kv_len, prompt_len)
        return plain_traffic(layer * model.n_layers, like=kv_len)

    def prefill_traffic(self, model: ModelSpec, *, prompt_len: Ints, tp: int = 1) -> Traffic:
        """Count what the prompt of one sequence costs in attention and cache upkeep, over all layers.

        Read: the prompt's 16-bit keys and values, once (tiled attention re-reads them from on-chip memory).
        Written: the prompt's entries. FLOPs: the two products of causal attention, 4 per query head, channel
        and pair of tokens, prompt_len · (prompt_len + 1) / 2 pairs. To these the method adds its own upkeep
        (`_prefill_upkeep`).

        Parameters
        ----------
        model, prompt_len, tp
            As in `cache_parts`.

        Returns
        -------
        Traffic
            Floats, of the shape of `prompt_len`.
        """
        heads = self.heads(model, tp=tp)
        prompt_len = whole("prompt_len", prompt_len, high=MAX_TOKENS)
        attention = Traffic(
            prompt_len * heads.token_bytes,
            prompt_len * self._append_bytes(heads),
            4 * heads.q * heads.dim * causal_pairs(prompt_len),
        )
        layer = attention + self._prefill_upkeep(heads, prompt_len)
        return plain_traffic(layer * model.n_layers, like=prompt_len)

    def heads(self, model: ModelSpec, *, tp: int) -> Heads:
        """Give one device's share of a layer's heads, once the method is known to suit it.

        Parameters
        ----------
        model : ModelSpec
            The served model.
        tp : int
            Tensor-parallel degree.

        Raises
        ------
        UsageError
            If `tp` does not divide the heads, or the method does not suit the model.
        """
        model.check_tp(tp)
        heads = Heads(q=model.n_q_heads // tp, kv=model.n_kv_heads // tp, dim=model.head_dim)
        self._check_heads(heads)
        return heads

    # What a method answers:

    def _attended(self, kv_len: IntArray, prompt_len: IntArray) -> IntArray:
        """Tokens that a decode step attends to; all, unless overridden."""
        return kv_len

    def _stored(self, kv_len: IntArray, prompt_len: IntArray) -> IntArray:
        """Tokens in the cache; those attended to, unless overridden."""
        return self._attended(kv_len, prompt_len)

    @abstractmethod
    def _sequence_parts(self, heads: Heads, kv_len: IntArray, prompt_len: IntArray) -> dict[str, IntArray]:
        """Bytes of one sequence's cache by component."""

    def _shared_parts(self, heads: Heads) -> dict[str, int]:
        """Bytes by component that are stored once, however many sequences there are."""
        return {}

    def _append_bytes(self, heads: Heads) -> int:
        """Bytes that a new token's keys and values are first written in."""
        return heads.token_bytes

    def _prompt_statistic_bytes(self, heads: Heads) -> int:
        """Bytes per prompt token that stay beside the cache until the prompt is compressed."""
        return 0

    def _decode_upkeep(self, heads: Heads, kv_len: IntArray, prompt_len: IntArray) -> Traffic:
        """What a decode step costs beyond reading the cache, attention and writing the new token."""
        return Traffic()

    def _prefill_upkeep(self, heads: Heads, prompt_len: IntArray) -> Traffic:
        """What a prompt costs beyond causal attention and writing its entries."""
        return Traffic()

    def _check_heads(self, heads: Heads) -> None:  # noqa: B027 (most methods serve any heads)
        """Raise `UsageError` if the method cannot serve heads of this shape."""

    # Help for subclasses:

    def _require(self, parameter: str, holds: bool, allowed: str) -> None:
        """Raise `UsageError` unless a parameter's value is allowed."""
        if not holds:
            self._refuse(parameter, allowed)

    def _refuse(self, parameter: str, allowed: str) -> NoReturn:
        raise UsageError(f"{self.name}: {parameter}={getattr(self, parameter)} must be {allowed}.")

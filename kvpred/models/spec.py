"""The architecture of a served LLM: the numbers that decide its bytes and FLOPs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from kvpred.errors import UsageError

WEIGHT_BITS = (16, 8, 4)
"""Weight widths that `ModelSpec.weight_bytes` knows."""

W4_GROUP = 128
"""Inputs that share one scale and zero at 4 bits (the default of AWQ and GPTQ checkpoints)."""


class Matrix(NamedTuple):
    """One linear layer's weight on one device."""

    n_in: int
    n_out: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A dense decoder-only transformer with (grouped-query) softmax attention and a gated MLP.

    Two are equal if their names and numbers are, wherever these come from.

    Parameters
    ----------
    name : str
        Name used on the command line, such as ``llama-2-7b``.
    hf_id : str
        The model's identifier on the Hugging Face hub, or the path its `config.json` came from.
    n_layers, hidden_size, n_q_heads, n_kv_heads, head_dim, intermediate_size, vocab_size : int
        Architecture, as in the model's ``config.json``.
    max_position : int
        Longest context in tokens that the model was trained for.
    tie_embeddings : bool
        Whether input embedding and LM head share one matrix.
    source : str
        Where the numbers come from.
    qkv_bias, o_bias, mlp_bias : bool
        Whether the query/key/value projections, the output projection and the MLP carry biases.
    qk_norm : bool
        Whether queries and keys pass an RMS norm of `head_dim` weights each.
    sliding_window : int or None
        Attention window of every layer in tokens. Noted only: bytes and FLOPs count the whole sequence, as
        engines do that keep it.

    Examples
    --------
    >>> from kvpred.models import get_model
    >>> round(get_model("llama-2-7b").n_params / 1e9, 2)
    6.74
    """

    name: str
    hf_id: str = field(compare=False)
    n_layers: int
    hidden_size: int
    n_q_heads: int
    n_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position: int
    tie_embeddings: bool
    source: str = field(compare=False)
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None

    @property
    def n_params(self) -> int:
        """Count the trained parameters, embeddings included once if they are tied."""
        linear = sum(m.n_in * m.n_out for m in self._matrices(tp=1))
        return self.n_layers * (linear + self._layer_extras(tp=1)) + self._outer_params(tp=1)

    def check_tp(self, tp: int) -> None:
        """Raise `UsageError` unless `tp` devices can share the heads and the MLP evenly.

        Parameters
        ----------
        tp : int
            Tensor-parallel degree.
        """
        shared = math.gcd(self.n_q_heads, self.n_kv_heads, self.intermediate_size)
        if tp < 1 or shared % tp:
            allowed = ", ".join(str(d) for d in range(1, shared + 1) if shared % d == 0)
            raise UsageError(
                f"tp={tp} does not divide the {self.n_q_heads} query heads, {self.n_kv_heads} KV heads and "
                f"{self.intermediate_size} MLP channels of {self.name}: use one of {allowed}."
            )

    def weight_bytes(self, *, weight_bits: int = 16, tp: int = 1) -> int:
        """Count the weights' bytes on one device.

        Parameters
        ----------
        weight_bits : int
            16, 8 or 4: width of the attention and MLP matrices. Embeddings, LM head, norms and biases
            always stay in 16 bit. At 4 bits each output has, per group of 128 inputs, one fp16 scale and one
            4-bit zero (the AWQ and GPTQ checkpoint layout); at 8 bits one fp16 scale per output.
        tp : int
            Tensor-parallel degree. Matrices are split by heads or MLP channels, embeddings and LM head by
            vocabulary (rounded up), norms are repeated on every device.

        Returns
        -------
        int
            Bytes on each device.

        Raises
        ------
        UsageError
            If `weight_bits` is unknown or `tp` does not divide the heads.

        Examples
        --------
        >>> from kvpred.models import get_model
        >>> round(get_model("llama-2-7b").weight_bytes(weight_bits=4) / 1e9, 2)
        3.89
        """
        self.check_tp(tp)
        if weight_bits not in WEIGHT_BITS:
            allowed = ", ".join(map(str, WEIGHT_BITS))
            raise UsageError(f"weight_bits={weight_bits} is not known: use one of {allowed}.")
        linear = sum(_matrix_bytes(m, weight_bits) for m in self._matrices(tp=tp))
        return self.n_layers * (linear + 2 * self._layer_extras(tp=tp)) + 2 * self._outer_params(tp=tp)

    def kv_bytes_per_token(self, *, tp: int = 1) -> int:
        """Count the bytes that one token's keys and values take in 16 bit, over all layers, on one device.

        Parameters
        ----------
        tp : int
            Tensor-parallel degree.

        Examples
        --------
        >>> from kvpred.models import get_model
        >>> get_model("llama-2-7b").kv_bytes_per_token()
        524288
        """
        self.check_tp(tp)
        return 2 * 2 * self.n_layers * (self.n_kv_heads // tp) * self.head_dim

    def linear_flops_per_token(self, *, tp: int = 1) -> int:
        """Count the FLOPs of all layers' matrices for one token on one device (2 per weight, no LM head).

        Parameters
        ----------
        tp : int
            Tensor-parallel degree.
        """
        self.check_tp(tp)
        return 2 * self.n_layers * sum(m.n_in * m.n_out for m in self._matrices(tp=tp))

    def lm_head_flops_per_token(self, *, tp: int = 1) -> int:
        """Count the FLOPs of the LM head for one token whose logits are wanted, on one device.

        Parameters
        ----------
        tp : int
            Tensor-parallel degree.
        """
        self.check_tp(tp)
        return 2 * self.hidden_size * -(-self.vocab_size // tp)

    def _matrices(self, *, tp: int) -> Iterator[Matrix]:
        """One layer's matrices on one device: q, k, v, o, gate, up, down."""
        hidden, inter = self.hidden_size, self.intermediate_size // tp
        q_width, kv_width = (heads // tp * self.head_dim for heads in (self.n_q_heads, self.n_kv_heads))
        yield Matrix(hidden, q_width)
        yield Matrix(hidden, kv_width)
        yield Matrix(hidden, kv_width)
        yield Matrix(q_width, hidden)
        yield Matrix(hidden, inter)
        yield Matrix(hidden, inter)
        yield Matrix(inter, hidden)

    def _layer_extras(self, *, tp: int) -> int:
        """One layer's norms and biases on one device."""
        norms = 2 * self.hidden_size + 2 * self.head_dim * self.qk_norm
        qkv = (self.n_q_heads + 2 * self.n_kv_heads) // tp * self.head_dim * self.qkv_bias
        mlp = (2 * self.intermediate_size // tp + self.hidden_size) * self.mlp_bias
        return norms + qkv + self.hidden_size * self.o_bias + mlp

    def _outer_params(self, *, tp: int) -> int:
        """Embedding, LM head and final norm on one device."""
        tables = 1 if self.tie_embeddings else 2
        return tables * -(-self.vocab_size // tp) * self.hidden_size + self.hidden_size


def _matrix_bytes(matrix: Matrix, weight_bits: int) -> int:
    """Bytes of one quantised matrix with its scales and zeros."""
    weights = matrix.n_in * matrix.n_out * weight_bits // 8
    if weight_bits == 4:
        groups = -(-matrix.n_in // W4_GROUP) * matrix.n_out
        return weights + 2 * groups + (groups + 1) // 2
    return weights + (2 * matrix.n_out if weight_bits == 8 else 0)

"""Attention over a prompt and over a cache, and kvpred's own attention implementation for transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "kvpred"
"""The name under which transformers knows this attention: ``attn_implementation="kvpred"``."""


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, *, n_pad: Tensor | None = None
) -> Tensor:
    """Attend causally within a prompt, padding left out; fused where torch has a kernel.

    Parameters
    ----------
    query : Tensor, shape (bsz, query heads, tokens, head_dim)
    key, value : Tensor, shape (bsz, KV heads, tokens, head_dim)
    scaling : float
    n_pad : Tensor, optional
        Left padding of each sequence, shape (bsz,).

    Returns
    -------
    Tensor
        Shape of `query`; the rows of padding mean nothing.
    """
    if n_pad is None:
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    positions = torch.arange(key.shape[2], device=key.device)
    causal = positions[:, None] >= positions
    # A padding row sees itself: a row that sees nothing would turn to NaN.
    real = (positions >= n_pad[:, None])[:, None, None] | (positions[:, None] == positions)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=causal & real, scale=scaling, enable_gqa=True
    )


def decode_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, *, mask: Tensor | None = None
) -> Tensor:
    """Attend from one token to a cache; fused where torch has a kernel.

    The query heads of a KV head are attended together, as rows, so that keys and values are read once.

    Parameters
    ----------
    query : Tensor, shape (bsz, query heads, 1, head_dim)
    key, value : Tensor, shape (bsz, KV heads, entries, head_dim)
    scaling : float
    mask : Tensor, optional
        True where attended; broadcasts to (bsz, KV heads, 1, entries).

    Returns
    -------
    Tensor
        Shape of `query`.
    """
    rows = grouped(query, key.shape[1])
    output = scaled_dot_product_attention(rows, key, value, attn_mask=mask, scale=scaling)
    return output.reshape(query.shape)


def grouped(query: Tensor, n_kv_heads: int) -> Tensor:
    """Return one token's queries by KV head, shape (bsz, KV heads, query heads per KV head, head_dim)."""
    bsz, _, _, head_dim = query.shape
    return query.reshape(bsz, n_kv_heads, -1, head_dim)


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as ``attn_implementation="kvpred"``: through the cache layer, or fused without one.

    Parameters
    ----------
    module : Module
        The model's attention layer.
    query : Tensor, shape (bsz, query heads, tokens, head_dim)
    key, value : Tensor, shape (bsz, KV heads, tokens, head_dim)
        The new tokens, their cache layer at hand; or, without one of kvpred's caches, all tokens.
    attention_mask : Tensor or None
        Shape (bsz, tokens so far), false for padding.
    scaling : float, optional
        1/sqrt(head_dim) if not given.

    Returns
    -------
    tuple
        The output, shape (bsz, tokens, query heads, head_dim), and None for the probabilities.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = getattr(key, "kvpred_layer", None)
    if layer is not None:
        output = layer.step(query, key, value, scaling, attention_mask)
    else:
        output = _attend_without_cache(query, key, value, scaling, attention_mask)
    return output.transpose(1, 2).contiguous(), None


def _attend_without_cache(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, attention_mask: Tensor | None
) -> Tensor:
    """Attend from the last tokens to all, under transformers' own caches or none."""
    n_queries, n_keys = query.shape[2], key.shape[2]
    positions = torch.arange(n_keys, device=key.device)
    mask = positions[n_keys - n_queries :, None] >= positions
    if attention_mask is not None:
        own = positions[n_keys - n_queries :, None] == positions
        mask = mask & (attention_mask[:, None, None, :n_keys].bool() | own)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True)


def _padding_mask(*_: Any, attention_mask: Tensor | None = None, **__: Any) -> Tensor | None:
    """Hand the padding mask through as it is, shape (bsz, tokens so far): no mask of tokens x tokens."""
    return attention_mask


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, _padding_mask)

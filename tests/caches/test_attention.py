from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from kvpred.caches import NAME
from kvpred.caches.attention import causal_attention, decode_attention

SCALING = 0.7


def one_by_one(query: Tensor, key: Tensor, value: Tensor, first: int) -> Tensor:
    """Attend from each token of one sequence and query head to those from `first` up to it."""
    n_q_heads, n_tokens, _ = query.shape
    outputs = torch.zeros_like(query)
    for q_head in range(n_q_heads):
        head = q_head // (n_q_heads // len(key))
        for own in range(first, n_tokens):
            seen = slice(first, own + 1)
            probabilities = (key[head, seen] @ query[q_head, own] * SCALING).softmax(dim=0)
            outputs[q_head, own] = probabilities @ value[head, seen]
    return outputs


@pytest.fixture
def entries() -> tuple[Tensor, Tensor, Tensor]:
    """Queries of six heads, keys and values of two."""
    torch.manual_seed(0)
    return torch.randn(3, 6, 12, 8), torch.randn(3, 2, 12, 8), torch.randn(3, 2, 12, 8)


def test_causal_attention_looks_at_no_later_token(entries: tuple[Tensor, Tensor, Tensor]) -> None:
    outputs = causal_attention(*entries, SCALING)
    for sequence in range(3):
        assert_close(outputs[sequence], one_by_one(*(e[sequence] for e in entries), first=0))


def test_causal_attention_looks_at_no_padding(entries: tuple[Tensor, Tensor, Tensor]) -> None:
    n_pad = [0, 5, 11]
    outputs = causal_attention(*entries, SCALING, n_pad=torch.tensor(n_pad))
    assert outputs.isfinite().all()
    for sequence, first in enumerate(n_pad):
        expected = one_by_one(*(e[sequence] for e in entries), first=first)
        assert_close(outputs[sequence, :, first:], expected[:, first:])


def test_decode_attention_is_the_last_row_of_causal_attention(entries: tuple[Tensor, Tensor, Tensor]) -> None:
    query, key, value = entries
    output = decode_attention(query[:, :, -1:], key, value, SCALING)
    assert_close(output, causal_attention(*entries, SCALING)[:, :, -1:])


def test_decode_attention_leaves_out_what_is_masked(entries: tuple[Tensor, Tensor, Tensor]) -> None:
    query, key, value = entries
    real = torch.rand(3, 1, 1, 12) > 0.3
    output = decode_attention(query[:, :, -1:], key, value, SCALING, mask=real)
    for sequence in range(3):
        keep = real[sequence, 0, 0]
        kept = decode_attention(
            query[sequence : sequence + 1, :, -1:],
            key[sequence : sequence + 1, :, keep],
            value[sequence : sequence + 1, :, keep],
            SCALING,
        )
        assert_close(output[sequence : sequence + 1], kept)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
@pytest.mark.parametrize("n_pad", [0, 4])
@pytest.mark.parametrize("parts", [[9], [6, 3], [6, 1, 1, 1]])
def test_model_without_our_cache_attends_as_under_sdpa(
    model: LlamaForCausalLM, parts: list[int], n_pad: int
) -> None:
    tokens = torch.randint(1, 50, (2, 9))
    mask = (torch.arange(9) >= torch.tensor([[0], [n_pad]])).long()
    logits = {}
    for attention in ("sdpa", NAME):
        model.set_attn_implementation(attention)
        cache, done = DynamicCache(config=model.config), 0
        outputs = []
        for n_tokens in parts:
            end = done + n_tokens
            positions = (mask[:, :end].cumsum(dim=1) - 1).clamp(min=0)[:, done:]
            outputs.append(
                model(
                    tokens[:, done:end],
                    attention_mask=mask[:, :end],
                    position_ids=positions,
                    past_key_values=cache,
                ).logits
            )
            done = end
        logits[attention] = torch.cat(outputs, dim=1)
    real = mask.bool()
    assert_close(logits[NAME][real], logits["sdpa"][real])


@torch.no_grad()
def test_model_attends_without_any_cache(model: LlamaForCausalLM) -> None:
    tokens = torch.randint(1, 50, (2, 9))
    model.set_attn_implementation("sdpa")
    expected = model(tokens, use_cache=False).logits
    model.set_attn_implementation(NAME)
    assert_close(model(tokens, use_cache=False).logits, expected)

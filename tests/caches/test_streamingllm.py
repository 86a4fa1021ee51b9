from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from kvpred.caches.streamingllm import StreamingLLMLayer
from kvpred.methods.streamingllm import StreamingLLM

SCALING = 0.25


def positions_attended(layer: StreamingLLMLayer, position: int) -> list[list[int]]:
    """Append a token whose value is its position, and read the positions of all slots for each sequence."""
    bsz = len(layer.materialise()[1])
    layer.append(torch.zeros(bsz, 1, 1, 2), torch.full((bsz, 1, 1, 2), float(position)))
    slots = layer.materialise()[1][:, 0, :, 0]
    mask = layer._mask(slots.shape[1])
    real = torch.ones_like(slots, dtype=torch.bool) if mask is None else mask[:, 0, 0]
    attended = [sorted(row[keep].int().tolist()) for row, keep in zip(slots, real, strict=True)]
    layer.evict()
    layer.seen += 1
    return attended


def layer_after_prompt(method: StreamingLLM, n_tokens: int, mask: Tensor | None = None) -> StreamingLLMLayer:
    """Pass a prompt whose values are its positions."""
    layer = StreamingLLMLayer(method)
    bsz = 1 if mask is None else len(mask)
    value = torch.arange(float(n_tokens))[:, None].expand(bsz, 1, -1, 2)
    layer.step(torch.zeros_like(value), torch.zeros_like(value), value, SCALING, mask)
    return layer


@pytest.mark.parametrize("prompt_len", [5, 12, 13, 40])
@pytest.mark.parametrize("sinks", [0, 4])
def test_streamingllm_attends_under_its_sink_and_window_mask(sinks: int, prompt_len: int) -> None:
    torch.manual_seed(0)
    recent = 12 - sinks
    query, key, value = (torch.randn(2, heads, 70, 16) for heads in (6, 2, 2))
    layer = StreamingLLMLayer(StreamingLLM(sinks=sinks, recent=recent))
    prompt = (slice(None), slice(None), slice(prompt_len))
    layer.step(query[prompt], key[prompt], value[prompt], SCALING, None)

    keys, values = (entries.repeat_interleave(3, dim=1) for entries in (key, value))
    positions = torch.arange(70)
    for own in range(prompt_len, 70):
        here = (slice(None), slice(None), slice(own, own + 1))
        output = layer.step(query[here], key[here], value[here], SCALING, None)
        attended = (positions <= own) & ((positions < sinks) | (positions >= own - recent))
        logits = (query[here] @ keys.transpose(2, 3) * SCALING).masked_fill(~attended, -torch.inf)
        assert_close(output, logits.softmax(dim=3) @ values)


def test_prompt_leaves_the_sinks_and_the_recent_tokens() -> None:
    layer = layer_after_prompt(StreamingLLM(sinks=2, recent=3), 20)
    assert positions_attended(layer, 20) == [[0, 1, 17, 18, 19, 20]]
    assert positions_attended(layer, 21) == [[0, 1, 18, 19, 20, 21]]


def test_growing_cache_evicts_only_once_the_budget_is_full() -> None:
    layer = layer_after_prompt(StreamingLLM(sinks=2, recent=3), 4)
    assert positions_attended(layer, 4) == [[0, 1, 2, 3, 4]]
    assert positions_attended(layer, 5) == [[0, 1, 2, 3, 4, 5]]
    assert positions_attended(layer, 6) == [[0, 1, 3, 4, 5, 6]]
    assert positions_attended(layer, 7) == [[0, 1, 4, 5, 6, 7]]


@pytest.mark.parametrize("prompt_len", [5, 20])
def test_sinks_of_a_padded_sequence_are_its_first_real_tokens(prompt_len: int) -> None:
    mask = torch.arange(prompt_len) >= torch.tensor([[prompt_len - 1], [prompt_len - 4]])
    layer = layer_after_prompt(StreamingLLM(sinks=2, recent=3), prompt_len, mask)
    for own in range(prompt_len, prompt_len + 12):
        for first, attended in zip(
            (prompt_len - 1, prompt_len - 4), positions_attended(layer, own), strict=True
        ):
            everything = range(first, own + 1)
            assert attended == [p for p in everything if p < first + 2 or p >= own - 3]
    assert layer._mask(6) is None, "no slot is masked once all hold real tokens"

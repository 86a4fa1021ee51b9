"""What every evicting cache must do: padding, beams, fixed buffers, bytes, whole models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

from kvpred.caches import CacheLayer, cache_for, eviction, make_layer
from kvpred.caches.attention import causal_attention
from kvpred.caches.eviction import attention_sums
from kvpred.errors import UsageError
from kvpred.methods import get_method
from kvpred.models import get_model

UNLIMITED = ["streamingllm:sinks=4,recent=200", "h2o:heavy=8,recent=200", "snapkv:budget=200,window=4"]
TIGHT = ["streamingllm:sinks=4,recent=8", "h2o:heavy=4,recent=8", "snapkv:budget=12,window=4,kernel=3"]
NO_SINKS = "streamingllm:sinks=0,recent=12"
SCALING = 0.3
N_STEPS = 24

Entries = tuple[Tensor, Tensor, Tensor]


def tokens(bsz: int, n_tokens: int, seed: int = 0) -> Entries:
    """Queries of four heads, keys and values of two."""
    torch.manual_seed(seed)
    return tuple(torch.randn(bsz, heads, n_tokens, 16) for heads in (4, 2, 2))


def decode(layer: CacheLayer[Any], entries: Entries, prompt_len: int, mask: Tensor | None = None) -> Tensor:
    """The outputs of the tokens after the prompt, passed one by one."""
    layer.step(*(e[:, :, :prompt_len] for e in entries), SCALING, mask)
    steps = range(prompt_len, entries[0].shape[2])
    return torch.cat(
        [layer.step(*(e[:, :, i : i + 1] for e in entries), SCALING, None) for i in steps], dim=2
    )


def left_padded(lengths: list[int], prompt_len: int) -> Tensor:
    return torch.arange(prompt_len) >= prompt_len - torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("spec", UNLIMITED)
def test_budget_beyond_the_length_equals_full_attention(spec: str) -> None:
    entries = tokens(2, 60)
    full = causal_attention(*entries, SCALING)
    assert_close(decode(make_layer(get_method(spec)), entries, 36), full[:, :, 36:])


@pytest.mark.parametrize("prompt_len", [8, 13, 14, 40])
@pytest.mark.parametrize("spec", [*TIGHT, NO_SINKS])
def test_padded_sequences_decode_as_if_alone(spec: str, prompt_len: int) -> None:
    lengths = [min(n, prompt_len) for n in (40, 14, 13, 12, 11, 7, 3, 1)]
    entries = tokens(len(lengths), prompt_len + N_STEPS)
    mask = left_padded(lengths, prompt_len)
    together = decode(make_layer(get_method(spec)), entries, prompt_len, mask)
    for i, length in enumerate(lengths):
        own: Any = tuple(e[i : i + 1, :, prompt_len - length :] for e in entries)
        assert_close(together[i : i + 1], decode(make_layer(get_method(spec)), own, length))


@pytest.mark.parametrize("n_steps", [2, 12])
@pytest.mark.parametrize("prompt_len", [8, 40])
@pytest.mark.parametrize("spec", TIGHT)
def test_reordered_sequences_go_on_as_if_they_had_always_been_so(
    spec: str, prompt_len: int, n_steps: int
) -> None:
    order = torch.tensor([2, 2, 0])
    entries = tokens(3, prompt_len + N_STEPS)
    mask = left_padded([prompt_len, 7, 5], prompt_len)
    split = prompt_len + n_steps
    layer = make_layer(get_method(spec))
    decode(layer, tuple(e[:, :, :split] for e in entries), prompt_len, mask)  # type: ignore[arg-type]
    layer.reorder_cache(order)
    later = [e[order, :, split:] for e in entries]
    outputs = layer.step(*later, SCALING, None)
    always: Any = tuple(e[order] for e in entries)
    assert_close(
        outputs, decode(make_layer(get_method(spec)), always, prompt_len, mask[order])[:, :, n_steps:]
    )


@pytest.mark.parametrize("spec", TIGHT)
def test_reset_layer_starts_afresh(spec: str) -> None:
    layer = make_layer(get_method(spec))
    decode(layer, tokens(3, 50), 40, left_padded([40, 9, 2], 40))
    layer.reset()
    assert layer.nbytes == 0
    entries = tokens(2, 40, seed=1)
    assert_close(decode(layer, entries, 20), decode(make_layer(get_method(spec)), entries, 20))


@pytest.mark.parametrize("spec", TIGHT)
def test_one_sequence_of_one_kv_head_decodes(spec: str) -> None:
    query, key, value = tokens(2, 50)
    both = decode(make_layer(get_method(spec)), (query, key, value), 30)
    one = decode(make_layer(get_method(spec)), (query[:1, :2], key[:1, :1], value[:1, :1]), 30)
    assert_close(one, both[:1, :2])


@pytest.mark.parametrize("spec", TIGHT[:2])
def test_decoding_stays_in_the_same_buffers(spec: str) -> None:
    entries = tokens(2, 300)
    held = []
    for prompt_len in (8, 50, 250):
        layer = make_layer(get_method(spec))
        decode(layer, tuple(e[:, :, : prompt_len + 20] for e in entries), prompt_len)  # type: ignore[arg-type]
        views = {name: held.view for name, held in layer.sequences.items()}
        decode_on = [e[:, :, prompt_len + 20 : prompt_len + 40] for e in entries]
        layer.step(*decode_on, SCALING, None)
        for name, view in views.items():
            assert layer.sequences[name].view.data_ptr() == view.data_ptr()
            assert view.untyped_storage().nbytes() == view.nbytes
        held.append({name: view.shape for name, view in views.items()})
    assert held[0] == held[1] == held[2]
    assert held[0]["kv/keys"] == (2, 2, 13, 16)


@pytest.mark.parametrize("prompt_len", [300, 509, 1000])
@pytest.mark.parametrize("name", ["streamingllm", "h2o", "snapkv"])
def test_bytes_are_within_one_percent_of_the_memory_model(name: str, prompt_len: int) -> None:
    method = get_method(name)
    model = replace(get_model("smollm2-135m"), n_layers=1)
    bsz, kv_len = 2, prompt_len + 8
    layer = make_layer(method)
    entries: Any = [torch.randn(bsz, heads, kv_len, 64, dtype=torch.bfloat16) for heads in (9, 3, 3)]
    decode(layer, entries, prompt_len, left_padded([prompt_len, 5], prompt_len))
    model_parts = method.cache_parts(model, bsz=bsz, kv_len=kv_len, prompt_len=prompt_len)
    parts = layer.parts()
    assert parts.keys() == model_parts.keys()
    for part, size in model_parts.items():
        assert parts[part] == pytest.approx(size, rel=0.01)
    assert layer.nbytes >= method.cache_bytes(model, bsz=bsz, kv_len=kv_len, prompt_len=prompt_len)


@pytest.mark.parametrize("n_queries", [20, 5])
@pytest.mark.parametrize("most_scores", [1, 500, 2**20])
def test_attention_sums_equal_the_column_sums_of_the_probabilities(
    monkeypatch: pytest.MonkeyPatch, most_scores: int, n_queries: int
) -> None:
    monkeypatch.setattr(eviction, "MOST_CPU_SCORES", most_scores)
    query, key, _ = tokens(2, 20)
    n_pad = torch.tensor([0, 17])
    sums = attention_sums(query[:, :, -n_queries:], key, SCALING, n_pad=n_pad)
    for sequence, pad in enumerate(n_pad.tolist()):
        for head in range(2):
            expected = torch.zeros(20)
            for position in range(max(pad, 20 - n_queries), 20):
                for q_head in (2 * head, 2 * head + 1):
                    seen = key[sequence, head, pad : position + 1]
                    logits = SCALING * seen @ query[sequence, q_head, position]
                    expected[pad : position + 1] += logits.softmax(dim=0)
            assert_close(sums[sequence, head, pad:], expected[pad:])


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=None, initializer_range=0.2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def prompts(lengths: list[int], width: int) -> dict[str, Tensor]:
    torch.manual_seed(1)
    mask = left_padded(lengths, width)
    return {"input_ids": torch.randint(2, 97, mask.shape) * mask, "attention_mask": mask.long()}


def generate(model: LlamaForCausalLM, inputs: dict[str, Tensor], spec: str | None, **options: int) -> Tensor:
    """The new tokens, under the plain model's own attention if there is no method."""
    if spec is None:
        model.set_attn_implementation("sdpa")
    else:
        options["past_key_values"] = cache_for(model, spec)  # type: ignore[assignment]
    out: Tensor = model.generate(**inputs, max_new_tokens=12, do_sample=False, **options)  # type: ignore
    return out[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("spec", UNLIMITED)
def test_unlimited_budget_generates_what_the_plain_model_does(
    model: LlamaForCausalLM, spec: str, num_beams: int
) -> None:
    inputs = prompts([16, 11, 1], 16)
    plain = generate(model, inputs, None, num_beams=num_beams)
    assert torch.equal(generate(model, inputs, spec, num_beams=num_beams), plain)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("spec", TIGHT)
def test_padded_batch_generates_what_each_prompt_does_alone(
    model: LlamaForCausalLM, spec: str, num_beams: int
) -> None:
    inputs = prompts([16, 13, 3], 16)
    together = generate(model, inputs, spec, num_beams=num_beams)
    for i, length in enumerate((16, 13, 3)):
        alone = {name: tensor[i : i + 1, 16 - length :] for name, tensor in inputs.items()}
        assert torch.equal(generate(model, alone, spec, num_beams=num_beams)[0], together[i])


@pytest.mark.parametrize("spec", TIGHT)
def test_other_attention_than_kvpreds_is_refused(model: LlamaForCausalLM, spec: str) -> None:
    cache = cache_for(model, spec)
    model.set_attn_implementation("sdpa")
    with pytest.raises(UsageError, match="set_attn_implementation"):
        model.generate(**prompts([9], 9), past_key_values=cache, max_new_tokens=2)  # type: ignore

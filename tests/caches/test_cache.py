"""What holds for every method's cache under whole models and real tensors, whatever the method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoConfig, DynamicCache, PreTrainedModel

from kvpred.caches import CacheLayer, MethodCache, cache_for, make_layer
from kvpred.errors import KvpredError, UsageError
from kvpred.methods import Method, get_method, list_methods
from kvpred.models import get_model

TIGHT = ["h2o:heavy=4,recent=8", "snapkv:budget=12,window=4,kernel=3", "streamingllm:sinks=4,recent=8"]
WIDTHS = ["kivi:bits=2", "gear:bits=2", "turboquant:bits=3", "turboquant:bits=k8v4"]
NAMES = [method.name for method in list_methods()]
SPECS = NAMES + WIDTHS + TIGHT
FAMILIES = ["llama", "mistral", "qwen2", "qwen3"]
NEW = 12

Models = Callable[..., PreTrainedModel]
Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]


@pytest.fixture
def prompts() -> Tensor:
    """Two prompts of 20 tokens."""
    return torch.randint(1, 128, (2, 20), generator=torch.Generator().manual_seed(1))


def padded(prompts: Tensor, *n_pad: int) -> dict[str, Tensor]:
    """Replace each prompt's first tokens by padding."""
    mask = torch.arange(prompts.shape[1]) >= torch.tensor(n_pad)[:, None]
    return {"input_ids": prompts * mask, "attention_mask": mask.long()}


def generate(model: PreTrainedModel, inputs: dict[str, Tensor], method: str | None) -> tuple[Tensor, Tensor]:
    """Generate greedily; return the new tokens and all steps' logits."""
    cache = DynamicCache() if method is None else cache_for(model, method)
    done: Any = model.generate(
        **inputs,
        past_key_values=cache,
        max_new_tokens=NEW,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return done.sequences[:, -NEW:], torch.stack(done.logits, dim=1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spec", NAMES)
def test_a_padded_batch_generates_with_every_method(
    spec: str, family: str, tiny_model: Models, prompts: Tensor
) -> None:
    model = tiny_model(family)
    tokens, logits = generate(model, padded(prompts, 0, 7), spec)
    _, plain = generate(tiny_model(family), padded(prompts, 0, 7), None)
    assert tokens.shape == (2, NEW)
    # The first token's logits come from the prompt, whose attention is full in every method.
    assert_close(logits[:, 0], plain[:, 0], atol=1e-4, rtol=1e-4)
    assert logits.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_uncompressed_cache_gives_the_plain_models_tokens(
    family: str, tiny_model: Models, prompts: Tensor
) -> None:
    expected, _ = generate(tiny_model(family), padded(prompts, 0, 7), None)
    tokens, _ = generate(tiny_model(family), padded(prompts, 0, 7), "fp16")
    assert torch.equal(tokens, expected)


@pytest.mark.parametrize("spec", SPECS)
def test_more_padding_changes_nothing(spec: str, tiny_model: Models, prompts: Tensor) -> None:
    longer = torch.cat([torch.ones(2, 6, dtype=torch.int64), prompts], dim=1)
    tokens, logits = generate(tiny_model(), padded(prompts, 0, 7), spec)
    same_tokens, same_logits = generate(tiny_model(), padded(longer, 6, 13), spec)
    assert torch.equal(tokens, same_tokens)
    assert_close(logits, same_logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("spec", SPECS)
def test_several_tokens_at_once_equal_single_steps(spec: str, tiny_model: Models, prompts: Tensor) -> None:
    model = tiny_model()

    def logits(*splits: int) -> Tensor:
        cache = cache_for(model, spec)
        with torch.no_grad():
            parts = [model(part, past_key_values=cache).logits for part in prompts.split(splits, dim=1)]
        assert cache.get_seq_length() == 20
        return torch.cat(parts, dim=1)

    assert_close(logits(14, 6), logits(14, 1, 1, 1, 1, 1, 1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spec", SPECS)
def test_beams_take_their_sequences_along(spec: str, entries: Draw) -> None:
    query, key, value = entries(2, 40)
    swap = torch.tensor([1, 0])

    def outputs(*, swapped: bool) -> Tensor:
        layer = make_layer(get_method(spec))
        mask = torch.arange(30) >= torch.tensor([[0], [5]])
        layer.step(query[:, :, :30], key[:, :, :30], value[:, :, :30], 0.125, mask)
        if swapped:
            layer.reorder_cache(swap)
        rows = swap if swapped else slice(None)
        return torch.cat([step(layer, query[rows], key[rows], value[rows], i) for i in range(30, 40)], dim=2)

    assert_close(outputs(swapped=True), outputs(swapped=False)[swap])


def step(layer: CacheLayer[Any], query: Tensor, key: Tensor, value: Tensor, token: int) -> Tensor:
    here = slice(token, token + 1)
    return layer.step(query[:, :, here], key[:, :, here], value[:, :, here], 0.125, None)


@pytest.mark.parametrize("spec", SPECS)
def test_a_reset_cache_is_as_new(spec: str, entries: Draw) -> None:
    first, second = entries(2, 40), tuple(2 * entry.flip(2)[:1] for entry in entries(2, 40))
    used, new = make_layer(get_method(spec)), make_layer(get_method(spec))
    used.step(*first, 0.125, torch.arange(40) >= torch.tensor([[0], [5]]))
    used.reset()
    assert used.seen == used.nbytes == 0
    for layer in (used, new):
        layer.step(*(entry[:, :, :30] for entry in second), 0.125, None)
    assert_close(step(used, *second, 30), step(new, *second, 30))
    assert used.parts() == new.parts()


@pytest.mark.parametrize(("q", "kv", "dim"), [(9, 3, 64), (8, 8, 128)], ids=["smollm2", "llama-2"])
@pytest.mark.parametrize("prompt_len", [100, 700])
@pytest.mark.parametrize("spec", NAMES + WIDTHS)
def test_real_tensors_take_the_bytes_of_the_memory_model(
    spec: str, prompt_len: int, q: int, kv: int, dim: int, entries: Draw
) -> None:
    method, bsz, steps = get_method(spec), 2, 40
    model = replace(get_model("smollm2-135m"), n_layers=1, n_q_heads=q, n_kv_heads=kv, head_dim=dim)
    query, key, value = entries(bsz, prompt_len + steps, q=q, kv=kv, dim=dim, dtype=torch.bfloat16)
    layer = make_layer(method)
    layer.step(query[:, :, :prompt_len], key[:, :, :prompt_len], value[:, :, :prompt_len], 0.125, None)
    for kv_len in range(prompt_len, prompt_len + steps + 1):
        if kv_len > prompt_len:
            step(layer, query, key, value, kv_len - 1)
        if kv_len in (prompt_len, prompt_len + steps):
            expected = method.cache_parts(model, bsz=bsz, kv_len=kv_len, prompt_len=prompt_len)
            assert layer.parts() == pytest.approx(expected, rel=0.01)


def test_a_cache_counts_the_bytes_of_all_layers(tiny_model: Models, prompts: Tensor) -> None:
    model = tiny_model()
    cache = cache_for(model, "turboquant")
    model(prompts, past_key_values=cache)
    assert cache.nbytes == sum(cache.parts().values()) == 2 * cache.layers[0].nbytes
    assert (
        cache.parts()["norms"] == 2 * 2 * 20 * 2 * 2 * 2
    )  # layers, prompts, tokens, KV heads, K and V, fp16


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("spec", [m.name for m in list_methods() if not make_layer(m).needs_queries])
def test_methods_without_queries_also_work_under_transformers_own_attention(
    spec: str, attention: str, tiny_model: Models, prompts: Tensor
) -> None:
    expected, _ = generate(tiny_model(), {"input_ids": prompts}, spec)
    model = tiny_model()
    model.set_attn_implementation(attention)
    done = model.generate(
        prompts, past_key_values=MethodCache(spec, model.config), max_new_tokens=NEW, do_sample=False
    )
    assert torch.equal(done[:, -NEW:], expected)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("spec", [m.name for m in list_methods() if make_layer(m).needs_queries])
def test_methods_with_queries_say_which_attention_they_need(
    spec: str, attention: str, tiny_model: Models, prompts: Tensor
) -> None:
    model = tiny_model()
    model.set_attn_implementation(attention)
    with pytest.raises(
        UsageError, match=r"set the model's attention with model\.set_attn_implementation\('kvpred'\)"
    ):
        model(prompts, past_key_values=MethodCache(spec, model.config))


@pytest.mark.parametrize("cached", [False, True])
def test_without_our_cache_our_attention_is_plain_attention(
    cached: bool, tiny_model: Models, prompts: Tensor
) -> None:
    inputs = padded(prompts, 0, 7)
    plain, ours = tiny_model(), tiny_model()
    ours.set_attn_implementation("kvpred")
    if cached:
        assert torch.equal(generate(ours, inputs, None)[0], generate(plain, inputs, None)[0])
    else:
        real = inputs["attention_mask"].bool()
        assert_close(
            ours(**inputs, use_cache=False).logits[real], plain(**inputs, use_cache=False).logits[real]
        )


@pytest.mark.parametrize("mask", [[1] * 19 + [0], [1] * 10 + [0] + [1] * 9])
def test_padding_elsewhere_than_on_the_left_is_refused(
    mask: list[int], tiny_model: Models, prompts: Tensor
) -> None:
    model = tiny_model()
    with pytest.raises(UsageError, match="set padding_side='left'"):
        model(
            prompts, attention_mask=torch.tensor([[1] * 20, mask]), past_key_values=cache_for(model, "fp16")
        )


def test_unknown_methods_are_refused(tiny_model: Models) -> None:
    with pytest.raises(UsageError, match=r"Method 'kivy' is not known\. Did you mean kivi"):
        cache_for(tiny_model(), "kivy")


def test_methods_that_do_not_suit_the_heads_are_refused(tiny_model: Models) -> None:
    with pytest.raises(UsageError, match="group_size"):
        cache_for(tiny_model(), "kivi:group_size=64")


@pytest.mark.parametrize("method", list_methods(), ids=lambda method: method.name)
@pytest.mark.parametrize(
    ("family", "fields", "complaint"),
    [
        ("mistral", {"sliding_window": 512}, "attends to a window of 512 tokens"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 512, "max_window_layers": 0},
            "a window of 512",
        ),
        ("deepseek_v3", {}, "multi-head latent attention"),
        ("mixtral", {}, "a mixture of experts"),
        ("gemma2", {}, "a mix of full and sliding-window layers"),
    ],
)
def test_attention_that_caches_do_not_serve_is_refused(
    method: Method, family: str, fields: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(KvpredError, match=complaint) as error:
        MethodCache(method, AutoConfig.for_model(family, **fields))
    assert error.value.exit_code == 2

"""The loop over transformers with kvpred's caches, on fused and on eager attention."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import profile

from kvpred.caches import MethodCache, make_layer
from kvpred.engines.base import EngineError, Target
from kvpred.engines.transformers import Transformers, TransformersEager, failures
from kvpred.engines.transformers_paged import TransformersPaged
from kvpred.errors import UsageError
from kvpred.methods import Method, get_method, list_methods
from kvpred.models import get_model
from kvpred.models.weights import load_model, load_tokenizer, random_model
from tests.tiny import TINY

TARGET = Target(model=TINY)
FP16 = get_method("fp16")
METHODS = list_methods()
EAGER_METHODS = [method for method in METHODS if not make_layer(method).needs_queries]
SERVED = [(Transformers, method) for method in METHODS]
SERVED += [(TransformersEager, method) for method in EAGER_METHODS]
by_name = pytest.mark.parametrize(
    ("kind", "method"), SERVED, ids=[f"{kind.name}-{method.name}" for kind, method in SERVED]
)


@pytest.fixture(scope="module")
def engines() -> dict[type[Transformers], Transformers]:
    """Both engines, each started once with all its methods."""
    return {
        Transformers: Transformers(TARGET, METHODS),
        TransformersEager: TransformersEager(TARGET, EAGER_METHODS),
    }


Engines = dict[type[Transformers], Transformers]


@by_name
def test_every_method_serves_a_batch(kind: type[Transformers], method: Method, engines: Engines) -> None:
    batch = engines[kind].generate(method, bsz=3, prompt_len=40, output_len=6, seed=1)
    assert (batch.bsz, batch.output_len, batch.prompt_tokens) == (3, 6, (40, 40, 40))
    assert 0 < batch.ttft_s == batch.prefill_time_s < batch.e2e_s
    assert all(before < after for before, after in pairwise(batch.arrivals_s[0]))
    assert batch.tpot_s == pytest.approx((batch.e2e_s - batch.ttft_s) / 5)


@by_name
def test_usage_is_what_the_methods_memory_model_says(
    kind: type[Transformers], method: Method, engines: Engines
) -> None:
    usage = engines[kind].usage(method, prompt_len=600, output_len=21)
    assert usage is not None
    assert usage.kv_len == 620
    expected = method.cache_bytes(TINY, bsz=1, kv_len=620, prompt_len=600)
    assert usage.cache_bytes == pytest.approx(expected, rel=0.01)
    assert usage.cache_tokens == pytest.approx(method.stored_tokens(620, prompt_len=600), abs=1)


def test_a_batch_passes_the_model_once_for_each_token(engines: Engines) -> None:
    engine = engines[Transformers]
    with passes(engine) as shapes:
        engine.generate(FP16, bsz=3, prompt_len=40, output_len=4, seed=1)
    assert shapes == [(3, 40), (3, 1), (3, 1), (3, 1)]


@contextmanager
def passes(engine: Transformers) -> Iterator[list[tuple[int, ...]]]:
    """Note the shape of the tokens of each forward pass."""
    shapes: list[tuple[int, ...]] = []
    model: Any = engine._model
    hook = model.register_forward_pre_hook(
        lambda _, __, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    yield shapes
    hook.remove()


def test_no_cache_outlives_its_batch(engines: Engines) -> None:
    before = caches_alive()
    for method in METHODS:
        engines[Transformers].generate(method, bsz=1, prompt_len=40, output_len=3, seed=1)
    assert caches_alive() == before


def caches_alive() -> int:
    gc.collect()
    return sum(type(held) is MethodCache for held in gc.get_objects())


def test_uncompressed_attention_is_torchs_fused_kernel(engines: Engines) -> None:
    assert operators(engines[Transformers]) >= {"aten::_scaled_dot_product_flash_attention_for_cpu"}


def test_eager_attention_writes_probabilities_out(engines: Engines) -> None:
    run = operators(engines[TransformersEager])
    assert "aten::softmax" in run
    assert not [name for name in run if "scaled_dot_product" in name]


def operators(engine: Transformers) -> set[str]:
    with profile() as trace:
        engine.generate(FP16, bsz=1, prompt_len=40, output_len=3, seed=1)
    return {event.key for event in trace.key_averages()}


def test_all_methods_share_one_attention(engines: Engines) -> None:
    for kind, attention in ((Transformers, "kvpred"), (TransformersEager, "eager")):
        assert engines[kind].settings(FP16) == {
            "attention": attention, "dtype": "bfloat16", "threads": torch.get_num_threads(),
            "weights": "random",
        }  # fmt: skip
        assert set(engines[kind].versions()) == {"torch", "transformers"}


def test_eager_serves_the_methods_that_ask_for_no_queries() -> None:
    assert TransformersEager.method_names() == tuple(
        name for name in Transformers.method_names() if get_method(name) in EAGER_METHODS
    )


@pytest.mark.parametrize("name", ["h2o", "snapkv", "streamingllm"])
def test_eager_refuses_methods_that_need_queries(name: str) -> None:
    with pytest.raises(UsageError, match=f"transformers-eager does not serve {name}; it serves fp16, kivi"):
        TransformersEager(TARGET, [FP16, get_method(name)])


def test_a_method_that_does_not_suit_the_model_is_refused_at_the_start() -> None:
    with pytest.raises(UsageError, match="group_size"):
        Transformers(TARGET, [get_method("kivi:group_size=64")])


def test_threads_are_set() -> None:
    before = torch.get_num_threads()
    try:
        engine = Transformers(replace(TARGET, options={"threads": "2"}), [FP16])
        assert engine.settings(FP16)["threads"] == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"thread": "2"}, "option 'thread' is not known; transformers knows threads"),
        ({"threads": "two"}, "option threads='two' must be a positive whole number"),
        ({"threads": "0"}, "option threads='0' must be a positive whole number"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        Transformers(replace(TARGET, options=options), [FP16])


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    random_model(TINY, n_layers=2, dtype=torch.bfloat16).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"has [\d,]+ parameters, tiny has [\d,]+: name the model"):
        Transformers(replace(TARGET, weights=tmp_path), [FP16])


def test_more_tokens_than_the_context_holds_are_refused(engines: Engines) -> None:
    complaint = "8,190 prompt tokens and 3 new ones exceed the context of tiny, 8,192 tokens"
    with pytest.raises(UsageError, match=complaint):
        engines[Transformers].generate(FP16, bsz=1, prompt_len=8190, output_len=3, seed=0)
    with pytest.raises(UsageError, match=complaint):
        engines[Transformers].usage(FP16, prompt_len=8190, output_len=3)


def test_random_weights_do_not_pretend_to_speak(engines: Engines) -> None:
    with pytest.raises(EngineError, match=r"random weights of tiny, .* give real ones with --weights"):
        engines[Transformers].complete(FP16, "One, two,", max_tokens=3)


def test_a_lack_of_memory_says_what_to_do() -> None:
    complaint = "transformers at 8 x 9: out of memory; serve fewer or shorter sequences"
    with pytest.raises(EngineError, match=complaint), failures("transformers at 8 x 9"):
        torch.empty(2**50, dtype=torch.uint8)


def test_other_failures_keep_their_reason() -> None:
    with pytest.raises(EngineError, match=r"here: .*size of tensor"), failures("here"):
        torch.ones(2) + torch.ones(3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Transformers, TransformersEager, TransformersPaged], ids=lambda k: k.name)
def test_text_is_that_of_transformers_own_greedy_generation(
    kind: type[Transformers], smollm2_folder: Path
) -> None:
    prompt = "The capital of France is"
    engine = kind(Target(model=get_model("smollm2-135m"), weights=smollm2_folder, dtype="float32"), [FP16])
    try:
        text = engine.complete(FP16, prompt, max_tokens=12)
    finally:
        engine.close()
    model, tokenizer = load_model(smollm2_folder, dtype=torch.float32), load_tokenizer(smollm2_folder)
    inputs = tokenizer(prompt, return_tensors="pt")
    tokens: Any = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    own = tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text == own != ""

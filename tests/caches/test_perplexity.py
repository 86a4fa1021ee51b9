"""What each method costs in perplexity: SmolLM2-135M reads Python's own language reference.

Prompts of 512 tokens, then 64 more, which the cache takes one by one and whose successors' cross-entropy is
scored: what a compressed cache does to what is read after it. Evicting methods keep 128 tokens; by default
they would keep them all.
"""

from __future__ import annotations

import math
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from kvpred.caches import cache_for
from kvpred.caches.fp16 import Fp16Layer
from kvpred.methods import get_method, list_methods
from kvpred.models.weights import load_model, load_tokenizer

pytestmark = pytest.mark.slow

BSZ, PROMPT_LEN, STEPS = 6, 512, 64

H2O, SNAPKV, STREAMINGLLM = (
    "h2o:heavy=32,recent=96",
    "snapkv:budget=128,window=32",
    "streamingllm:sinks=32,recent=96",
)
QUANTISING = ["kv-int8", "kv-fp8", "kv-int4", "kivi", "kivi:bits=2", "gear:bits=2"]
TURBOQUANT = ["turboquant:bits=k8v4", "turboquant:bits=4", "turboquant:bits=3"]
SPECS = ["fp16", *QUANTISING, *TURBOQUANT, H2O, SNAPKV, STREAMINGLLM]

NOISE = 0.02
"""Of cross-entropy per token: what wide codes may move it by, whose standard errors are 0.003 to 0.012."""


class Passed(NamedTuple):
    """What one layer of the model gave to its cache for the prompt, and got back."""

    given: tuple[Any, ...]
    got: Tensor


class ListeningLayer(Fp16Layer):
    """An uncompressed cache that keeps what passed."""

    passed: Passed

    def step(self, *given: Any) -> Tensor:
        self.passed = Passed(given, super().step(*given))
        return self.passed.got


@pytest.fixture(scope="module")
def loss(smollm2_folder: Path) -> dict[str, float]:
    """Mean cross-entropy per token under each method, in nats."""
    tokenizer = load_tokenizer(smollm2_folder)
    text = "\n".join(topics[name] for name in sorted(topics))
    length = PROMPT_LEN + STEPS + 1
    tokens = torch.tensor(tokenizer(text[: 8 * BSZ * length]).input_ids[: BSZ * length]).view(BSZ, length)
    # Processors without 16-bit arithmetic take several times as long at 16 bit.
    model = load_model(smollm2_folder, dtype=torch.float32)
    with torch.inference_mode():
        prompt = read_prompt(model, tokens[:, :PROMPT_LEN])
        return {spec: cross_entropy_under(model, spec, prompt, tokens[:, PROMPT_LEN:]) for spec in SPECS}


def read_prompt(model: PreTrainedModel, tokens: Tensor) -> list[Passed]:
    """Pass the prompt through the model, once for all methods: they attend to it uncompressed."""
    cache = cache_for(model, "fp16")
    cache.layers = [ListeningLayer(cache.method) for _ in cache.layers]
    model(tokens, past_key_values=cache, logits_to_keep=1)
    return [layer.passed for layer in cache.layers]


def cross_entropy_under(model: PreTrainedModel, spec: str, prompt: list[Passed], tokens: Tensor) -> float:
    cache = cache_for(model, spec)
    for layer, passed in zip(cache.layers, prompt, strict=True):
        assert torch.equal(layer.step(*passed.given), passed.got), f"{spec} changes the prompt"
    logits = model(tokens[:, :-1], past_key_values=cache).logits
    return float(cross_entropy(logits.mT, tokens[:, 1:]))


def test_every_method_is_measured() -> None:
    assert {get_method(spec).name for spec in SPECS} == {method.name for method in list_methods()}


def test_the_model_reads_the_text(loss: dict[str, float]) -> None:
    assert 5 < math.exp(loss["fp16"]) < 20


@pytest.mark.parametrize("spec", ["kv-int8", "kv-fp8", "kivi", "turboquant:bits=k8v4"])
def test_wide_codes_cost_next_to_nothing(spec: str, loss: dict[str, float]) -> None:
    assert abs(loss[spec] - loss["fp16"]) < 2 * NOISE


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("kv-int8", "kv-int4"),
        ("kivi", "kivi:bits=2"),
        ("turboquant:bits=4", "turboquant:bits=3"),
        ("turboquant:bits=k8v4", "turboquant:bits=4"),  # keys want more bits than values
        ("kivi", "kv-int4"),  # keys quantised per channel, the latest tokens not at all
        ("gear:bits=2", "kivi:bits=2"),  # outliers and low-rank factors beside KIVI's codes
        ("fp16", H2O),
        ("fp16", SNAPKV),
        (H2O, STREAMINGLLM),  # position alone tells less than attention
        (SNAPKV, STREAMINGLLM),
    ],
)
def test_methods_rank_as_in_the_literature(better: str, worse: str, loss: dict[str, float]) -> None:
    assert loss[better] + NOISE < loss[worse]


@pytest.mark.parametrize("spec", SPECS)
def test_no_method_loses_the_text(spec: str, loss: dict[str, float]) -> None:
    assert loss["fp16"] - NOISE < loss[spec] < loss["fp16"] + 1

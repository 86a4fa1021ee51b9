"""Bytes that requests hold of a simulated cache."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.hardware import get_engine_spec
from kvpred.methods import get_method, list_methods
from kvpred.predictors.memory import predict_memory
from kvpred.simulation.memory import CacheBudget
from tests.made_up_traffic import PLACE

METHODS = [method.spec for method in list_methods()]
TOKEN = PLACE.model.kv_bytes_per_token()


def budget_of(method: str, engine: str = "lmdeploy", **options: float) -> CacheBudget:
    return CacheBudget.of(
        PLACE, get_method(method), get_engine_spec(engine), max_bsz=64, step_tokens=8192, **options
    )


def test_fp16_holds_whole_pages() -> None:
    # LMDeploy's pages hold 64 tokens: a prompt of 100 takes two, and the third begins with token 129, the
    # 29th of the answer.
    holding = budget_of("fp16").holding(100, 40)
    assert holding.prompt_bytes == 128 * TOKEN
    assert [int(pages) for pages in np.unique(holding.held_bytes // TOKEN)] == [128, 192]
    assert int(np.argmax(holding.held_bytes > 128 * TOKEN)) == 29
    assert len(holding.held_bytes) == 40


def test_an_evicting_method_gives_back_what_it_evicts() -> None:
    holding = budget_of("streamingllm").holding(2048, 100)
    assert holding.prompt_bytes == 2048 * TOKEN
    assert set(holding.held_bytes.tolist()) == {512 * TOKEN}


def test_a_quantised_cache_shrinks_when_its_16_bit_tail_is_quantised() -> None:
    held = budget_of("kivi", "transformers").holding(256, 300).held_bytes
    assert (np.diff(held) < 0).any()
    assert held[-1] > held[0]


@pytest.mark.parametrize("method", METHODS)
@given(prompt=st.integers(1, 3000), output=st.integers(1, 600))
def test_what_fits_alone_is_what_the_memory_arithmetic_says(method: str, prompt: int, output: int) -> None:
    holding = budget_of(method).holding(prompt, output)
    alone = predict_memory(
        PLACE.model, get_method(method), PLACE.device, bsz=1, prompt_len=prompt, output_len=output,
        block_tokens=64,
    )  # fmt: skip
    shared = int(get_method(method).cache_bytes(PLACE.model, bsz=0, kv_len=0))
    end = int(alone.kv_cache_bytes) + int(alone.page_rounding_bytes) - shared
    assert int(holding.held_bytes[-1]) == end
    assert holding.prompt_bytes >= int(alone.prefill_transient_bytes) - shared
    assert holding.most_bytes >= max(end, int(alone.prefill_transient_bytes) - shared)


@pytest.mark.parametrize("method", METHODS)
@given(prompt=st.integers(1, 3000), answered=st.integers(1, 600), left=st.integers(1, 100))
def test_after_a_restart_a_request_holds_no_more_than_it_would_have(
    method: str, prompt: int, answered: int, left: int
) -> None:
    # Otherwise a request that fits alone might not fit after a restart, and restart for ever.
    budget = budget_of(method)
    before = budget.holding(prompt, answered + left).held_bytes[answered:]
    assert (budget.holding(prompt + answered, left).held_bytes <= before).all()


def test_many_requests_are_counted_as_each_alone() -> None:
    rng = np.random.default_rng(0)
    budget = budget_of("kivi")
    prompts, outputs = rng.integers(1, 3000, 500), rng.integers(1, 1500, 500)
    together = list(budget.holdings(prompts, outputs))
    assert len(together) == 500
    for index in (0, 1, 250, 499):
        alone = budget.holding(int(prompts[index]), int(outputs[index]))
        assert together[index].prompt_bytes == alone.prompt_bytes
        assert (together[index].held_bytes == alone.held_bytes).all()


def test_the_budget_is_what_weights_reserve_and_activations_leave() -> None:
    spec = get_engine_spec("lmdeploy")
    memory = predict_memory(
        PLACE.model, get_method("fp16"), PLACE.device, bsz=64, prompt_len=128, prefill_tokens=8192
    )
    beside = memory.weights_bytes + spec.reserve_bytes + int(memory.activation_bytes)
    assert budget_of("fp16").capacity_bytes == memory.usable_bytes - beside


def test_lighter_weights_and_more_of_the_memory_leave_more_for_the_cache() -> None:
    plain = budget_of("fp16").capacity_bytes
    assert budget_of("fp16", weight_bits=4).capacity_bytes > plain
    assert budget_of("fp16", memory_utilization=0.95).capacity_bytes > plain

"""Hooks see every operator of a step, cover each layer without a gap, and leave nothing behind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from kvpred.caches import cache_for
from kvpred.data.profiles import SCHEMAS
from kvpred.profiling.clocks import CpuClock
from kvpred.profiling.stack import Stack
from kvpred.profiling.timeline import ONCE, Timeline, hooked, watched
from tests.tiny import CONFIG, TINY

SHARED = {*SCHEMAS["mlp"].operators, "lm_head"}
OWN = {
    "prefill": {*SCHEMAS["attention"].operators} - {"attn_decode"},
    "decode": {*SCHEMAS["attention"].operators} - {"attn_prefill"},
}
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
LAYERS = (0, 2)

pytestmark = pytest.mark.usefixtures("inference")


@pytest.fixture(params=FAMILIES)
def family_stack(request: pytest.FixtureRequest) -> Stack:
    """Stacks of the architectures that name their modules as Llama does."""
    config = AutoConfig.for_model(**CONFIG | {"model_type": request.param}, sliding_window=None)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    return Stack(model, TINY, TINY.n_layers, torch.Generator().manual_seed(0))


@contextmanager
def _probed(stack: Stack, cache: Any, layers: Any = LAYERS) -> Iterator[Timeline]:
    with hooked(stack.model, layers, CpuClock()) as timeline, watched(cache, layers, timeline):
        yield timeline


def _steps(stack: Stack, method: str) -> Iterator[tuple[str, Timeline]]:
    """Pass a prompt, then a token, and yield each step's timeline, not yet taken."""
    cache = cache_for(stack.model, method)
    with _probed(stack, cache) as timeline:
        token = stack.step(stack.tokens(bsz=2, length=24), cache)
        yield "prefill", timeline
        timeline.marks.clear()
        stack.step(token, cache)
        yield "decode", timeline


def test_every_operator_of_the_schema_is_seen_in_its_stage(family_stack: Stack) -> None:
    for stage, timeline in _steps(family_stack, "fp16"):
        assert set(timeline.take()) == SHARED | OWN[stage]


@pytest.mark.parametrize("method", ["fp16", "h2o", "kivi"])
def test_every_method_shows_the_same_operators(stack: Stack, method: str) -> None:
    for stage, timeline in _steps(stack, method):
        assert set(timeline.take()) == SHARED | OWN[stage]


def test_an_operator_is_timed_once_per_hooked_layer(stack: Stack) -> None:
    for _, timeline in _steps(stack, "fp16"):
        counts = {name: len(times) for name, times in timeline.take().items()}
        assert counts == {name: 1 if name in ONCE else len(LAYERS) for name in counts}


def test_a_layers_operators_add_up_to_its_span(family_stack: Stack) -> None:
    for _, timeline in _steps(family_stack, "fp16"):
        spans: dict[int, list[int]] = defaultdict(list)
        for _, layer, mark in timeline.marks:
            spans[layer].append(mark)
        whole = sum((spans[layer][-1] - spans[layer][0]) * 1e-9 for layer in LAYERS)
        operators = timeline.take()
        assert sum(sum(operators[name]) for name in operators if name not in ONCE) == pytest.approx(whole)


def test_what_lies_between_hooked_layers_is_not_counted(stack: Stack) -> None:
    """A pause in the layer between the hooked ones, and before the LM head, lengthens no operator."""
    clock = CpuClock()
    cache = cache_for(stack.model, "fp16")
    pauses = [clock.mark()]

    def pause(*_: Any) -> None:
        begin = clock.mark()
        while clock.mark() - begin < 50e6:
            pass
        pauses.append(clock.mark() - begin)

    inner = stack.model.get_decoder()
    handles = [module.register_forward_hook(pause) for module in (inner.layers[1], inner.norm)]
    try:
        with _probed(stack, cache) as timeline:
            begin = clock.mark()
            stack.step(stack.tokens(bsz=1, length=8), cache)
            step = (clock.mark() - begin) * 1e-9
    finally:
        for handle in handles:
            handle.remove()
    assert sum(map(sum, timeline.take().values())) < step - 2 * 50e-3


def _hooks(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_nothing_stays_behind(family_stack: Stack) -> None:
    cache = cache_for(family_stack.model, "fp16")
    before = [dict(vars(layer)) for layer in cache.layers]
    with _probed(family_stack, cache):
        assert _hooks(family_stack.model) > 0
        assert "update" in vars(cache)
    assert _hooks(family_stack.model) == 0
    assert "update" not in vars(cache)
    assert [dict(vars(layer)) for layer in cache.layers] == before


def test_nothing_stays_behind_a_step_that_fails(stack: Stack) -> None:
    cache = cache_for(stack.model, "fp16")
    with pytest.raises(IndexError), _probed(stack, cache):
        stack.step(torch.full((1, 4), TINY.vocab_size), cache)
    assert _hooks(stack.model) == 0
    assert not {"attend", "append", "evict"} & set(vars(cache.layers[0]))


def test_hooks_change_no_result(stack: Stack) -> None:
    tokens = stack.tokens(bsz=2, length=24)
    plain = stack.model(input_ids=tokens, past_key_values=cache_for(stack.model, "fp16")).logits
    cache = cache_for(stack.model, "fp16")
    with _probed(stack, cache):
        assert torch.equal(stack.model(input_ids=tokens, past_key_values=cache).logits, plain)


def test_a_model_of_other_modules_keeps_no_hook() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=256))
    with pytest.raises(AttributeError), hooked(model, [0], CpuClock()):
        pass
    assert _hooks(model) == 0


def test_a_step_that_passes_no_mark_is_an_error(stack: Stack) -> None:
    with hooked(stack.model, LAYERS, CpuClock()) as timeline, pytest.raises(RuntimeError, match="no hooked"):
        timeline.take()

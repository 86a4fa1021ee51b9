"""A point's times: one number per repeat, each operator where it belongs, bulk work spread evenly."""

from __future__ import annotations

import time
from statistics import fmean
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from kvpred.caches import CacheLayer, MethodCache
from kvpred.caches.fp16 import Fp16Layer
from kvpred.methods import Method, get_method
from kvpred.profiling import timing
from kvpred.profiling.clocks import CpuClock
from kvpred.profiling.grid import Grid, Site, StageGrid
from kvpred.profiling.stack import Stack
from kvpred.profiling.timeline import ONCE
from kvpred.profiling.timing import Timing, time_point
from tests.tiny import TINY

PAUSE = 0.03
PERIOD = 8
FP16 = get_method("fp16")


def _grid(repeats: int, steps: int) -> Grid:
    return Grid(decode=StageGrid(bsz=[1], length=[1]), repeats=repeats, steps=steps)


def _time(stack: Stack, site: Site, *, method: Method = FP16, repeats: int = 2, steps: int = 2) -> Timing:
    return time_point(stack, method, site, grid=_grid(repeats, steps), clock=CpuClock())


class PeriodicLayer(Fp16Layer):
    """An uncompressed cache that pauses, as if it compressed, whenever another period is full."""

    period = PERIOD

    def append(self, key: Tensor, value: Tensor) -> None:
        super().append(key, value)
        if self.seen and (self.seen + 1) % PERIOD == 0:
            time.sleep(PAUSE)


class RecordingLayer(Fp16Layer):
    """An uncompressed cache that notes how many tokens each decode step found."""

    found: ClassVar[list[int]] = []

    def attend(self, query: Tensor, scaling: float) -> Tensor:
        self.found.append(self.seen)
        return super().attend(query, scaling)


class StumblingLayer(Fp16Layer):
    """An uncompressed cache that pauses at its 32nd token."""

    def attend(self, query: Tensor, scaling: float) -> Tensor:
        if self.seen == 32:
            time.sleep(PAUSE)
        return super().attend(query, scaling)


class SlowLayer(Fp16Layer):
    """An uncompressed cache whose attention always pauses."""

    def attend(self, query: Tensor, scaling: float) -> Tensor:
        time.sleep(PAUSE)
        return super().attend(query, scaling)


def _stack_of(model: LlamaForCausalLM, *layers: type[CacheLayer]) -> Stack:
    """Return a stack whose cache is made of these layers."""

    class Own(Stack):
        def empty_cache(self, method: Method) -> MethodCache:
            cache = super().empty_cache(method)
            cache.layers = [layer(method) for layer in layers]
            return cache

        def filled_cache(self, method: Method, *, bsz: int, length: int) -> MethodCache:
            cache = super().filled_cache(method, bsz=bsz, length=length)
            for layer, own in zip(cache.layers, layers, strict=True):
                layer.__class__ = own
            return cache

    return Own(model, TINY, TINY.n_layers, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", ["fp16", "h2o", "kivi"])
@pytest.mark.parametrize("stage", ["prefill", "decode"])
def test_every_repeat_gives_one_number(stack: Stack, stage: str, method: str) -> None:
    timed = _time(stack, Site(stage, 2, 32), method=get_method(method), repeats=3)
    lists = (timed.step, timed.hooked_step, timed.operators_sum, *timed.operators.values())
    assert {len(times) for times in lists} == {3}
    assert all(time > 0 for times in lists for time in times)


def test_operators_add_up_each_as_often_as_a_step_runs_it(stack: Stack) -> None:
    timed = _time(stack, Site("decode", 2, 32), repeats=3)
    for repeat, total in enumerate(timed.operators_sum):
        once = sum(times[repeat] for name, times in timed.operators.items() if name in ONCE)
        layers = sum(times[repeat] for name, times in timed.operators.items() if name not in ONCE)
        assert total == pytest.approx(once + TINY.n_layers * layers)


@pytest.mark.alone
@pytest.mark.parametrize(("repeats", "steps"), [(2, 2), (3, 3), (2, 5), (4, 4), (3, 4)])
@pytest.mark.parametrize("length", [1, 64])
def test_a_bulk_compression_is_seen_and_spread_over_its_period(
    model: LlamaForCausalLM, length: int, repeats: int, steps: int
) -> None:
    stack = _stack_of(model, *3 * [PeriodicLayer])
    timed = _time(stack, Site("decode", 1, length), repeats=repeats, steps=steps)
    spread = PAUSE / PERIOD
    for upkeep in timed.operators["attn_kv_cache_save"]:
        assert 0.9 * spread < upkeep < PAUSE / 2
    for step in (*timed.step, *timed.hooked_step):
        assert 3 * 0.9 * spread < step < 3 * PAUSE / 2


@pytest.mark.parametrize("length", [17, 64])
def test_decode_steps_lie_evenly_about_the_length(model: LlamaForCausalLM, length: int) -> None:
    RecordingLayer.found.clear()
    _time(_stack_of(model, RecordingLayer, Fp16Layer, Fp16Layer), Site("decode", 1, length), repeats=3)
    measured = RecordingLayer.found[timing.WARM_UP :]
    assert len(measured) == 2 * 3 * 2
    assert fmean(measured) == length - 0.5


def test_a_cache_of_one_token_can_be_measured(stack: Stack) -> None:
    assert len(_time(stack, Site("decode", 2, 1)).step) == 2


@pytest.mark.alone
def test_steps_that_stumble_are_counted_as_outliers(model: LlamaForCausalLM) -> None:
    stack = _stack_of(model, StumblingLayer, Fp16Layer, Fp16Layer)
    timed = _time(stack, Site("decode", 1, 32), steps=5)
    assert timed.outliers >= 1
    assert max(timed.step) < PAUSE


@pytest.mark.alone
def test_repeats_take_turns_at_the_layers(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "HOOKED_LAYERS", 1)
    stack = _stack_of(model, Fp16Layer, SlowLayer, Fp16Layer)
    *others, slow = sorted(_time(stack, Site("decode", 1, 32), repeats=3).operators["attn_decode"])
    assert slow > PAUSE > max(others)


def test_timing_leaves_the_model_without_hooks(stack: Stack) -> None:
    _time(stack, Site("prefill", 1, 16))
    assert [module for module in stack.model.modules() if module._forward_hooks] == []

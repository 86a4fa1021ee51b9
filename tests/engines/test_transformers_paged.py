"""transformers' continuous batching."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from kvpred.engines.base import EngineError, Target
from kvpred.engines.transformers_paged import TransformersPaged
from kvpred.errors import UsageError
from kvpred.methods import get_method
from tests.tiny import TINY

TARGET = Target(model=TINY, max_tokens=1024, max_bsz=4)
FP16 = get_method("fp16")


@pytest.fixture(scope="module")
def engine() -> Iterator[TransformersPaged]:
    """A running manager of a tiny model."""
    engine = TransformersPaged(TARGET, [FP16])
    yield engine
    engine.close()


def test_a_batch_is_prefilled_together_and_decoded_together(engine: TransformersPaged) -> None:
    shapes: list[tuple[int, ...]] = []
    model: Any = engine._model
    hook = model.register_forward_pre_hook(
        lambda _, __, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    batch = engine.generate(FP16, bsz=4, prompt_len=200, output_len=5, seed=1)
    hook.remove()
    assert shapes == [(1, 800), (1, 4), (1, 4), (1, 4), (1, 4)]
    assert (batch.bsz, batch.output_len, batch.prompt_tokens) == (4, 5, (200, 200, 200, 200))


def test_the_managers_own_timings_lie_before_the_tokens_arrival(engine: TransformersPaged) -> None:
    batch = engine.generate(FP16, bsz=2, prompt_len=200, output_len=8, seed=1)
    assert batch.own_ttft_s is not None
    assert batch.own_tpot_s is not None
    assert 0 < batch.own_ttft_s < batch.ttft_s
    assert 0 < batch.own_tpot_s < batch.e2e_s / 7


def test_a_single_token_has_no_decode_step(engine: TransformersPaged) -> None:
    batch = engine.generate(FP16, bsz=2, prompt_len=50, output_len=1, seed=1)
    assert batch.output_len == 1
    assert batch.own_tpot_s is None


def test_a_running_sequence_takes_whole_pages(engine: TransformersPaged) -> None:
    usage = engine.usage(FP16, prompt_len=300, output_len=30)
    assert usage is not None
    assert 300 <= usage.kv_len < 330
    assert usage.cache_tokens == 512
    assert usage.cache_bytes == 512 * TINY.kv_bytes_per_token()
    assert usage.capacity_tokens == 1024 + 4 * 256
    engine.generate(FP16, bsz=4, prompt_len=250, output_len=6, seed=1)


@pytest.mark.parametrize(("bsz", "prompt_len"), [(5, 10), (4, 300)])
def test_a_batch_that_it_was_not_started_for_is_refused(
    engine: TransformersPaged, bsz: int, prompt_len: int
) -> None:
    with pytest.raises(UsageError, match="started for 4 sequences and 1,024 tokens in all, not for"):
        engine.generate(FP16, bsz=bsz, prompt_len=prompt_len, output_len=2, seed=0)


def test_only_the_uncompressed_cache_is_served() -> None:
    with pytest.raises(UsageError, match="transformers-paged does not serve kivi; it serves fp16"):
        TransformersPaged(TARGET, [get_method("kivi")])


def test_pages_that_memory_cannot_hold_are_refused_at_the_start() -> None:
    with pytest.raises(EngineError, match=r"cannot keep 1,000,000,000 tokens: out of memory"):
        TransformersPaged(replace(TARGET, max_tokens=10**9), [FP16])


def test_nothing_runs_after_it_is_closed() -> None:
    before = threading.active_count()
    engine = TransformersPaged(TARGET, [FP16])
    assert threading.active_count() == before + 1
    engine.close()
    engine.close()
    assert threading.active_count() == before


def test_a_manager_that_has_ended_is_an_error_and_no_hang() -> None:
    engine = TransformersPaged(TARGET, [FP16])
    engine._manager.stop(hard_stop=True)
    with pytest.raises(EngineError, match=r"transformers-paged at 1 x 9 tokens: .*no generation loop"):
        engine.generate(FP16, bsz=1, prompt_len=9, output_len=2, seed=0)
    engine.close()

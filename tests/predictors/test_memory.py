import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kvpred.errors import UsageError
from kvpred.hardware import get_device, get_engine_spec
from kvpred.methods import get_method, list_methods
from kvpred.models import get_model
from kvpred.predictors.memory import MemoryEstimate, predict_memory

LLAMA = get_model("llama-2-7b")
A6000 = get_device("a6000")
FP16 = get_method("fp16")


def test_fp16_peak_matches_hand_count() -> None:
    found = predict_memory(LLAMA, FP16, A6000, bsz=4, prompt_len=1000, output_len=25, block_tokens=64)
    assert found.weights_bytes == 2 * 6_738_415_616
    assert found.kv_cache_bytes == 4 * 1024 * 524_288  # 1,000 + 25 - 1 tokens of 512 KiB
    assert found.page_rounding_bytes == 0  # 16 whole pages of 64
    assert found.prefill_transient_bytes == 4 * 1000 * 524_288
    # 4,000 tokens x (stream and norm 2 x 4,096, MLP 2 x 11,008) x 2 bytes; 4 x 32,000 logits of 4 bytes.
    assert found.activation_bytes == 4000 * (2 * 4096 + 2 * 11008) * 2 + 4 * 32_000 * 4
    assert found.reserve_bytes == 2**30
    assert found.peak_memory_bytes == (
        found.weights_bytes + found.kv_cache_bytes + found.activation_bytes + found.reserve_bytes
    )
    assert found.usable_bytes == int(0.9 * 49_140 * 2**20)
    assert found.fits


def test_attentions_tensors_count_where_they_are_the_larger() -> None:
    narrow = dataclasses.replace(LLAMA, intermediate_size=1024)
    found = predict_memory(narrow, FP16, A6000, bsz=1, prompt_len=10)
    assert found.activation_bytes == 10 * (2 * 4096 + 4 * 4096) * 2 + 32_000 * 4


def test_a_started_page_counts_whole() -> None:
    found = predict_memory(LLAMA, FP16, A6000, bsz=3, prompt_len=1000, output_len=26, block_tokens=64)
    assert found.page_rounding_bytes == 3 * 63 * 524_288


def test_an_evicting_methods_pages_follow_what_it_stores() -> None:
    stream = get_method("streamingllm:sinks=4,recent=496")
    found = predict_memory(LLAMA, stream, A6000, bsz=2, prompt_len=4000, block_tokens=64)
    assert found.page_rounding_bytes == 2 * 12 * 524_288  # 500 tokens in 8 pages of 64


def test_a_prompt_is_held_uncompressed_before_it_is_quantised() -> None:
    found = predict_memory(LLAMA, get_method("kivi"), A6000, bsz=1, prompt_len=2048, output_len=1)
    assert found.prefill_transient_bytes == 2**30
    assert found.kv_cache_bytes < 2**30
    others = found.weights_bytes + found.activation_bytes + found.reserve_bytes
    assert found.peak_memory_bytes == others + 2**30


def test_a_method_that_compresses_on_write_holds_no_16_bit_prompt() -> None:
    found = predict_memory(LLAMA, get_method("kv-int4"), A6000, bsz=1, prompt_len=2048, output_len=1)
    assert found.prefill_transient_bytes == found.kv_cache_bytes


def test_decoding_far_beyond_the_prompt_makes_the_cache_the_peak() -> None:
    found = predict_memory(LLAMA, get_method("kivi"), A6000, bsz=1, prompt_len=64, output_len=4000)
    others = found.weights_bytes + found.activation_bytes + found.reserve_bytes
    assert found.peak_memory_bytes == others + found.kv_cache_bytes > others + found.prefill_transient_bytes


def test_a_prefill_chunk_bounds_the_activations() -> None:
    def activations(bsz: int) -> int:
        return predict_memory(
            LLAMA, FP16, A6000, bsz=bsz, prompt_len=2048, prefill_tokens=8192
        ).activation_bytes

    logits = 32_000 * 4
    assert activations(2) - 2 * logits == 4096 * 60_416
    assert activations(4) - 4 * logits == activations(16) - 16 * logits == 8192 * 60_416


def test_parts_of_the_cache_add_up() -> None:
    found = predict_memory(LLAMA, get_method("gear"), A6000, bsz=8, prompt_len=2000)
    assert sum(found.kv_cache_parts.values()) == found.kv_cache_bytes


def test_4_bit_weights_decide_that_a_70b_model_fits_one_a6000() -> None:
    def fits(bits: int) -> bool:
        model = get_model("llama-3.1-70b")
        return bool(predict_memory(model, FP16, A6000, bsz=1, prompt_len=2048, weight_bits=bits).fits)

    assert [fits(16), fits(8), fits(4)] == [False, False, True]


def test_no_batch_fits_where_the_weights_do_not() -> None:
    found = predict_memory(get_model("llama-2-70b"), FP16, A6000, bsz=1, prompt_len=16)
    assert (found.max_bsz, found.fits) == (0, False)


def test_every_published_llama_2_7b_run_fits_the_card_it_ran_on(shared_data: Path) -> None:
    folder = shared_data / "a6000" / "throughput"
    names = {
        "None-16": "fp16",
        "KIVI-4": "kivi",
        "GEAR-4": "gear",
        "H2O-16": "h2o",
        "StreamingLLM-16": "streamingllm",
    }
    engine = get_engine_spec("lmdeploy")
    too_large = []
    for file in folder.glob("*.csv"):
        for row in csv.DictReader(file.open()):
            if row["model"].endswith("Llama-2-7b-hf"):
                found = predict_memory(
                    LLAMA,
                    get_method(names[row["method"]]),
                    A6000,
                    bsz=int(row["bsz"]),
                    prompt_len=int(row["prompt_len"]),
                    block_tokens=engine.block_tokens,
                    prefill_tokens=engine.prefill_tokens,
                )
                too_large += [] if found.fits else [row]
    assert too_large == []


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"bsz": 0}, "bsz=0 must be at least 1"),
        ({"bsz": -3}, "bsz=-3 must be between 0"),
        ({"bsz": 1.5}, "bsz=1.5 must be whole numbers"),
        ({"bsz": [4, 0]}, "bsz=0 must be at least 1"),
        ({"prompt_len": 0}, "prompt_len=0 must be at least 1"),
        ({"prompt_len": 10**12}, "prompt_len=1000000000000 must be between 0 and 10,000,000"),
        ({"output_len": 0}, "output_len=0 must be at least 1"),
        ({"block_tokens": 0}, "block_tokens=0 must be at least 1"),
        ({"prefill_tokens": 0}, "prefill_tokens=0 must be at least 1"),
        ({"reserve_bytes": -1}, "reserve_bytes=-1 must be between 0"),
        ({"memory_utilization": 0.0}, "memory_utilization=0.0 must be above 0 and at most 1"),
        ({"memory_utilization": 1.1}, "memory_utilization=1.1 must be above 0 and at most 1"),
        ({"memory_utilization": float("nan")}, "memory_utilization=nan must be above 0"),
        ({"tp": 5}, "tp=5 does not divide the 32 query heads"),
        ({"weight_bits": 5}, "weight_bits=5 is not known"),
    ],
)
def test_requests_that_make_no_sense_are_refused(wrong: dict, complaint: str) -> None:
    with pytest.raises(UsageError) as error:
        predict_memory(LLAMA, FP16, A6000, **{"bsz": 1, "prompt_len": 128, **wrong})
    assert complaint in str(error.value)


def test_narrow_integers_do_not_overflow() -> None:
    narrow = predict_memory(
        LLAMA, FP16, A6000, bsz=np.array([200], np.int16), prompt_len=np.array([9000], np.int16)
    )
    plain = predict_memory(LLAMA, FP16, A6000, bsz=200, prompt_len=9000)
    assert narrow.peak_memory_bytes.tolist() == [plain.peak_memory_bytes]


models = st.sampled_from([get_model(name) for name in ("llama-2-7b", "llama-3-8b", "llama-3.1-70b")])
methods = st.sampled_from(list_methods())
requests = st.fixed_dictionaries(
    {
        "bsz": st.integers(1, 200),
        "prompt_len": st.integers(1, 20_000),
        "output_len": st.integers(1, 2_000),
        "tp": st.sampled_from([1, 2, 4, 8]),
        "weight_bits": st.sampled_from([16, 8, 4]),
        "block_tokens": st.sampled_from([1, 16, 64]),
        "prefill_tokens": st.none() | st.integers(1, 10_000),
        "memory_utilization": st.floats(0.3, 1.0),
    }
)


@given(models, methods, requests)
def test_a_batch_fits_just_if_it_is_no_larger_than_the_largest(model, method, request: dict) -> None:
    found = predict_memory(model, method, A6000, **request)
    assert found.fits == (request["bsz"] <= found.max_bsz)
    assume(found.max_bsz < 100_000)  # the most that may be asked for

    def fits(bsz: int) -> bool:
        return bool(predict_memory(model, method, A6000, **{**request, "bsz": bsz}).fits)

    if found.max_bsz:
        assert fits(found.max_bsz)
    assert not fits(found.max_bsz + 1)


@given(models, methods, requests, st.integers(0, 2**37))
def test_more_memory_never_shrinks_the_largest_batch(model, method, request: dict, more: int) -> None:
    larger = dataclasses.replace(A6000, memory_bytes=A6000.memory_bytes + more)
    here, there = (predict_memory(model, method, device, **request) for device in (A6000, larger))
    assert here.max_bsz <= there.max_bsz


@given(models, methods, requests, st.integers(0, 100))
def test_more_sequences_never_need_less_memory(model, method, request: dict, more: int) -> None:
    few = predict_memory(model, method, A6000, **request)
    many = predict_memory(model, method, A6000, **{**request, "bsz": request["bsz"] + more})
    assert few.peak_memory_bytes <= many.peak_memory_bytes


@given(models, methods, requests, st.integers(0, 20))
def test_a_longer_prompt_never_needs_less_memory(model, method, request: dict, steps: int) -> None:
    # KIVI moves 128 keys at a time out of 16 bit: its cache grows from one such moment to the next.
    short = predict_memory(model, method, A6000, **request)
    long = predict_memory(
        model, method, A6000, **{**request, "prompt_len": request["prompt_len"] + 128 * steps}
    )
    assert short.kv_cache_bytes <= long.kv_cache_bytes
    assert short.prefill_transient_bytes <= long.prefill_transient_bytes


@given(methods, requests, st.lists(st.integers(1, 9_000), min_size=1, max_size=4))
def test_arrays_give_what_scalars_give(method, request: dict, prompts: list[int]) -> None:
    together = predict_memory(LLAMA, method, A6000, **{**request, "prompt_len": np.array(prompts)})
    alone = [predict_memory(LLAMA, method, A6000, **{**request, "prompt_len": p}) for p in prompts]
    for field in dataclasses.fields(MemoryEstimate):
        found, each = getattr(together, field.name), [getattr(one, field.name) for one in alone]
        if field.name == "kv_cache_parts":
            assert {k: v.tolist() for k, v in found.items()} == {k: [e[k] for e in each] for k in found}
        else:
            assert np.broadcast_to(found, len(prompts)).tolist() == each
            assert all(type(value) in (int, bool) for value in each)

"""What holds for every method, whatever its parameters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.errors import UsageError
from kvpred.methods import Method, Traffic, get_method, list_methods
from kvpred.models import get_model

MODELS = [get_model(name) for name in ("smollm2-135m", "llama-2-7b", "llama-3-8b")]

methods = st.one_of(
    st.sampled_from(list_methods()),
    st.builds(
        "{}:bits={},group_size={},residual_length={}".format,
        st.sampled_from(["kivi", "gear"]),
        st.sampled_from([2, 4, 8]),
        st.sampled_from([8, 16, 32]),
        st.sampled_from([32, 64, 128]),
    ).map(get_method),
    st.builds("gear:outlier={},rank={}".format, st.floats(0, 0.5), st.floats(0, 0.5)).map(get_method),
    st.builds("h2o:heavy={},recent={}".format, st.integers(1, 3000), st.integers(1, 3000)).map(get_method),
    st.builds("streamingllm:sinks={},recent={}".format, st.integers(0, 64), st.integers(1, 3000)).map(
        get_method
    ),
    st.builds("snapkv:budget={},window={}".format, st.integers(40, 4000), st.integers(1, 39)).map(get_method),
    st.builds("turboquant:bits=k{}v{}".format, st.integers(2, 8), st.integers(2, 8)).map(get_method),
)
models = st.sampled_from(MODELS)
lengths = st.integers(0, 20_000)
batches = st.integers(0, 256)

# KIVI moves keys out of 16 bit 128 at a time at most (residual lengths here divide 128): between such moments
# a longer sequence may take fewer bytes, from one to the next it never does.
FLUSH = 128


@given(methods)
def test_the_full_spelling_reads_back(method: Method) -> None:
    assert get_method(method.spec) == method
    assert get_method(method.spec).spec == method.spec


@given(methods, models, st.lists(lengths, min_size=1, max_size=5), batches, st.integers(0, 500))
def test_arrays_give_what_scalars_give(
    method: Method, model, prompts: list[int], bsz: int, more: int
) -> None:
    prompt = np.array(prompts)
    kv_len = prompt + more
    for part, found in method.cache_parts(model, bsz=bsz, kv_len=kv_len, prompt_len=prompt).items():
        each = [method.cache_parts(model, bsz=bsz, kv_len=p + more, prompt_len=p)[part] for p in prompts]
        assert isinstance(found, np.ndarray) and found.dtype == np.int64
        assert found.tolist() == each
        assert all(type(value) is int for value in each)
    for question in (method.attended_tokens, method.stored_tokens):
        each = [question(p + more, prompt_len=p) for p in prompts]
        assert question(kv_len, prompt_len=prompt).tolist() == each
    decode = method.decode_traffic(model, kv_len=kv_len, prompt_len=prompt)
    prefill = method.prefill_traffic(model, prompt_len=prompt)
    for i, p in enumerate(prompts):
        assert at(decode, i) == method.decode_traffic(model, kv_len=p + more, prompt_len=p)
        assert at(prefill, i) == method.prefill_traffic(model, prompt_len=p)


def at(traffic: Traffic, i: int) -> Traffic:
    return Traffic(traffic.read_bytes[i], traffic.write_bytes[i], traffic.flops[i])


@given(methods, models, lengths, st.integers(0, 20), batches)
def test_a_longer_sequence_never_takes_fewer_bytes(
    method: Method, model, kv_len: int, steps: int, bsz: int
) -> None:
    shorter = method.cache_bytes(model, bsz=bsz, kv_len=kv_len, prompt_len=0)
    longer = method.cache_bytes(model, bsz=bsz, kv_len=kv_len + FLUSH * steps, prompt_len=0)
    assert 0 <= shorter <= longer


@given(methods, models, lengths, batches, batches)
def test_bytes_are_linear_in_the_batch(method: Method, model, kv_len: int, a: int, b: int) -> None:
    def count(bsz: int) -> int:
        return method.cache_bytes(model, bsz=bsz, kv_len=kv_len)

    assert count(a) + count(b) == count(a + b) + count(0)
    assert count(a) <= count(a + b)


@given(methods, lengths, st.integers(0, 500))
def test_attended_tokens_never_exceed_the_sequence(method: Method, prompt_len: int, more: int) -> None:
    kv_len = prompt_len + more
    attended = method.attended_tokens(kv_len, prompt_len=prompt_len)
    assert 0 <= attended <= kv_len
    assert attended <= method.stored_tokens(kv_len, prompt_len=prompt_len)


@given(methods, models, st.integers(1, 20_000))
def test_a_compressed_prompt_is_never_cheaper_to_attend_over_than_fp16s(
    method: Method, model, prompt_len: int
) -> None:
    plain = get_method("fp16").prefill_traffic(model, prompt_len=prompt_len)
    traffic = method.prefill_traffic(model, prompt_len=prompt_len)
    assert traffic.flops >= plain.flops
    assert traffic.read_bytes >= plain.read_bytes


@given(methods, lengths)
def test_two_devices_share_a_sequence_evenly(method: Method, kv_len: int) -> None:
    model = get_model("llama-3-8b")

    def sequence(tp: int) -> int:
        one = method.cache_bytes(model, bsz=1, kv_len=kv_len, tp=tp)
        return one - method.cache_bytes(model, bsz=0, kv_len=kv_len, tp=tp)

    # GEAR rounds the values' outliers up on each device: at most two of 4 bytes a token and layer more.
    assert sequence(1) <= 2 * sequence(2) <= sequence(1) + 8 * kv_len * model.n_layers
    if "outliers" not in method.cache_parts(model, bsz=1, kv_len=0):
        assert 2 * sequence(2) == sequence(1)


@pytest.mark.parametrize("method", list_methods(), ids=lambda m: m.name)
def test_heads_that_tp_does_not_divide_are_refused(method: Method) -> None:
    with pytest.raises(UsageError, match="tp=2 does not divide the 9 query heads, 3 KV heads"):
        method.cache_bytes(get_model("smollm2-135m"), bsz=1, kv_len=1, tp=2)


@pytest.mark.parametrize("method", list_methods(), ids=lambda m: m.name)
@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"kv_len": -1}, "kv_len=-1 must be between 0 and 10,000,000"),
        ({"kv_len": 10**9}, "kv_len=1000000000 must be between 0 and 10,000,000"),
        ({"kv_len": 1.5}, "kv_len=1.5 must be whole numbers"),
        ({"kv_len": 5, "prompt_len": 6}, "prompt_len=6 must not exceed kv_len=5"),
        ({"bsz": -1}, "bsz=-1 must be between 0 and 100,000"),
    ],
)
def test_absurd_requests_are_refused(method: Method, wrong: dict, complaint: str) -> None:
    with pytest.raises(UsageError) as error:
        method.cache_bytes(MODELS[0], **{"bsz": 1, "kv_len": 10, **wrong})
    assert complaint in str(error.value)


def test_the_largest_request_still_counts_exactly() -> None:
    model = get_model("llama-2-13b")
    assert (
        get_method("fp16").cache_bytes(model, bsz=10**5, kv_len=10**7) == 10**12 * model.kv_bytes_per_token()
    )

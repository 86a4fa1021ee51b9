"""What proves that a method took effect and serves no garbage."""

from __future__ import annotations

import pytest

from kvpred.engines.base import Usage
from kvpred.engines.proof import Probe, copying_tasks, prove
from kvpred.methods import get_method
from kvpred.models import get_model

MODEL = get_model("smollm2-135m")
FULL = float(get_method("fp16").cache_bytes(MODEL, bsz=1, kv_len=1040))
FP16 = Probe(Usage(1040, cache_bytes=FULL, cache_tokens=1056, capacity_tokens=10_000), right=0.9)


def test_the_answer_stands_in_the_prompt() -> None:
    for prompt, asked in copying_tasks():
        assert " ".join(asked) in prompt
        assert not prompt.endswith(asked[0])


def test_half_the_bytes_prove_eight_bits() -> None:
    proof = prove(get_method("kv-int8"), _taking(0.55), baseline=FP16, model=MODEL)

    assert proof.took_effect is True
    assert "0.55 of fp16's bytes" in proof.text


def test_all_the_bytes_disprove_four_bits() -> None:
    assert prove(get_method("kv-int4"), _taking(1.0), baseline=FP16, model=MODEL).took_effect is False


def test_bytes_need_no_run_of_fp16() -> None:
    assert prove(get_method("kv-int4"), _taking(0.3), baseline=None, model=MODEL).took_effect is True
    assert prove(get_method("kv-int4"), _taking(1.0), baseline=None, model=MODEL).took_effect is False


def test_an_eight_bit_cache_is_no_fp16() -> None:
    assert prove(get_method("fp16"), _taking(0.53), baseline=FP16, model=MODEL).took_effect is False
    assert prove(get_method("fp16"), _taking(1.02), baseline=FP16, model=MODEL).took_effect is True


def test_fewer_tokens_prove_eviction() -> None:
    evicted = Probe(Usage(1040, cache_bytes=FULL, cache_tokens=544), right=0.9)
    kept = Probe(Usage(1040, cache_bytes=FULL, cache_tokens=1056), right=0.9)

    assert prove(get_method("h2o"), evicted, baseline=FP16, model=MODEL).took_effect is True
    assert prove(get_method("h2o"), kept, baseline=FP16, model=MODEL).took_effect is False


@pytest.mark.parametrize(("capacity", "holds"), [(19_000, True), (10_100, False)])
def test_a_larger_capacity_proves_a_servers_format(capacity: float, holds: bool) -> None:
    served = Probe(Usage(1040, capacity_tokens=capacity), right=0.9)

    assert prove(get_method("kv-fp8"), served, baseline=FP16, model=MODEL).took_effect is holds


def test_what_the_engine_does_not_tell_stays_open() -> None:
    proof = prove(get_method("kv-int4"), Probe(None, right=0.9), baseline=FP16, model=MODEL)

    assert proof.took_effect is None
    assert proof.sound is True


def test_words_that_are_not_in_the_context_are_garbage() -> None:
    usage = Usage(1040, cache_bytes=0.3 * FULL)

    assert prove(get_method("kv-int4"), Probe(usage, right=0.02), baseline=FP16, model=MODEL).sound is False
    assert prove(get_method("kv-int4"), Probe(usage, right=0.6), baseline=FP16, model=MODEL).sound is True
    assert prove(get_method("kv-int4"), Probe(usage, right=0.02), baseline=None, model=MODEL).sound is False


def test_a_model_that_cannot_copy_is_no_judge() -> None:
    unable = Probe(FP16.usage, right=0.2)

    assert prove(get_method("kv-int4"), Probe(None, right=0.0), baseline=unable, model=MODEL).sound is None


def test_random_weights_have_no_text_to_judge() -> None:
    proof = prove(get_method("kv-int8"), Probe(None, right=None), baseline=FP16, model=MODEL)

    assert proof.sound is None
    assert "random weights" in proof.text


def _taking(share: float) -> Probe:
    return Probe(Usage(1040, cache_bytes=share * FULL), right=0.9)

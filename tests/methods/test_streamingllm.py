import pytest

from kvpred.errors import UsageError
from kvpred.methods import get_method
from kvpred.models import ModelSpec


@pytest.mark.parametrize(("kv_len", "kept"), [(100, 100), (512, 512), (1000, 512)])
def test_streamingllm_memory_matches_hand_count(tiny: ModelSpec, kv_len: int, kept: int) -> None:
    assert get_method("streamingllm").cache_parts(tiny, bsz=4, kv_len=kv_len) == {"kv": 4 * kept * 1024}


def test_streamingllm_costs_nothing_extra_while_the_prompt_fits(tiny: ModelSpec) -> None:
    plain = get_method("fp16").prefill_traffic(tiny, prompt_len=512)
    assert get_method("streamingllm").prefill_traffic(tiny, prompt_len=512) == plain


def test_streamingllm_moves_what_it_keeps_of_a_longer_prompt(tiny: ModelSpec) -> None:
    plain = get_method("fp16").prefill_traffic(tiny, prompt_len=513)
    traffic = get_method("streamingllm").prefill_traffic(tiny, prompt_len=513)
    assert traffic.read_bytes - plain.read_bytes == traffic.write_bytes - plain.write_bytes == 512 * 1024


def test_streamingllm_decode_reads_only_its_budget(tiny: ModelSpec) -> None:
    assert (
        get_method("streamingllm:sinks=4,recent=60").decode_traffic(tiny, kv_len=900).read_bytes == 64 * 1024
    )


@pytest.mark.parametrize("spec", ["streamingllm:sinks=-1", "streamingllm:recent=0"])
def test_streamingllm_refuses_empty_windows(spec: str) -> None:
    with pytest.raises(UsageError, match="must be from"):
        get_method(spec)

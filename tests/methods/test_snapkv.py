import pytest

from kvpred.errors import UsageError
from kvpred.methods import get_method
from kvpred.models import ModelSpec


def test_snapkv_keeps_everything_of_a_short_prompt(tiny: ModelSpec) -> None:
    assert get_method("snapkv").cache_parts(tiny, bsz=1, kv_len=500, prompt_len=400) == {"kv": 500 * 1024}


def test_snapkv_memory_matches_hand_count_above_its_budget(tiny: ModelSpec) -> None:
    # 512 of the prompt's 1,000 tokens, and all 100 that decoding added.
    assert get_method("snapkv").cache_parts(tiny, bsz=2, kv_len=1100, prompt_len=1000) == {
        "kv": 2 * 612 * 1024
    }


def test_snapkv_does_not_evict_what_decoding_adds() -> None:
    snapkv = get_method("snapkv")
    assert [snapkv.attended_tokens(1000 + n, prompt_len=1000) for n in (0, 1, 600)] == [512, 513, 1112]


def test_snapkv_prefill_scores_the_window(tiny: ModelSpec) -> None:
    plain = get_method("fp16").prefill_traffic(tiny, prompt_len=1000)
    traffic = get_method("snapkv").prefill_traffic(tiny, prompt_len=1000)
    # 32 queries x 4 heads x 1,000 keys x (2 x 64 + 2); pooling over 7 and a comparison per KV head; 2 layers.
    assert traffic.flops - plain.flops == 2 * 1000 * (32 * 4 * 130 + 2 * (7 + 1))
    assert traffic.read_bytes - plain.read_bytes == 1000 * 512 + 512 * 1024


def test_snapkv_prefill_is_plain_while_the_prompt_fits(tiny: ModelSpec) -> None:
    plain = get_method("fp16").prefill_traffic(tiny, prompt_len=512)
    assert get_method("snapkv").prefill_traffic(tiny, prompt_len=512) == plain


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("snapkv:budget=1", "budget=1 must be from 2"),
        ("snapkv:window=512", "window=512 must be from 1 to 511"),
        ("snapkv:kernel=4", "kernel=4 must be odd and positive"),
    ],
)
def test_snapkv_refuses_parameters_that_do_not_fit(spec: str, complaint: str) -> None:
    with pytest.raises(UsageError) as error:
        get_method(spec)
    assert complaint in str(error.value)

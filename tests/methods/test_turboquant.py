import pytest

from kvpred.errors import UsageError
from kvpred.methods import get_method
from kvpred.models import ModelSpec


def test_turboquant_memory_matches_hand_count(tiny: ModelSpec) -> None:
    parts = get_method("turboquant").cache_parts(tiny, bsz=3, kv_len=10)
    assert parts == {
        "codes": 3
        * 10
        * 2
        * 2
        * (32 + 32),  # sequences x tokens x layers x heads x 64 codes of 4 bits, twice
        "norms": 3 * 10 * 2 * 2 * (2 + 2),
        "rotation": 2 * 64 * 64 * 2,  # one per layer, however many sequences
        "codebooks": 2 * (16 + 16) * 2,
    }


def test_turboquant_with_wider_keys_matches_hand_count(tiny: ModelSpec) -> None:
    parts = get_method("turboquant:bits=k8v4").cache_parts(tiny, bsz=1, kv_len=1000)
    assert parts["codes"] == 1000 * 2 * 2 * (64 + 32)
    assert parts["codebooks"] == 2 * (256 + 16) * 2


def test_turboquant_packs_3_bits_into_whole_bytes_per_head(tiny: ModelSpec) -> None:
    assert get_method("turboquant:bits=3").cache_parts(tiny, bsz=1, kv_len=1)["codes"] == 2 * 2 * (24 + 24)


def test_turboquant_writes_equal_widths_once() -> None:
    assert get_method("turboquant:bits=k4v4").spec == "turboquant:bits=4"


def test_turboquant_shared_tables_stand_alone_without_sequences(tiny: ModelSpec) -> None:
    assert get_method("turboquant").cache_bytes(tiny, bsz=0, kv_len=0) == 2 * 64 * 64 * 2 + 2 * 32 * 2


def test_turboquant_never_holds_a_16_bit_prompt(tiny: ModelSpec) -> None:
    method = get_method("turboquant")
    assert method.prefill_cache_bytes(tiny, bsz=2, prompt_len=500) == method.cache_bytes(
        tiny, bsz=2, kv_len=500
    )


def test_turboquant_decode_rotates_the_token_the_query_and_the_output(tiny: ModelSpec) -> None:
    plain = get_method("fp16").decode_traffic(tiny, kv_len=100)
    traffic = get_method("turboquant").decode_traffic(tiny, kv_len=100)
    rotations = (2 * 2 + 2 * 4) * 2 * 64 * 64  # K and V of 2 heads, query and output of 4
    entries = 2 * 2 * 64
    assert traffic.flops - plain.flops == 2 * (2 * entries * 100 + 4 * entries + rotations)
    assert traffic.read_bytes == 100 * 2 * 2 * (64 + 4)


@pytest.mark.parametrize("bits", ["1", "9", "16", "k8", "k1v4", "4v4", "k84v4", ""])
def test_turboquant_refuses_unknown_widths(bits: str) -> None:
    with pytest.raises(UsageError, match="must be a width from 2 to 8, or one each such as k8v4"):
        get_method(f"turboquant:bits={bits}")

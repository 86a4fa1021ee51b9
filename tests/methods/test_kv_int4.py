import pytest

from kvpred.methods import get_method
from kvpred.models import ModelSpec


@pytest.mark.parametrize("kv_len", [1, 10, 3000])
def test_kv_int4_memory_matches_hand_count(tiny: ModelSpec, kv_len: int) -> None:
    # Per token and layer, keys and values of 2 heads: 64 codes of 4 bits, an fp16 scale and an fp16 zero.
    parts = get_method("kv-int4").cache_parts(tiny, bsz=2, kv_len=kv_len)
    assert parts == {"codes": 2 * kv_len * 2 * 2 * 2 * 32, "scales_zeros": 2 * kv_len * 2 * 2 * 2 * 4}


def test_kv_int4_never_holds_a_16_bit_prompt(tiny: ModelSpec) -> None:
    assert get_method("kv-int4").prefill_cache_bytes(tiny, bsz=1, prompt_len=100) == 100 * 8 * (32 + 4)


def test_kv_int4_dequantises_in_registers(tiny: ModelSpec) -> None:
    plain = get_method("fp16").decode_traffic(tiny, kv_len=100)
    traffic = get_method("kv-int4").decode_traffic(tiny, kv_len=100)
    entries = 2 * 2 * 64 * 2  # of a token: K and V, heads, channels, layers
    assert traffic.flops - plain.flops == 2 * entries * 100 + 4 * entries
    assert traffic.write_bytes == 8 * (32 + 4)

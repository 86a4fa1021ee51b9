import pytest

from kvpred.methods import get_method
from kvpred.models import ModelSpec


@pytest.mark.parametrize("kv_len", [1, 10, 3000])
def test_kv_fp8_memory_matches_hand_count(tiny: ModelSpec, kv_len: int) -> None:
    # A byte per entry: K and V x 2 layers x 2 heads x 64. Scales: fp32 for K and V, 2 layers, 2 heads.
    parts = get_method("kv-fp8").cache_parts(tiny, bsz=5, kv_len=kv_len)
    assert parts == {"codes": 5 * kv_len * 512, "scales": 2 * 2 * 2 * 4}


def test_kv_fp8_writes_half_of_fp16(tiny: ModelSpec) -> None:
    fp16, fp8 = (get_method(name).prefill_traffic(tiny, prompt_len=64) for name in ("fp16", "kv-fp8"))
    assert fp8.write_bytes == fp16.write_bytes / 2

import pytest

from kvpred.errors import UsageError
from kvpred.methods import get_method
from kvpred.methods.gear import Gear
from kvpred.models import ModelSpec, get_model


def test_gear_adds_nothing_below_the_residual_length(tiny: ModelSpec) -> None:
    parts = get_method("gear").cache_parts(tiny, bsz=1, kv_len=100)
    assert parts == {"codes": 0, "scales_zeros": 0, "residual": 100 * 1024, "outliers": 0, "low_rank": 0}


def test_gear_memory_matches_hand_count(tiny: ModelSpec) -> None:
    # 300 tokens: 256 keys and 172 values are quantised, as with KIVI.
    parts = get_method("gear").cache_parts(tiny, bsz=1, kv_len=300)
    backbone = get_method("kivi").cache_parts(tiny, bsz=1, kv_len=300)
    # Keys: 8 blocks x 2 heads x 2 layers, each ceil(1 % of 32 x 64 = 20.48) = 21 a tail.
    key_outliers = 8 * 2 * 2 * (2 * 21)
    # Values: 172 tokens x 2 layers, each ceil(1 % of 2 heads x 64 = 1.28) = 2 a tail.
    value_outliers = 172 * 2 * (2 * 2)
    # Rank ceil(2 % of 64 = 1.28) = 2: A has a row per quantised token, B one per channel; for K and V.
    low_rank = ((256 + 64) + (172 + 64)) * 2 * 2 * 2 * 2  # x rank x heads x layers x 2 bytes
    assert parts == {**backbone, "outliers": 4 * (key_outliers + value_outliers), "low_rank": low_rank}


def test_gear_outliers_of_llama_2_7b_are_two_percent_of_the_quantised_entries() -> None:
    # Keys: 64 blocks x 32 heads x 2 x ceil(40.96); values: 1,920 tokens x 2 x ceil(40.96); 32 layers.
    outliers = get_method("gear").cache_parts(get_model("llama-2-7b"), bsz=1, kv_len=2048)["outliers"]
    assert outliers == 4 * 32 * (64 * 32 * 82 + 1920 * 82)
    assert outliers / 4 == pytest.approx(0.02 * (2048 + 1920) * 4096 * 32, rel=2e-3)


def test_gear_without_outliers_and_rank_is_kivi(tiny: ModelSpec) -> None:
    bare = Gear(outlier=0, rank=0).cache_bytes(tiny, bsz=3, kv_len=999)
    assert bare == get_method("kivi").cache_bytes(tiny, bsz=3, kv_len=999)


def test_gear_rank_of_a_whole_product_is_not_rounded_up() -> None:
    # 0.07 x 100 is 7.000000000000001 in floating point.
    spec = "gear:group_size=8,residual_length=8,rank=0.07,outlier=0"
    model = ModelSpec("m", "m", 1, 104, 1, 1, 200, 8, 8, 8, False, "made up")
    # 8 tokens: keys quantised, values not: A 8 rows, B 200 rows of rank 14, 2 bytes.
    assert get_method(spec).cache_parts(model, bsz=1, kv_len=8)["low_rank"] == (8 + 200) * 14 * 2


def test_gear_decode_upkeep_matches_hand_count(tiny: ModelSpec) -> None:
    kivi = get_method("kivi").decode_traffic(tiny, kv_len=300)
    gear = get_method("gear").decode_traffic(tiny, kv_len=300)
    # A token of keys brings 2 heads x 42 / 32 outliers on average, one of values 4; each tensor a row of A.
    assert gear.write_bytes - kivi.write_bytes == 2 * (4 * (2 * 42 / 32 + 4) + 2 * 2 * 2 * 2)
    outliers = (8 * 2 * 42 + 172 * 4) * 2
    attend = 2 * 4 * 2 * (256 + 172 + 2 * 64) * 2  # 2 FLOPs x heads x rank x (tokens + channels) x layers
    extend = 2 * 2 * 64 * (2 + 2 * 2) * 2  # tensors x heads x channels x (select + project) x layers
    assert gear.flops - kivi.flops == outliers + attend + extend


def test_gear_prefill_makes_three_power_iterations(tiny: ModelSpec) -> None:
    kivi = get_method("kivi").prefill_traffic(tiny, prompt_len=300)
    gear = get_method("gear").prefill_traffic(tiny, prompt_len=300)
    entries = 428 * 2 * 64 * 2
    assert gear.read_bytes - kivi.read_bytes == 3 * 2 * entries * 2
    assert gear.flops - kivi.flops == entries * 2 + 3 * 2 * entries * 2 * 2


@pytest.mark.parametrize("spec", ["gear:outlier=1", "gear:outlier=-0.1", "gear:rank=1.5", "gear:rank=nan"])
def test_gear_refuses_shares_out_of_range(spec: str) -> None:
    with pytest.raises(UsageError, match="must be from 0 to"):
        get_method(spec)


def test_gear_refuses_blocks_that_16_bits_cannot_index() -> None:
    method = get_method("gear:group_size=64,residual_length=128")
    model = ModelSpec("wide", "wide", 1, 2048, 1, 1, 2048, 8, 8, 8, False, "made up")
    with pytest.raises(UsageError, match="131,072 entries, more than a 16-bit index addresses"):
        method.cache_bytes(model, bsz=1, kv_len=8)

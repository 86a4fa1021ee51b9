import pytest

from kvpred.errors import UsageError
from kvpred.methods import get_method
from kvpred.methods.kivi import Kivi
from kvpred.models import ModelSpec, get_model


def test_kivi_keeps_16_bit_below_the_residual_length(tiny: ModelSpec) -> None:
    parts = get_method("kivi").cache_parts(tiny, bsz=1, kv_len=100)
    assert parts == {"codes": 0, "scales_zeros": 0, "residual": 100 * 1024}


def test_kivi_quantises_keys_but_no_values_at_the_residual_length(tiny: ModelSpec) -> None:
    parts = get_method("kivi").cache_parts(tiny, bsz=1, kv_len=128)
    assert parts == {
        "codes": 128 * 2 * 64 * 2 // 2,  # keys: tokens x heads x channels x layers, two codes a byte
        "scales_zeros": 4 * 64 * 2 * 2 * 4,  # 4 groups of 32 tokens x channels x heads x layers x 4 bytes
        "residual": 128 * 2 * 64 * 2 * 2,  # values: tokens x heads x channels x layers x 2 bytes
    }


def test_kivi_memory_matches_hand_count(tiny: ModelSpec) -> None:
    # 300 tokens: keys 300 mod 128 = 44 in 16 bit, 256 quantised; values 128 in 16 bit, 172 quantised.
    parts = get_method("kivi").cache_parts(tiny, bsz=2, kv_len=300)
    key_scales = (256 // 32) * 64 * 2 * 2 * 4  # groups of tokens x channels x heads x layers x 4 bytes
    value_scales = 172 * (64 // 32) * 2 * 2 * 4  # tokens x groups of channels x heads x layers x 4 bytes
    assert parts == {
        "codes": 2 * (256 + 172) * 2 * 64 * 2 // 2,
        "scales_zeros": 2 * (key_scales + value_scales),
        "residual": 2 * (44 + 128) * 2 * 64 * 2 * 2,
    }
    assert sum(parts.values()) == 2 * (54_784 + 13_696 + 88_064)


def test_kivi_at_2_bits_halves_the_codes_alone(tiny: ModelSpec) -> None:
    four = get_method("kivi:bits=4").cache_parts(tiny, bsz=1, kv_len=1000)
    two = get_method("kivi:bits=2").cache_parts(tiny, bsz=1, kv_len=1000)
    assert two == {**four, "codes": four["codes"] // 2}


def test_kivi_of_llama_2_7b_matches_hand_count() -> None:
    # 2,048 tokens: keys all quantised (a multiple of 128), values 1,920; per token, tensor and layer
    # 4,096 entries: 2,048 bytes of codes and 4,096 / 32 x 4 = 512 of scales; 128 values of 8,192 bytes.
    found = get_method("kivi").cache_bytes(get_model("llama-2-7b"), bsz=1, kv_len=2048)
    assert found == 32 * ((2048 + 1920) * (2048 + 512) + 128 * 8192)


def test_kivi_decode_upkeep_matches_hand_count(tiny: ModelSpec) -> None:
    kivi = get_method("kivi")
    traffic = kivi.decode_traffic(tiny, kv_len=300)
    # Two tensors each lose one token from the window: 128 entries a layer, read at 2 bytes, written as 64
    # bytes of codes and 16 of scales; 2 layers.
    assert traffic.read_bytes == kivi.cache_bytes(tiny, bsz=1, kv_len=300) + 2 * 2 * 128 * 2
    assert traffic.write_bytes == 1024 + 2 * 2 * (64 + 16)
    # Attention, 2 FLOPs per dequantised and 4 per quantised entry.
    assert traffic.flops == 4 * 4 * 64 * 300 * 2 + (2 * 428 + 4 * 2) * 128 * 2


def test_kivi_quantises_no_value_before_its_window_is_full(tiny: ModelSpec) -> None:
    assert get_method("kivi").decode_traffic(tiny, kv_len=50).write_bytes == 1024 + 1 * 2 * (64 + 16)


def test_kivi_prefill_reads_in_16_bit_what_it_quantises(tiny: ModelSpec) -> None:
    traffic = get_method("kivi").prefill_traffic(tiny, prompt_len=300)
    assert traffic.read_bytes == 300 * 1024 + 428 * 128 * 2 * 2
    assert traffic.write_bytes == 300 * 1024 + 54_784 + 13_696


def test_kivi_prompt_is_uncompressed_until_it_has_passed(tiny: ModelSpec) -> None:
    assert get_method("kivi").prefill_cache_bytes(tiny, bsz=2, prompt_len=300) == 2 * 300 * 1024


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("kivi:bits=3", "bits=3 must be one of 2, 4, 8"),
        ("kivi:group_size=12", "group_size=12 must be a positive multiple of 8"),
        ("kivi:group_size=0", "group_size=0 must be a positive multiple of 8"),
        ("kivi:residual_length=100", "residual_length=100 must be a multiple of group_size (32)"),
        ("kivi:residual_length=0", "residual_length=0 must be a multiple of group_size (32)"),
    ],
)
def test_kivi_refuses_parameters_that_do_not_fit(spec: str, complaint: str) -> None:
    with pytest.raises(UsageError) as error:
        get_method(spec)
    assert complaint in str(error.value)


def test_kivi_refuses_a_group_that_does_not_divide_the_models_head(tiny: ModelSpec) -> None:
    method = get_method("kivi:group_size=128")
    with pytest.raises(UsageError, match=r"group_size=128 must divide .* \(64\): use one of 8, 16, 32, 64"):
        method.cache_bytes(tiny, bsz=1, kv_len=10)


def test_kivi_refuses_a_parameter_of_another_type() -> None:
    with pytest.raises(UsageError, match="bits=4 must be of type int"):
        Kivi(bits="4")

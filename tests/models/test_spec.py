import dataclasses

import pytest

from kvpred.errors import UsageError
from kvpred.models import get_model, list_models

# As published: the sum of the checkpoint's tensors on the Hugging Face hub.
PUBLISHED_PARAMS = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "qwen3-8b": 8_190_735_360,
    "qwen3-4b": 4_022_468_096,
    "qwen3-1.7b": 1_720_574_976,
    "qwen2.5-0.5b": 494_032_768,
    "smollm2-135m": 134_515_008,
}


def test_every_model_has_the_published_number_of_parameters() -> None:
    assert {model.name: model.n_params for model in list_models()} == PUBLISHED_PARAMS


@pytest.mark.parametrize("model", list_models(), ids=lambda m: m.name)
def test_16_bit_weights_take_two_bytes_a_parameter(model) -> None:
    assert model.weight_bytes() == 2 * model.n_params


def test_biases_count_where_a_model_has_them() -> None:
    plain = get_model("llama-3-8b")
    biased = dataclasses.replace(plain, qkv_bias=True, o_bias=True, mlp_bias=True)
    # Per layer: q 4,096, k and v 1,024 each, o 4,096, gate and up 14,336 each, down 4,096.
    assert biased.n_params - plain.n_params == 32 * (4096 + 2 * 1024 + 4096 + 2 * 14336 + 4096)
    assert biased.weight_bytes() == 2 * biased.n_params


def test_4_bit_weights_match_hand_count() -> None:
    # LLaMA-2-7B: matrices of 4 x 4,096^2 + 3 x 4,096 x 11,008 weights a layer; a group of 128 inputs adds 2.5
    # bytes to its 64; embeddings, LM head (32,000 x 4,096 each) and norms (65 x 4,096) stay in 16 bit.
    matrices = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    kept = 2 * 32000 * 4096 + 65 * 4096
    assert get_model("llama-2-7b").weight_bytes(weight_bits=4) == matrices // 128 * 133 // 2 + 2 * kept


def test_4_bit_weights_agree_with_a_published_checkpoint() -> None:
    # TheBloke/Llama-2-7B-AWQ (4 bit, groups of 128) is listed with 3.89 GB.
    assert get_model("llama-2-7b").weight_bytes(weight_bits=4) / 1e9 == pytest.approx(3.89, abs=0.005)


def test_8_bit_weights_add_a_scale_per_output() -> None:
    matrices = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    outputs = 32 * (5 * 4096 + 2 * 11008)
    kept = 2 * 32000 * 4096 + 65 * 4096
    assert get_model("llama-2-7b").weight_bytes(weight_bits=8) == matrices + 2 * outputs + 2 * kept


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_devices_share_the_weights_but_repeat_the_norms(bits: int) -> None:
    model = get_model("llama-3.1-70b")
    whole, half = model.weight_bytes(weight_bits=bits), model.weight_bytes(weight_bits=bits, tp=2)
    assert whole / 2 < half < whole / 2 * 1.001


def test_unknown_weight_bits_are_refused() -> None:
    with pytest.raises(UsageError, match="weight_bits=3 is not known: use one of 16, 8, 4"):
        get_model("llama-2-7b").weight_bytes(weight_bits=3)


@pytest.mark.parametrize(
    ("name", "tp", "expected"),
    [
        ("llama-2-7b", 1, 2 * 32 * 32 * 128 * 2),
        ("llama-3-8b", 1, 2 * 32 * 8 * 128 * 2),
        ("llama-2-70b", 4, 2 * 80 * 2 * 128 * 2),
        ("smollm2-135m", 1, 2 * 30 * 3 * 64 * 2),
    ],
)
def test_a_tokens_cache_follows_the_kv_heads(name: str, tp: int, expected: int) -> None:
    assert get_model(name).kv_bytes_per_token(tp=tp) == expected


def test_flops_are_two_per_weight() -> None:
    model = get_model("llama-2-7b")
    assert model.linear_flops_per_token() == 2 * 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert model.linear_flops_per_token(tp=4) * 4 == model.linear_flops_per_token()
    assert model.lm_head_flops_per_token(tp=2) == 4096 * 32000


@pytest.mark.parametrize("tp", [0, -1, 3, 16])
def test_a_tp_that_does_not_divide_the_heads_is_refused_with_those_that_do(tp: int) -> None:
    with pytest.raises(
        UsageError, match=rf"tp={tp} does not divide .* of llama-3-8b: use one of 1, 2, 4, 8\."
    ):
        get_model("llama-3-8b").kv_bytes_per_token(tp=tp)

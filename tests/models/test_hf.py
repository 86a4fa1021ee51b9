import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.errors import DataError, KvpredError, UsageError
from kvpred.models import get_model
from kvpred.models.hf import read_config

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
}
QWEN3 = {
    **LLAMA,
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "head_dim": 128,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "max_position_embeddings": 40960,
    "vocab_size": 151936,
    "sliding_window": None,
    "use_sliding_window": False,
    "max_window_layers": 36,
    "layer_types": ["full_attention"] * 36,
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "my-model" / "config.json"


def write(file: Path, config: Any) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(config if isinstance(config, str) else json.dumps(config))
    return file


def without(config: dict[str, Any], field: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != field}


def same_architecture(found, known) -> bool:
    named = {"name": known.name, "hf_id": known.hf_id, "source": known.source}
    return dataclasses.replace(found, **named) == known


def test_a_config_reads_as_the_catalogue_has_it(file: Path) -> None:
    assert same_architecture(get_model(write(file, LLAMA)), get_model("llama-3-8b"))
    assert same_architecture(get_model(write(file, QWEN3)), get_model("qwen3-8b"))


def test_a_mistral_config_keeps_its_window(file: Path) -> None:
    mistral = {
        **LLAMA,
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "sliding_window": 4096,
    }
    mistral |= {"vocab_size": 32000, "max_position_embeddings": 32768}
    assert same_architecture(get_model(write(file, mistral)), get_model("mistral-7b-v0.1"))


def test_the_folder_and_its_path_as_text_do_as_well(file: Path) -> None:
    write(file, LLAMA)
    assert get_model(str(file)) == get_model(file) == get_model(file.parent)
    assert get_model(file).name == "my-model"


def test_absent_head_dim_and_kv_heads_follow_the_query_heads(file: Path) -> None:
    model = get_model(write(file, without(LLAMA, "num_key_value_heads")))
    assert (model.n_kv_heads, model.head_dim) == (32, 128)


def test_a_given_head_dim_wins(file: Path) -> None:
    assert get_model(write(file, {**LLAMA, "head_dim": 96})).head_dim == 96


def test_qwen2_has_biases_on_queries_keys_and_values_only(file: Path) -> None:
    model = get_model(write(file, {**LLAMA, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}))
    assert (model.qkv_bias, model.o_bias, model.qk_norm) == (True, False, False)


def test_qwen2_without_sliding_window_in_use_has_none(file: Path) -> None:
    config = {**LLAMA, "model_type": "qwen2", "sliding_window": 131072, "use_sliding_window": False}
    assert get_model(write(file, config)).sliding_window is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "deepseek_v3"}, "model_type 'deepseek_v3' is multi-head latent attention"),
        ({"kv_lora_rank": 512}, "'kv_lora_rank' says it is multi-head latent attention"),
        ({"model_type": "mixtral"}, "model_type 'mixtral' is a mixture of experts"),
        ({"model_type": "qwen3_moe"}, "model_type 'qwen3_moe' is a mixture of experts"),
        ({"num_local_experts": 8}, "'num_local_experts' says it is a mixture of experts"),
        ({"model_type": "mamba"}, "is a hybrid or state-space model"),
        ({"model_type": "jamba"}, "is a hybrid or state-space model"),
        ({"model_type": "falcon_h1"}, "is a hybrid or state-space model"),
        ({"model_type": "qwen3_next"}, "is a hybrid or state-space model"),
        ({"model_type": "gemma3_text"}, "is a mix of full and sliding-window layers"),
        ({"model_type": "gpt_oss"}, "is a mix of full and sliding-window layers"),
        (
            {"layer_types": ["full_attention", "sliding_attention"] * 16},
            "layer_types mix full_attention, sliding",
        ),
        ({"layer_types": ["linear_attention"] * 32}, "layer_types mix linear_attention"),
        (
            {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 3},
            "use_sliding_window mixes",
        ),
        ({"model_type": "t5"}, "model_type 't5' is an encoder-decoder"),
        ({"is_encoder_decoder": True}, "says it is an encoder-decoder"),
        ({"text_config": {"hidden_size": 8}}, "'text_config' says it is a multimodal wrapper"),
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not known"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "does not generate text"),
    ],
)
def test_what_is_no_dense_transformer_is_refused_by_name(file: Path, change: dict, reason: str) -> None:
    with pytest.raises(UsageError) as error:
        get_model(write(file, {**LLAMA, **change}))
    assert reason in str(error.value)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("field", ["model_type", "hidden_size", "num_hidden_layers", "num_attention_heads"])
def test_a_missing_field_is_named(file: Path, field: str) -> None:
    with pytest.raises(DataError) as error:
        get_model(write(file, without(LLAMA, field)))
    assert str(error.value) == f"{file}, column '{field}': is missing."


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("hidden_size", "4096", "value \"'4096'\": Input should be a valid integer"),
        ("hidden_size", 4096.5, "value '4096.5': Input should be a valid integer"),
        ("num_hidden_layers", True, "value 'True': Input should be a valid integer"),
        ("num_hidden_layers", 0, "value '0': Input should be greater than or equal to 1"),
        ("vocab_size", -5, "value '-5': Input should be greater than or equal to 1"),
        ("vocab_size", 10**30, "Input should be less than or equal to 1000000"),
        ("hidden_size", None, "value 'None': Input should be a valid integer"),
        ("num_key_value_heads", 5, "value '5': does not divide num_attention_heads (32)."),
        (
            "hidden_size",
            4097,
            "value '4097': head_dim is absent and num_attention_heads (32) does not divide it.",
        ),
        ("layer_types", "full", "Input should be a valid list"),
    ],
)
def test_a_garbled_field_is_named_with_its_value(
    file: Path, field: str, value: object, complaint: str
) -> None:
    with pytest.raises(DataError) as error:
        get_model(write(file, {**LLAMA, field: value}))
    assert str(error.value).startswith(f"{file}, column '{field}'")
    assert complaint in str(error.value)
    assert error.value.exit_code == 3


def test_absurd_shapes_are_refused(file: Path) -> None:
    with pytest.raises(DataError, match="cache bytes per token, beyond any model"):
        get_model(write(file, {**LLAMA, "num_hidden_layers": 10**6, "head_dim": 10**6}))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is not JSON"),
        (b"{\n  'single': 1}", "line 2: is not JSON"),
        (b"[1, 2]", "holds no JSON object"),
        (b"[" * 100_000, "is not JSON"),
        ('{"a": 1}'.encode("utf-16"), "is not UTF-8 text"),
        (bytes(range(256)), "is not UTF-8 text"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(DataError) as error:
        get_model(file)
    assert str(file) in str(error.value)
    assert complaint in str(error.value)


def test_a_missing_file_or_an_empty_folder_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.json"):
        with pytest.raises(DataError, match="cannot be read"):
            get_model(path)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
fields = st.sampled_from([*QWEN3, "kv_lora_rank", "attention_bias", "text_config", "is_encoder_decoder"])


@given(st.dictionaries(fields, values, max_size=4))
def test_any_config_is_read_or_refused_but_never_crashes(tmp_path_factory, changes: dict[str, Any]) -> None:
    file = write(tmp_path_factory.mktemp("fuzz") / "config.json", {**QWEN3, **changes})
    try:
        model = read_config(file)
    except KvpredError:
        return
    assert model.kv_bytes_per_token() > 0
    assert model.weight_bytes() == 2 * model.n_params > 0


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"hidden_size": ' + "9" * 5_000 + "}"], ids=["deep", "long"]
)
def test_a_config_that_no_parser_takes_is_bad_data(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"config\.json"):
        get_model(path)


def test_a_copy_elsewhere_is_the_same_model_and_another_number_is_not(file: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    copy = write(tmp_path / "copy" / "my-model" / "config.json", LLAMA)
    found = get_model(write(file, LLAMA))
    assert (found, found.source) == (get_model(copy), str(file))
    assert found != get_model(write(copy, {**LLAMA, "num_hidden_layers": 31}))


def test_a_byte_order_mark_is_passed_over(file: Path) -> None:
    write(file, "\ufeff" + json.dumps(LLAMA))
    assert same_architecture(get_model(file), get_model("llama-3-8b"))

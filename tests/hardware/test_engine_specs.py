import logging

import pytest

from kvpred.errors import UsageError
from kvpred.hardware import get_engine_spec, list_engine_specs, measured_engine


def test_page_sizes_are_the_engines_defaults() -> None:
    assert {engine.name: engine.block_tokens for engine in list_engine_specs()} == {
        "lmdeploy": 64,
        "transformers": 1,
        "transformers-eager": 1,
        "transformers-paged": 256,
        "openvino": 32,
        "llamacpp": 1,
        "vllm": 16,
        "sglang": 1,
        "openai": 1,
    }


def test_lmdeploy_executes_the_papers_methods() -> None:
    assert get_engine_spec("LMDeploy").methods == ("fp16", "kivi", "gear", "h2o", "streamingllm")


def test_eager_attention_serves_the_methods_that_ask_for_no_queries() -> None:
    methods = get_engine_spec("transformers-eager").methods
    assert not {"h2o", "snapkv", "streamingllm"} & set(methods)
    assert set(methods) < set(get_engine_spec("transformers").methods)


def test_engines_that_kvpred_starts_name_their_extra() -> None:
    assert {engine.name: engine.extra for engine in list_engine_specs() if engine.extra} == {
        "transformers": "profile",
        "transformers-eager": "profile",
        "transformers-paged": "profile",
        "openvino": "openvino",
        "llamacpp": "llamacpp",
        "openai": "openai",
    }


@pytest.mark.parametrize("engine", list_engine_specs(), ids=lambda e: e.name)
def test_every_engine_serves_16_bit_and_states_its_source(engine) -> None:
    assert "fp16" in engine.methods
    assert engine.source
    assert engine.reserve_bytes == 2**30


def test_an_unknown_engine_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'vlm' is not known\. Did you mean vllm\?"):
        get_engine_spec("vlm")


@pytest.mark.parametrize(
    "name", ["vlm", "lmdeplo", "openvyno", "llama.cpp", "two\nlines", "", "7", "our own"]
)
def test_a_slip_of_the_pen_is_no_other_engine(name: str) -> None:
    with pytest.raises(UsageError, match="is not known"):
        measured_engine(name)


def test_an_engine_of_ones_own_is_taken_as_any_server_is_and_one_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        own = [measured_engine(name) for name in ("House-2.0", "house-2.0")]
    any_server = get_engine_spec("openai")
    assert get_engine_spec("HOUSE-2.0") == own[0]
    assert {(spec.name, spec.block_tokens, spec.prefill_tokens) for spec in own} == {("house-2.0", 1, None)}
    assert (own[0].reserve_bytes, own[0].methods) == (any_server.reserve_bytes, any_server.methods)
    assert own[0].extra is None
    (record,) = caplog.records
    assert record.getMessage().startswith("kvpred: nothing is known of the memory of the engine house-2.0")


@pytest.mark.parametrize("name", ["ollama", "vllm-cpu", "tensorrt-llm", "tgi", "exllamav2"])
def test_only_what_was_measured_is_an_engine_outside_the_catalogue(name: str) -> None:
    with pytest.raises(UsageError, match="is not known"):
        get_engine_spec(name)
    assert measured_engine(name).name == get_engine_spec(name).name == name

import pytest

from kvpred.errors import UsageError
from kvpred.hardware import get_engine_spec, list_engine_specs


def test_page_sizes_are_the_engines_defaults() -> None:
    assert {engine.name: engine.block_tokens for engine in list_engine_specs()} == {
        "lmdeploy": 64,
        "transformers": 1,
        "openvino": 32,
        "llamacpp": 1,
        "vllm": 16,
        "sglang": 1,
        "openai": 1,
    }


def test_lmdeploy_executes_the_papers_methods() -> None:
    assert get_engine_spec("LMDeploy").methods == ("fp16", "kivi", "gear", "h2o", "streamingllm")


@pytest.mark.parametrize("engine", list_engine_specs(), ids=lambda e: e.name)
def test_every_engine_serves_16_bit_and_states_its_source(engine) -> None:
    assert "fp16" in engine.methods
    assert engine.source
    assert engine.reserve_bytes == 2**30


def test_an_unknown_engine_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'vlm' is not known\. Did you mean vllm\?"):
        get_engine_spec("vlm")

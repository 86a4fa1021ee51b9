"""The KV cache's capacity and use, from metrics as servers print them."""

from __future__ import annotations

import pytest

from kvpred.engines.server_metrics import CacheState, parse_metrics, read_cache_state

VLLM = """\
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="a \\"b\\" {c}"} 0.25
vllm:cache_config_info{block_size="16",cache_dtype="fp8",num_gpu_blocks="573",sliding_window="None"} 1.0
vllm:generation_tokens_total{engine="0"} 1.2e+03
"""
# As vLLM 0.32 writes it, with its many labels that say nothing of the cache's size.
VLLM_0_32 = """\
vllm:kv_cache_usage_perc{engine="0",model_name="/models/small"} 0.0
vllm:cache_config_info{_block_size_resolved="True",block_size="64",cache_dtype="fp8_e4m3",\
effective_attention_block_size="64",enable_prefix_caching="False",engine="0",gpu_memory_utilization="0.9",\
kv_cache_dtype_skip_layers="[]",kv_cache_max_concurrency="2.5",kv_cache_memory_bytes="536870912",\
kv_cache_size_tokens="20480",mamba_block_size="None",mamba_cache_dtype="auto",num_cpu_blocks="None",\
num_gpu_blocks="320",num_gpu_blocks_override="None",user_specified_block_size="False"} 1.0
"""
SGLANG = """\
sglang:token_usage{model_name="m",tp_rank="0"} 0.5
sglang:max_total_num_tokens{model_name="m",tp_rank="0"} 4000.0
"""


def test_vllm() -> None:
    source = "vllm:cache_config_info, vllm:kv_cache_usage_perc"
    told = {"cache_dtype": "fp8", "block_size": "16", "num_gpu_blocks": "573"}
    assert read_cache_state(VLLM) == CacheState(16 * 573, 0.25, source, told)


def test_vllm_0_32() -> None:
    state = read_cache_state(VLLM_0_32)
    assert state is not None
    assert (state.capacity_tokens, state.used_share, state.method) == (20480, 0.0, "kv-fp8")
    assert state.told == {
        "cache_dtype": "fp8_e4m3",
        "block_size": "64",
        "num_gpu_blocks": "320",
        "kv_cache_size_tokens": "20480",
        "kv_cache_memory_bytes": "536870912",
        "enable_prefix_caching": "False",
    }


@pytest.mark.parametrize(
    ("dtype", "method"),
    [
        ("auto", None),
        ("bfloat16", "fp16"),
        ("float16", "fp16"),
        ("fp8", "kv-fp8"),
        ("fp8_e5m2", "kv-fp8"),
        ("int8_per_token_head", "kv-int8"),
        ("int4_per_token_head", "kv-int4"),
        ("turboquant_4bit_nc", "turboquant"),
        ("nvfp4", None),
    ],
)
def test_the_method_that_vllms_type_is(dtype: str, method: str | None) -> None:
    state = read_cache_state(VLLM.replace('cache_dtype="fp8"', f'cache_dtype="{dtype}"'))
    assert state is not None
    assert state.method == method


def test_vllm_that_tells_tokens() -> None:
    text = 'vllm:cache_config_info{block_size="16",kv_cache_size_tokens="9000",num_gpu_blocks="573"} 1'
    state = read_cache_state(text)
    assert state is not None
    assert (state.capacity_tokens, state.used_share) == (9000, None)
    assert (state.source, state.method) == ("vllm:cache_config_info", None)


def test_vllm_that_does_not_know_its_blocks() -> None:
    state = read_cache_state(VLLM.replace('"573"', '"None"'))
    assert state is not None
    assert (state.capacity_tokens, state.used_share) == (None, 0.25)
    assert state.source == "vllm:kv_cache_usage_perc"


def test_sglang() -> None:
    source = "sglang:max_total_num_tokens, sglang:token_usage"
    assert read_cache_state(SGLANG) == CacheState(4000, 0.5, source)


def test_the_fullest_of_several_engines() -> None:
    second = SGLANG.replace("0.5", "0.75").replace('tp_rank="0"', 'tp_rank="1"')
    state = read_cache_state(SGLANG + second)
    assert state is not None
    assert state.used_share == 0.75


@pytest.mark.parametrize("text", ["", "<html>", "llamacpp:n_tokens_max 7\n", "sglang:token_usage much\n"])
def test_metrics_that_tell_nothing_of_a_cache(text: str) -> None:
    assert read_cache_state(text) is None


def test_labels_may_hold_braces_and_quotes() -> None:
    (sample,) = parse_metrics('a{b="c, \\"d\\"}",e="f"} 3')
    assert (sample.labels["e"], sample.value) == ("f", 3.0)

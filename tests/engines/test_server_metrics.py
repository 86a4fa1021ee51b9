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
SGLANG = """\
sglang:token_usage{model_name="m",tp_rank="0"} 0.5
sglang:max_total_num_tokens{model_name="m",tp_rank="0"} 4000.0
"""


def test_vllm() -> None:
    source = "vllm:cache_config_info, vllm:kv_cache_usage_perc"
    assert read_cache_state(VLLM) == CacheState(16 * 573, 0.25, source)


def test_vllm_that_tells_tokens() -> None:
    text = 'vllm:cache_config_info{block_size="16",kv_cache_size_tokens="9000",num_gpu_blocks="573"} 1'
    assert read_cache_state(text) == CacheState(9000, None, "vllm:cache_config_info")


def test_vllm_that_does_not_know_its_blocks() -> None:
    state = read_cache_state(VLLM.replace('"573"', '"None"'))
    assert state == CacheState(None, 0.25, "vllm:kv_cache_usage_perc")


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

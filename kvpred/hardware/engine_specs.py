"""The serving engines' memory facts: page size, reserve, prefill chunk, and which methods they execute."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches

from kvpred.errors import unknown_name

DEFAULT_RESERVE_BYTES = 2**30
"""Assumed bytes beside weights, cache and activations: CUDA context, workspaces, graphs, about 1 GiB.

An assumption, not a measurement: overridable wherever memory is predicted.
"""

_ALL_METHODS = (
    "fp16", "kivi", "gear", "h2o", "streamingllm", "snapkv", "turboquant", "kv-int8", "kv-int4", "kv-fp8",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What a serving engine adds to the memory arithmetic.

    Parameters
    ----------
    name : str
        Name used on the command line, such as ``lmdeploy``.
    title : str
        The engine's own name.
    block_tokens : int
        Tokens in one page of its KV cache; 1 means that the cache is not paged.
    reserve_bytes : int
        Bytes it holds beside weights, cache and activations.
    prefill_tokens : int or None
        Most tokens that pass the layers at a time during prefill; None means the whole batch at once.
    methods : tuple of str
        Names of the compression methods it executes.
    extra : str or None
        The extra of kvpred that runs it; None if kvpred does not start it.
    source : str
        Where the numbers come from.
    scheduler : {"vllm", "sarathi"}
        Where kvpred feeds it requests over time: what of `kvpred.simulation.replica.SCHEDULERS` it follows.
    """

    name: str
    title: str
    block_tokens: int
    reserve_bytes: int
    prefill_tokens: int | None
    methods: tuple[str, ...]
    extra: str | None
    source: str
    scheduler: str = "vllm"


_SPECS = (
    EngineSpec(
        name="lmdeploy",
        title="LMDeploy TurboMind 0.6 with the compression methods of rethink-kv-compression",
        block_tokens=64,
        reserve_bytes=DEFAULT_RESERVE_BYTES,
        prefill_tokens=8192,
        methods=("fp16", "kivi", "gear", "h2o", "streamingllm"),
        extra=None,
        source="TurbomindEngineConfig's defaults: cache_block_seq_len=64, max_prefill_token_num=8192, and "
        "cache_max_entry_count=0.8 of the memory left by the weights for the cache",
    ),
    EngineSpec(
        name="transformers",
        title="Hugging Face transformers with kvpred's caches",
        block_tokens=1,
        reserve_bytes=DEFAULT_RESERVE_BYTES,
        prefill_tokens=None,
        methods=_ALL_METHODS,
        extra="profile",
        source="generate() keeps one contiguous cache per layer and passes the whole prompt at once",
    ),
    EngineSpec(
        name="transformers-eager",
        title="Hugging Face transformers with its eager attention and kvpred's caches, decompressed",
        block_tokens=1,
        reserve_bytes=DEFAULT_RESERVE_BYTES,
        prefill_tokens=None,
        methods=("fp16", "kivi", "gear", "turboquant", "kv-int8", "kv-int4", "kv-fp8"),
        extra="profile",
        source="as transformers; eager attention hands a cache no queries, which evicting methods need",
    ),
    EngineSpec(
        name="transformers-paged",
        title="Hugging Face transformers with continuous batching",
        block_tokens=256,
        reserve_bytes=DEFAULT_RESERVE_BYTES,
        prefill_tokens=None,
        methods=("fp16",),
        extra="profile",
        source="transformers 5.23 ContinuousBatchingConfig.page_size=256; kvpred sets max_batch_tokens so "
        "that the prompts of a batch pass at once; FIFOScheduler passes prompts beside decoding requests",
        scheduler="sarathi",
    ),
    EngineSpec(
        name="openvino",
        title="OpenVINO GenAI ContinuousBatchingPipeline (CPU)",
        block_tokens=32,
        reserve_bytes=DEFAULT_RESERVE_BYTES,
        prefill_tokens=None,
        methods=("fp16", "kv-int8", "kv-int4", "h2o", "snapkv"),
        extra="openvino",
        source="openvino-genai 2026.4: CPU pages of 32 tokens; KV_CACHE_PRECISION u8 and u4; "
        "CacheEvictionConfig with SUM scores (h2o) and snapkv_window_size",
    ),
    EngineSpec(
        name="llamacpp",
        title="llama.cpp",
        block_tokens=1,
        reserve_bytes=DEFAULT_RESERVE_BYTES,
        prefill_tokens=2048,
        methods=("fp16", "kv-int8", "kv-int4"),
        extra="llamacpp",
        source="llama.cpp: cache_type_k/v f16, q8_0 and q4_0; logical batch n_batch=2048 by default",
    ),
    EngineSpec(
        name="vllm",
        title="vLLM",
        block_tokens=16,
        reserve_bytes=DEFAULT_RESERVE_BYTES,
        prefill_tokens=8192,
        methods=("fp16", "kv-fp8"),
        extra=None,
        source="vLLM CacheConfig.DEFAULT_BLOCK_SIZE=16, kv_cache_dtype fp8; max_num_batched_tokens is 8192 "
        "by default when serving on a GPU of 70 GiB or more",
    ),
    EngineSpec(
        name="sglang",
        title="SGLang",
        block_tokens=1,
        reserve_bytes=DEFAULT_RESERVE_BYTES,
        prefill_tokens=8192,
        methods=("fp16", "kv-fp8"),
        extra=None,
        source="SGLang server arguments: page size 1, chunked prefill of 8192 tokens on 80 GB cards, "
        "--kv-cache-dtype fp8_e4m3",
    ),
    EngineSpec(
        name="openai",
        title="Any server with OpenAI's HTTP interface",
        block_tokens=1,
        reserve_bytes=DEFAULT_RESERVE_BYTES,
        prefill_tokens=None,
        methods=_ALL_METHODS,
        extra="openai",
        source="the server decides; no paging assumed",
    ),
)

_CATALOGUE = {spec.name: spec for spec in _SPECS}
_MEASURED: dict[str, EngineSpec] = {}
_ENGINE_LIKE = re.compile(r"[a-z][a-z0-9.+_-]{1,39}")
# A name at least so similar to a known one is a slip of the pen: it lets vllm-cpu and ollama pass, not vlm.
_MISSPELT = 0.75


def list_engine_specs() -> list[EngineSpec]:
    """List the engines whose memory facts are known."""
    return list(_CATALOGUE.values())


def get_engine_spec(name: str) -> EngineSpec:
    """Find an engine's memory facts by its name.

    Parameters
    ----------
    name : str
        Such as ``lmdeploy``, upper and lower case alike.

    Raises
    ------
    UsageError
        If the name is unknown.

    Examples
    --------
    >>> get_engine_spec("lmdeploy").block_tokens
    64
    """
    known = _CATALOGUE | _MEASURED
    key = engine_key(name)
    if key in known:
        return known[key]
    raise unknown_name("engine", name, known)


def measured_engine(name: str) -> EngineSpec:
    """Find the memory facts of an engine that runs were measured on, be it in the catalogue or not.

    One that is not gets those of any server, with a warning that nothing is known of its memory, and
    `get_engine_spec` knows it from then on.

    Raises
    ------
    UsageError
        If the name is no engine's, or nearly one of the catalogue's.
    """
    key = engine_key(name)
    unlisted = key not in _CATALOGUE and key not in _MEASURED
    if unlisted and _ENGINE_LIKE.fullmatch(key) and not get_close_matches(key, _CATALOGUE, 1, _MISSPELT):
        import logging  # costs milliseconds: only where there is something to say

        logging.getLogger("kvpred").warning(
            "kvpred: nothing is known of the memory of the engine %s: an unpaged cache, whole prompts at "
            "once and a reserve of 1 GiB are assumed",
            key,
        )
        source = "not known: assumed as of any server"
        _MEASURED[key] = replace(_CATALOGUE["openai"], name=key, title=key, extra=None, source=source)
    return get_engine_spec(name)


def engine_key(name: str) -> str:
    """Return the one name that stands for all spellings of an engine's.

    Examples
    --------
    >>> engine_key("vLLM")
    'vllm'
    """
    return name.strip().lower()

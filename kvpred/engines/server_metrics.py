"""What servers tell of their KV cache: Prometheus text of vLLM, SGLang and LMDeploy."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

# Share of the cache in use, 0 to 1: https://docs.vllm.ai/en/v0.32.0/usage/metrics/ (gpu_cache_usage_perc
# before), https://docs.sglang.io/references/production_metrics.html, lmdeploy/metrics/loggers.py.
_SHARES = (
    "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage",
    "lmdeploy:gpu_cache_usage_perc",
)  # fmt: skip
_VLLM_CONFIG = "vllm:cache_config_info"
_VLLM_TOLD = (
    "cache_dtype", "block_size", "num_gpu_blocks", "kv_cache_size_tokens", "kv_cache_memory_bytes",
    "enable_prefix_caching",
)  # fmt: skip
_CAPACITY = "sglang:max_total_num_tokens"
# How the types begin that vLLM 0.32 stores a cache as (CacheDType in vllm/config/cache.py). "auto" is the
# model's own type and names none.
_METHODS = {
    "bfloat16": "fp16", "float16": "fp16", "fp8": "kv-fp8", "int8": "kv-int8", "int4": "kv-int4",
    "turboquant": "turboquant",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CacheState:
    """A server's KV cache at one moment.

    Parameters
    ----------
    capacity_tokens : float or None
        Tokens that it holds.
    used_share : float or None
        Share of it in use.
    source : str
        The metrics' names.
    told : mapping of str to str
        What vLLM says of its cache: type, pages, size, and whether prefixes are kept.
    """

    capacity_tokens: float | None
    used_share: float | None
    source: str
    told: Mapping[str, str] = field(default_factory=dict)

    @property
    def method(self) -> str | None:
        """Name of the method that the cache's type is, if the server names a type that is one."""
        dtype = self.told.get("cache_dtype", "")
        return next((method for begin, method in _METHODS.items() if dtype.startswith(begin)), None)


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of Prometheus text."""

    name: str
    labels: Mapping[str, str]
    value: float


def parse_metrics(text: str) -> list[Sample]:
    """Parse Prometheus text; lines that are no samples are skipped.

    Examples
    --------
    >>> parse_metrics('vllm:kv_cache_usage_perc{engine="0"} 0.25')
    [Sample(name='vllm:kv_cache_usage_perc', labels={'engine': '0'}, value=0.25)]
    """
    samples = []
    for name, labels, value in _SAMPLE.findall(text):
        try:
            samples.append(Sample(name, dict(_LABEL.findall(labels)), float(value)))
        except ValueError:
            continue
    return samples


def read_cache_state(text: str) -> CacheState | None:
    """Find the KV cache's capacity and use among a server's metrics; None if they tell neither.

    With several engines behind one server (data parallelism) a sequence runs on one of them: the capacity is
    that of the largest, the use that of the fullest.

    Parameters
    ----------
    text : str
        Of ``/metrics``.
    """
    samples = parse_metrics(text)
    shares = [sample for sample in samples if sample.name in _SHARES]
    capacities = [(_capacity(sample), sample.name) for sample in samples]
    known = [(tokens, name) for tokens, name in capacities if tokens]
    if not shares and not known:
        return None
    labels = next((sample.labels for sample in samples if sample.name == _VLLM_CONFIG), {})
    told = {label: labels[label] for label in _VLLM_TOLD if labels.get(label, "None") != "None"}
    names = dict.fromkeys([*(name for _, name in known), *(sample.name for sample in shares)])
    return CacheState(
        capacity_tokens=max(known)[0] if known else None,
        used_share=max(sample.value for sample in shares) if shares else None,
        source=", ".join(names),
        told=told,
    )


def _capacity(sample: Sample) -> float | None:
    if sample.name == _CAPACITY:
        return sample.value
    if sample.name == _VLLM_CONFIG:
        # Newer versions tell the tokens; some write "None" for what they do not know.
        for labels in (("kv_cache_size_tokens",), ("block_size", "num_gpu_blocks")):
            numbers = [sample.labels.get(label, "") for label in labels]
            if all(number.isdecimal() for number in numbers):
                return float(math.prod(map(int, numbers)))
    return None

"""Models and devices of published measurements that the catalogues lack: enough for a roofline."""

from __future__ import annotations

from kvpred.hardware.catalogue import CATALOGUE as DEVICES
from kvpred.hardware.catalogue import MIB
from kvpred.hardware.spec import DeviceSpec
from kvpred.models.catalogue import CATALOGUE as MODELS
from kvpred.models.spec import ModelSpec

_MODELS = {
    "qwen2.5-0.5b-instruct": ModelSpec(
        name="qwen2.5-0.5b", hf_id="Qwen/Qwen2.5-0.5B-Instruct",
        n_layers=24, hidden_size=896, n_q_heads=14, n_kv_heads=2, head_dim=64,
        intermediate_size=4864, vocab_size=151936, max_position=32768, tie_embeddings=True, qkv_bias=True,
        source="https://huggingface.co/Qwen/Qwen2.5-0.5B-Instruct/blob/main/config.json",
    ),
    "qwen3-1.7b": ModelSpec(
        name="qwen3-1.7b", hf_id="Qwen/Qwen3-1.7B",
        n_layers=28, hidden_size=2048, n_q_heads=16, n_kv_heads=8, head_dim=128,
        intermediate_size=6144, vocab_size=151936, max_position=40960, tie_embeddings=True, qk_norm=True,
        source="https://huggingface.co/Qwen/Qwen3-1.7B/blob/main/config.json",
    ),
    "qwen3-4b": ModelSpec(
        name="qwen3-4b", hf_id="Qwen/Qwen3-4B",
        n_layers=36, hidden_size=2560, n_q_heads=32, n_kv_heads=8, head_dim=128,
        intermediate_size=9728, vocab_size=151936, max_position=40960, tie_embeddings=True, qk_norm=True,
        source="https://huggingface.co/Qwen/Qwen3-4B/blob/main/config.json",
    ),
}  # fmt: skip

_DEVICES = {
    "H100 PCIe 80GB": DeviceSpec(
        name="h100-pcie",
        title="NVIDIA H100 PCIe 80GB",
        memory_bytes=81559 * MIB,
        memory_bandwidth_bytes_s=2.0e12,
        peak_flops_16bit=756.5e12,
        link=None,
        source="NVIDIA H100 datasheet, PCIe (80 GB HBM2e, 2 TB/s, 1,513 FP16 TFLOPS with sparsity)",
    ),
    "Intel Arc Pro B70 32GB": DeviceSpec(
        name="arc-pro-b70",
        title="Intel Arc Pro B70",
        memory_bytes=32 * 1024 * MIB,
        memory_bandwidth_bytes_s=608e9,
        peak_flops_16bit=183.5e12,
        link=None,
        source="Intel Arc Pro B70 product page (32 GB, 608 GB/s, 367 INT8 TOPS, of which 16 bit is half)",
    ),
}


def published_model(name: str) -> ModelSpec | None:
    """Return the architecture of a model in the evidence, if it is one that kvpred models."""
    return _MODELS.get(name.lower()) or MODELS.get(name)


def published_device(name: str) -> DeviceSpec | None:
    """Return the device of a row, if its numbers are known."""
    return _DEVICES.get(name) or DEVICES.get(name)

"""The models that kvpred knows by name, every number as in the model's published ``config.json``."""

from __future__ import annotations

from kvpred.models.spec import ModelSpec


def _llama(
    name: str,
    hf_id: str,
    *,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    mlp: int,
    vocab: int,
    context: int,
) -> ModelSpec:
    """Build a LLaMA-shaped spec: head_dim = hidden / heads, untied embeddings, no biases."""
    return ModelSpec(
        name=name,
        hf_id=hf_id,
        n_layers=layers,
        hidden_size=hidden,
        n_q_heads=heads,
        n_kv_heads=kv_heads,
        head_dim=hidden // heads,
        intermediate_size=mlp,
        vocab_size=vocab,
        max_position=context,
        tie_embeddings=False,
        source=f"https://huggingface.co/{hf_id}/blob/main/config.json",
    )


_SPECS = (
    _llama(
        "llama-2-7b", "meta-llama/Llama-2-7b-hf",
        layers=32, hidden=4096, heads=32, kv_heads=32, mlp=11008, vocab=32000, context=4096,
    ),
    _llama(
        "llama-2-13b", "meta-llama/Llama-2-13b-hf",
        layers=40, hidden=5120, heads=40, kv_heads=40, mlp=13824, vocab=32000, context=4096,
    ),
    _llama(
        "llama-2-70b", "meta-llama/Llama-2-70b-hf",
        layers=80, hidden=8192, heads=64, kv_heads=8, mlp=28672, vocab=32000, context=4096,
    ),
    _llama(
        "llama-3-8b", "meta-llama/Meta-Llama-3-8B",
        layers=32, hidden=4096, heads=32, kv_heads=8, mlp=14336, vocab=128256, context=8192,
    ),
    _llama(
        "llama-3.1-8b", "meta-llama/Llama-3.1-8B",
        layers=32, hidden=4096, heads=32, kv_heads=8, mlp=14336, vocab=128256, context=131072,
    ),
    _llama(
        "llama-3.1-70b", "meta-llama/Llama-3.1-70B",
        layers=80, hidden=8192, heads=64, kv_heads=8, mlp=28672, vocab=128256, context=131072,
    ),
    ModelSpec(
        name="mistral-7b-v0.1", hf_id="mistralai/Mistral-7B-v0.1",
        n_layers=32, hidden_size=4096, n_q_heads=32, n_kv_heads=8, head_dim=128,
        intermediate_size=14336, vocab_size=32000, max_position=32768, tie_embeddings=False,
        sliding_window=4096,
        source="https://huggingface.co/mistralai/Mistral-7B-v0.1/blob/main/config.json",
    ),
    _llama(
        "mistral-7b-v0.3", "mistralai/Mistral-7B-v0.3",
        layers=32, hidden=4096, heads=32, kv_heads=8, mlp=14336, vocab=32768, context=32768,
    ),
    ModelSpec(
        name="qwen3-8b", hf_id="Qwen/Qwen3-8B",
        n_layers=36, hidden_size=4096, n_q_heads=32, n_kv_heads=8, head_dim=128,
        intermediate_size=12288, vocab_size=151936, max_position=40960, tie_embeddings=False, qk_norm=True,
        source="https://huggingface.co/Qwen/Qwen3-8B/blob/main/config.json",
    ),
    ModelSpec(
        name="qwen3-4b", hf_id="Qwen/Qwen3-4B",
        n_layers=36, hidden_size=2560, n_q_heads=32, n_kv_heads=8, head_dim=128,
        intermediate_size=9728, vocab_size=151936, max_position=40960, tie_embeddings=True, qk_norm=True,
        source="https://huggingface.co/Qwen/Qwen3-4B/blob/main/config.json",
    ),
    ModelSpec(
        name="qwen3-1.7b", hf_id="Qwen/Qwen3-1.7B",
        n_layers=28, hidden_size=2048, n_q_heads=16, n_kv_heads=8, head_dim=128,
        intermediate_size=6144, vocab_size=151936, max_position=40960, tie_embeddings=True, qk_norm=True,
        source="https://huggingface.co/Qwen/Qwen3-1.7B/blob/main/config.json",
    ),
    ModelSpec(
        name="qwen2.5-0.5b", hf_id="Qwen/Qwen2.5-0.5B",
        n_layers=24, hidden_size=896, n_q_heads=14, n_kv_heads=2, head_dim=64,
        intermediate_size=4864, vocab_size=151936, max_position=32768, tie_embeddings=True, qkv_bias=True,
        source="https://huggingface.co/Qwen/Qwen2.5-0.5B/blob/main/config.json",
    ),
    ModelSpec(
        name="smollm2-135m", hf_id="HuggingFaceTB/SmolLM2-135M",
        n_layers=30, hidden_size=576, n_q_heads=9, n_kv_heads=3, head_dim=64,
        intermediate_size=1536, vocab_size=49152, max_position=8192, tie_embeddings=True,
        source="https://huggingface.co/HuggingFaceTB/SmolLM2-135M/blob/main/config.json",
    ),
)  # fmt: skip

CATALOGUE: dict[str, ModelSpec] = {spec.name: spec for spec in _SPECS}
"""Models by name."""

_TUNED = {
    "llama-2-7b": ("meta-llama/Llama-2-7b-chat-hf",),
    "llama-2-13b": ("meta-llama/Llama-2-13b-chat-hf",),
    "llama-2-70b": ("meta-llama/Llama-2-70b-chat-hf",),
    "llama-3-8b": ("meta-llama/Meta-Llama-3-8B-Instruct",),
    "llama-3.1-8b": ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B"),
    "llama-3.1-70b": ("meta-llama/Llama-3.1-70B-Instruct", "meta-llama/Meta-Llama-3.1-70B"),
    "mistral-7b-v0.1": ("mistralai/Mistral-7B-Instruct-v0.1",),
    "mistral-7b-v0.3": ("mistralai/Mistral-7B-Instruct-v0.3",),
    "qwen3-8b": ("Qwen/Qwen3-8B-Base",),
    "qwen2.5-0.5b": ("Qwen/Qwen2.5-0.5B-Instruct",),
    "smollm2-135m": ("HuggingFaceTB/SmolLM2-135M-Instruct",),
}
"""Hub ids that share a catalogue model's architecture number for number."""


def normalise(name: str) -> str:
    """Reduce a spelling of a model's name or hub id to lower case with dashes."""
    return name.strip().lower().replace("_", "-")


def _spellings(spec: ModelSpec) -> set[str]:
    """Every normalised spelling of a spec: its name, and each hub id whole, without owner, and dashed."""
    ids = [normalise(hf_id) for hf_id in (spec.hf_id, *_TUNED.get(spec.name, ()))]
    return {spec.name, *ids, *(i.split("/")[1] for i in ids), *(i.replace("/", "-") for i in ids)}


SPELLINGS: dict[str, str] = {spelling: spec.name for spec in _SPECS for spelling in _spellings(spec)}
"""Normalised names and hub ids, each with its catalogue name."""

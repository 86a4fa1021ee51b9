"""Read a Hugging Face ``config.json`` into a `ModelSpec`, refusing by name what is no dense transformer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvpred.errors import DataError, UsageError
from kvpred.models.spec import ModelSpec

_UNDERSTOOD = ("llama", "mistral", "qwen2", "qwen3")

_REFUSED_TYPES = {
    "multi-head latent attention": ("deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "minicpm3"),
    "a mixture of experts": (
        "mixtral", "qwen2_moe", "qwen3_moe", "phimoe", "dbrx", "olmoe", "granitemoe", "llama4_text", "jetmoe",
        "glm4_moe", "ernie4_5_moe", "minimax",
    ),
    "a hybrid or state-space model": (
        "mamba", "mamba2", "falcon_mamba", "jamba", "falcon_h1", "qwen3_next", "zamba", "zamba2", "bamba",
        "granitemoehybrid", "nemotron_h", "recurrent_gemma", "rwkv", "lfm2",
    ),
    "a mix of full and sliding-window layers": ("gemma2", "gemma3", "gemma3_text", "gpt_oss", "cohere2"),
    "an encoder-decoder": ("t5", "mt5", "bart", "mbart", "pegasus", "whisper", "marian"),
    "a multimodal wrapper": ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "mllama", "llama4", "mistral3"),
}  # fmt: skip

_REFUSED_FIELDS = {
    "multi-head latent attention": ("kv_lora_rank",),
    "a mixture of experts": (
        "num_local_experts", "num_experts", "n_routed_experts", "num_experts_per_tok", "moe_num_experts",
    ),
    "a hybrid or state-space model": (
        "mamba_d_state", "ssm_cfg", "attn_layer_period", "linear_num_key_heads",
    ),
    "a multimodal wrapper": ("text_config", "vision_config", "audio_config"),
    "an encoder-decoder": ("is_encoder_decoder",),
}  # fmt: skip

MAX_KV_BYTES_PER_TOKEN = 2**23
"""Above any published model (GPT-3 175B, without GQA, has 4.7 MB); keeps 64-bit byte counts exact."""

Count = Annotated[int, Field(ge=1, le=10**6)]


class HfConfig(BaseModel):
    """The fields of a ``config.json`` that decide bytes and FLOPs; no coercion, so text is never a number."""

    model_config = ConfigDict(strict=True, extra="ignore")

    model_type: str
    num_hidden_layers: Count
    hidden_size: Count
    num_attention_heads: Count
    intermediate_size: Count
    vocab_size: Count
    max_position_embeddings: Count
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: Count | None = None
    use_sliding_window: bool | None = None
    max_window_layers: int | None = None
    layer_types: list[str] | None = None


def read_config(path: Path) -> ModelSpec:
    """Read the architecture from a ``config.json``, or from the folder that holds it.

    Parameters
    ----------
    path : Path
        The file or folder.

    Returns
    -------
    ModelSpec
        Named after the folder the file lies in.

    Raises
    ------
    UsageError
        If the architecture is not a dense LLaMA-like transformer.
    DataError
        If the file is missing, not JSON, or lacks or garbles a field.
    """
    file = path / "config.json" if path.is_dir() else path
    return parse_config(_load(file), file)


def parse_config(raw: dict[str, Any], file: Path) -> ModelSpec:
    """Read the architecture from a configuration's fields.

    Parameters
    ----------
    raw : dict
        As in ``config.json``.
    file : Path
        What errors name.

    Raises
    ------
    UsageError, DataError
        As `read_config`.
    """
    _refuse(raw, file)
    spec = _to_spec(_validate(raw, file), file)
    if spec.kv_bytes_per_token() > MAX_KV_BYTES_PER_TOKEN:
        raise DataError(
            f"layers and heads make {spec.kv_bytes_per_token():,} cache bytes per token, beyond any model.",
            path=file,
        )
    return spec


def _load(file: Path) -> dict[str, Any]:
    try:
        raw = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror}).", path=file) from error
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text; a config.json is.", path=file) from error
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        raise DataError(f"is not JSON ({error}).", path=file, row=line) from error
    if not isinstance(raw, dict):
        raise DataError("holds no JSON object; a model's config.json does.", path=file)
    return raw


def _refuse(raw: dict[str, Any], file: Path) -> None:
    """Raise `UsageError` for every architecture whose cache this package would get wrong."""
    model_type = raw.get("model_type")
    for what, names in _REFUSED_TYPES.items():
        if model_type in names:
            raise _refusal(file, f"model_type {model_type!r} is {what}")
    for what, fields in _REFUSED_FIELDS.items():
        for field in fields:
            if raw.get(field):
                raise _refusal(file, f"its field {field!r} says it is {what}")
    if isinstance(model_type, str) and model_type not in _UNDERSTOOD:
        raise _refusal(file, f"model_type {model_type!r} is not known")
    architectures = raw.get("architectures")
    if isinstance(architectures, list) and architectures:
        generating = [name for name in architectures if str(name).endswith("ForCausalLM")]
        if not generating:
            raise _refusal(file, f"architecture {architectures[0]!r} does not generate text")


def _refusal(file: Path, reason: str) -> UsageError:
    return UsageError(
        f"{file}: {reason}. kvpred models dense transformers ({', '.join(_UNDERSTOOD)}) and does not guess "
        "the cache of others."
    )


def _validate(raw: dict[str, Any], file: Path) -> HfConfig:
    try:
        config = HfConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        missing = first["type"] == "missing"
        raise DataError(
            "is missing." if missing else f"{first['msg']}.",
            path=file,
            column=field,
            value=None if missing else repr(first["input"]),
        ) from error
    kv_heads = config.num_key_value_heads or config.num_attention_heads
    if config.num_attention_heads % kv_heads:
        raise DataError(
            f"does not divide num_attention_heads ({config.num_attention_heads}).",
            path=file,
            column="num_key_value_heads",
            value=kv_heads,
        )
    if config.head_dim is None and config.hidden_size % config.num_attention_heads:
        raise DataError(
            f"head_dim is absent and num_attention_heads ({config.num_attention_heads}) does not divide it.",
            path=file,
            column="hidden_size",
            value=config.hidden_size,
        )
    return config


def _to_spec(config: HfConfig, file: Path) -> ModelSpec:
    heads = config.num_attention_heads
    return ModelSpec(
        name=file.resolve().parent.name if file.name == "config.json" else file.stem,
        hf_id=str(file),
        n_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        n_q_heads=heads,
        n_kv_heads=config.num_key_value_heads or heads,
        head_dim=config.head_dim or config.hidden_size // heads,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        max_position=config.max_position_embeddings,
        tie_embeddings=config.tie_word_embeddings,
        source=str(file),
        qkv_bias=config.attention_bias or config.model_type == "qwen2",
        o_bias=config.attention_bias,
        mlp_bias=config.mlp_bias,
        qk_norm=config.model_type == "qwen3",
        sliding_window=_sliding_window(config, file),
    )


def _sliding_window(config: HfConfig, file: Path) -> int | None:
    """Return the window if every layer has it, None if none has, and refuse a mix."""
    kinds = set(config.layer_types or ())
    if kinds - {"full_attention", "sliding_attention"} or len(kinds) > 1:
        raise _refusal(file, f"its layer_types mix {', '.join(sorted(kinds))}")
    if config.model_type in ("qwen2", "qwen3") and not config.use_sliding_window:
        return None
    if config.use_sliding_window and config.max_window_layers:
        raise _refusal(file, "use_sliding_window mixes full and sliding-window layers")
    return None if kinds == {"full_attention"} else config.sliding_window

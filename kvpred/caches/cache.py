"""The transformers cache made of one method's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache

from kvpred.caches.attention import NAME
from kvpred.caches.base import CacheLayer
from kvpred.caches.registry import make_layer
from kvpred.errors import UsageError
from kvpred.methods import Method, get_method
from kvpred.models import ModelSpec
from kvpred.models.hf import parse_config


class MethodCache(Cache):
    """A KV cache under a compression method, for ``model.generate(past_key_values=...)``.

    Under ``attn_implementation="kvpred"`` queries, padding and compressed data meet in the layer's own
    operators. Methods that need neither queries nor padding also work under transformers' eager and SDPA
    attention, which see the cache decompressed.

    Parameters
    ----------
    method : str or Method
        Such as ``h2o`` or ``kivi:bits=2``.
    config : PreTrainedConfig
        The model's configuration.

    Raises
    ------
    UsageError
        If the method is unknown, has no cache here, or does not suit the model.
    """

    def __init__(self, method: str | Method, config: PreTrainedConfig) -> None:
        self.method = get_method(method)
        text: Any = config.get_text_config(decoder=True)
        check_model(self.method, parse_config(text.to_dict(), Path(text.name_or_path or "config.json")))
        super().__init__(layers=[make_layer(self.method) for _ in range(text.num_hidden_layers)])
        self._config = text

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Hand new tokens to kvpred's attention with their layer at hand, or take them in at once."""
        layer: Any = self.layers[layer_idx]
        if self._config._attn_implementation != NAME:
            keys, values = layer.update(key_states, value_states)
            return keys, values
        key_states.kvpred_layer = layer  # type: ignore[attr-defined]
        return key_states, value_states

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors held over all layers."""
        return sum(layer.nbytes for layer in self.layers if isinstance(layer, CacheLayer))

    def parts(self) -> dict[str, int]:
        """Count bytes over all layers by the components that the method's memory model names."""
        total: dict[str, int] = {}
        for layer in self.layers:
            for name, size in layer.parts().items() if isinstance(layer, CacheLayer) else ():
                total[name] = total.get(name, 0) + size
        return total


def cache_for(model: PreTrainedModel, method: str | Method) -> MethodCache:
    """Switch a model to kvpred's attention and return an empty cache for it.

    Parameters
    ----------
    model : PreTrainedModel
        Any Llama-like model. Without such a cache, kvpred's attention works as SDPA does.
    method : str or Method

    Returns
    -------
    MethodCache
        For ``model.generate(..., past_key_values=cache_for(model, "h2o"))``; one cache per call.

    Raises
    ------
    UsageError
        If the method is unknown, has no cache here, or does not suit the model.
    """
    cache = MethodCache(method, model.config)
    model.set_attn_implementation(NAME)
    return cache


def check_model(method: Method, model: ModelSpec) -> None:
    """Raise `UsageError` if a model's layers are none that kvpred's caches serve, or do not suit the method.

    Parameters
    ----------
    method : Method
    model : ModelSpec
    """
    if model.sliding_window is not None:
        raise UsageError(
            f"{model.name} attends to a window of {model.sliding_window:,} tokens; {method.name} here serves "
            "full attention only: set sliding_window to null in its config to serve it so."
        )
    method.heads(model, tp=1)

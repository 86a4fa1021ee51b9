"""Operators timed in place: hooks on the modules of chosen layers mark where each operator ends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from kvpred.caches import CacheLayer, MethodCache
from kvpred.profiling.clocks import Clock

ONCE = ("emb", "lm_head")
"""Operators that a step runs once; all others run once per layer."""

# The interval that ends where a module begins or ends, in Vidur's names of operators. `add` has both residual
# additions; the gate's projection counts as mlp_up_proj and the product with it as mlp_act, as in Vidur.
BEGINS = {
    "self_attn.o_proj": "attn_output_reshape",
    "post_attention_layernorm": "add",
    "mlp.down_proj": "mlp_act",
}
ENDS = {
    "input_layernorm": "input_layernorm",
    "self_attn.v_proj": "attn_pre_proj",
    "self_attn.o_proj": "attn_post_proj",
    "post_attention_layernorm": "post_attention_layernorm",
    "mlp.gate_proj": "mlp_up_proj",
    "mlp.act_fn": "mlp_act",
    "mlp.up_proj": "mlp_up_proj",
    "mlp.down_proj": "mlp_down_proj",
    "": "add",
}
CACHE_OPERATORS = {
    "attend_prompt": "attn_prefill",
    "compress": "attn_kv_cache_save",
    "append": "attn_kv_cache_save",
    "attend": "attn_decode",
    "evict": "attn_kv_cache_save",
}
_FIRST = ("attend_prompt", "append")


class Timeline:
    """The marks of one step.

    Parameters
    ----------
    clock : Clock

    Attributes
    ----------
    marks : list of tuple
        What ends at each mark (None: nothing that is counted), its layer, and the mark.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mark = clock.mark
        self.marks: list[tuple[str | None, int, Any]] = []

    def note(self, operator: str | None, layer: int) -> Callable[..., None]:
        """Return a hook that marks the end of an operator (None: the start of what comes next)."""
        mark, append = self._mark, self.marks.append

        def hook(*_: Any) -> None:
            append((operator, layer, mark()))

        return hook

    def take(self) -> dict[str, list[float]]:
        """Return each operator's seconds, one number per hooked layer, and start anew.

        Raises
        ------
        RuntimeError
            If the step passed no mark.
        """
        if not self.marks:
            raise RuntimeError("no hooked module ran: the model's layers are named differently")
        times = self._clock.seconds([mark for *_, mark in self.marks])
        sums: dict[tuple[str, int], float] = defaultdict(float)
        for i, (operator, layer, _) in enumerate(self.marks):
            if operator is not None:
                sums[operator, layer] += times[i] - times[i - 1]
        self.marks.clear()
        found: dict[str, list[float]] = defaultdict(list)
        for (operator, _), seconds in sums.items():
            found[operator].append(seconds)
        return dict(found)


@contextmanager
def hooked(model: Any, layers: Sequence[int], clock: Clock) -> Iterator[Timeline]:
    """Hook the modules of some layers, and what a step runs once; unhook them afterwards.

    Parameters
    ----------
    model : PreTrainedModel
        A Llama-like causal language model.
    layers : sequence of int
        Layers to hook.
    clock : Clock

    Yields
    ------
    Timeline
        Give it a step's cache with `watch` before the step, and `take` its times after.
    """
    timeline = Timeline(clock)
    handles = []

    def add(module: nn.Module, *, begins: Any = None, ends: Any = None) -> None:
        if begins is not None:
            handles.append(module.register_forward_pre_hook(begins))
        if ends is not None:
            handles.append(module.register_forward_hook(ends))

    inner = model.get_decoder()
    once = zip(ONCE, (model.get_input_embeddings(), model.get_output_embeddings()), strict=True)
    try:
        for name, module in once:
            add(module, begins=timeline.note(None, -1), ends=timeline.note(name, -1))
        for index in layers:
            layer = inner.layers[index]
            add(layer, begins=timeline.note(None, index))
            for name, operator in BEGINS.items():
                add(layer.get_submodule(name), begins=timeline.note(operator, index))
            for name, operator in ENDS.items():
                add(layer.get_submodule(name), ends=timeline.note(operator, index))
        yield timeline
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watched(cache: MethodCache, layers: Sequence[int], timeline: Timeline) -> Iterator[None]:
    """Mark the operators of some of a cache's layers.

    The rotation of queries and keys ends where the cache takes them; what comes between that and the first
    operator is the input's reshaping.
    """
    chosen = set(layers)
    update = cache.update

    def marked_update(key: Any, value: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        if layer_idx in chosen:
            timeline.note("attn_rope", layer_idx)()
        return update(key, value, layer_idx, *args, **kwargs)

    cache.update = marked_update  # type: ignore[method-assign, assignment]
    for index in chosen:
        _watch(cache.layers[index], index, timeline)  # type: ignore[arg-type]
    try:
        yield
    finally:
        del cache.update
        for index in chosen:
            for name in CACHE_OPERATORS:
                delattr(cache.layers[index], name)


def _watch(layer: CacheLayer[Any], index: int, timeline: Timeline) -> None:
    """Put marks around the operators of this very layer, whatever its class."""
    for name, operator in CACHE_OPERATORS.items():
        begin = timeline.note("attn_input_reshape", index) if name in _FIRST else None
        setattr(layer, name, _marked(getattr(layer, name), begin, timeline.note(operator, index)))


def _marked(call: Callable[..., Any], begin: Callable[..., None] | None, end: Callable[..., None]) -> Any:
    def marked(*args: Any, **kwargs: Any) -> Any:
        if begin is not None:
            begin()
        result = call(*args, **kwargs)
        end()
        return result

    return marked

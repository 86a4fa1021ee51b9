"""What methods and options mean to OpenVINO GenAI: types of its cache, and the areas that eviction spares."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kvpred.errors import UsageError
from kvpred.hardware.engine_specs import get_engine_spec
from kvpred.methods import Method

BLOCK = get_engine_spec("openvino").block_tokens
POOLING = 7
"""Tokens whose scores the engine max-pools: a constant of its pipeline (MAX_POOL_WINDOW_SIZE)."""

_QUANTISED = ("u8", "u4")
_CAPABILITIES = {"bf16": "BF16", "f16": "FP16", "f32": "FP32"}
_NUMBERS = ("value_group_size", "threads")
_OPTIONS = {
    "key_precision": "KEY_CACHE_PRECISION",
    "value_precision": "VALUE_CACHE_PRECISION",
    "value_group_size": "VALUE_CACHE_GROUP_SIZE",
    "inference_precision": "INFERENCE_PRECISION_HINT",
    "threads": "INFERENCE_NUM_THREADS",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the engine serves a method.

    Parameters
    ----------
    precision : str or None
        Of quantised keys and values; None for 16 bit.
    start, recent : int
        Tokens at either end that are never evicted, in whole blocks.
    budget : int
        Tokens that are kept in all, in whole blocks; 0 keeps every one.
    window : int
        Last queries of the prompt whose attention ranks it; 0 for all queries.
    """

    precision: str | None = None
    start: int = 0
    recent: int = 0
    budget: int = 0
    window: int = 0


def recipe_of(method: Method) -> Recipe:
    """Return how the engine serves a method.

    Raises
    ------
    UsageError
        If it does not, or not with these parameters.

    Examples
    --------
    >>> from kvpred.methods import get_method
    >>> recipe_of(get_method("h2o"))
    Recipe(precision=None, start=32, recent=448, budget=512, window=0)
    """
    if method.name not in _RECIPES:
        raise UsageError(f"openvino does not serve {method.name}: it serves {', '.join(_RECIPES)}.")
    return _RECIPES[method.name](method)


def _h2o(method: Any) -> Recipe:
    """Spare the first block, as one of the heavy hitters; the others are kept by their sums of attention."""
    heavy, recent = method.heavy, method.recent
    if heavy % BLOCK or heavy < 2 * BLOCK or recent % BLOCK:
        raise UsageError(
            f"openvino evicts blocks of {BLOCK} tokens, never the first: h2o's heavy={heavy} must be a "
            f"multiple of {BLOCK} from {2 * BLOCK} on, and recent={recent} one from {BLOCK} on."
        )
    return Recipe(start=BLOCK, recent=recent, budget=heavy + recent)


def _snapkv(method: Any) -> Recipe:
    """Spare the first block and the window's."""
    budget, window, kernel = method.budget, method.window, method.kernel
    recent = BLOCK * -(-window // BLOCK)
    least = 2 * BLOCK + recent
    if budget % BLOCK or budget < least or kernel != POOLING:
        raise UsageError(
            f"openvino evicts blocks of {BLOCK} tokens, never the first nor the window's, and pools {POOLING}"
            f" scores: snapkv's budget={budget} must be a multiple of {BLOCK} from {least} on at "
            f"window={window}, and kernel={kernel} must be {POOLING}."
        )
    return Recipe(start=BLOCK, recent=recent, budget=budget, window=window)


_RECIPES: Mapping[str, Callable[[Any], Recipe]] = {
    "fp16": lambda _: Recipe(),
    "kv-int8": lambda _: Recipe(precision="u8"),
    "kv-int4": lambda _: Recipe(precision="u4"),
    "h2o": _h2o,
    "snapkv": _snapkv,
}


def properties_of(
    recipe: Recipe, options: Mapping[str, str], *, native: str, able: Collection[str]
) -> dict[str, str | int]:
    """Return the CPU plugin's properties, every precision said outright: its own default cache is u8.

    Parameters
    ----------
    recipe : Recipe
    options : mapping of str to str
        As given on the command line. Those of the cache's types apply to quantising methods alone.
    native : str
        The precision to compute in, where no option says it: ``bf16``, ``f16`` or ``f32``.
    able : collection of str
        The processor's OPTIMIZATION_CAPABILITIES.

    Raises
    ------
    UsageError
        If an option is unknown, or its value one that the engine cannot or does not really serve.

    Examples
    --------
    >>> properties_of(Recipe(), {}, native="bf16", able=["BF16", "FP32"])["KEY_CACHE_PRECISION"]
    'bf16'
    """
    given = {_property(option): _value(option, text, able) for option, text in options.items()}
    cached = {name: value for name, value in given.items() if "_CACHE_" in name}
    others = {name: value for name, value in given.items() if name not in cached}
    inference = others.setdefault("INFERENCE_PRECISION_HINT", native)
    # The paged cache holds bf16 beside bf16 arithmetic, and f16 beside any other.
    plain = "bf16" if inference == "bf16" else "f16"
    both = dict.fromkeys(("KEY_CACHE_PRECISION", "VALUE_CACHE_PRECISION"), recipe.precision or plain)
    return both | (cached if recipe.precision else {}) | others


def _property(option: str) -> str:
    if option == "key_group_size":
        raise UsageError(f"openvino heeds no key_group_size: a group of keys is a block of {BLOCK} tokens.")
    if option not in _OPTIONS:
        raise UsageError(f"openvino has no option {option!r}: it has {', '.join(_OPTIONS)}.")
    return _OPTIONS[option]


def _value(option: str, text: str, able: Collection[str]) -> str | int:
    if option in _NUMBERS:
        if not text.isdecimal() or not int(text):
            raise UsageError(f"openvino: {option}={text} must be a positive whole number.")
        return int(text)
    if option == "inference_precision":
        allowed = [name for name, capability in _CAPABILITIES.items() if capability in able]
        why = "what this processor computes in"
    else:
        allowed, why = list(_QUANTISED), "the quantised types that its paged attention has on a CPU"
    if text not in allowed:
        raise UsageError(f"openvino: {option}={text} must be {' or '.join(allowed)}, {why}.")
    return text

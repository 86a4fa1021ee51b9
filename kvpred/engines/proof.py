"""Proof that a method took effect in an engine, and that what it serves is no garbage.

Some engines accept a KV type that they do not have and serve nonsense, or silently serve another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from kvpred.engines.base import Engine, Usage
from kvpred.methods import BASELINE, Method, get_method
from kvpred.models import ModelSpec

USAGE_PROMPT_LEN, USAGE_OUTPUT_LEN = 1024, 16
"""Twice the default budgets of eviction, so that it shows."""

# Short everyday nouns: most tokenizers have them as single tokens.
_WORDS = [
    "apple", "river", "stone", "paper", "light", "horse", "table", "green", "water", "music", "night",
    "plant", "chair", "bread", "cloud", "glass", "snow", "bird", "fish", "tree", "road", "lamp", "gold",
    "ship", "milk", "door", "rain", "hand", "sand", "king",
]  # fmt: skip
_N_LISTS, _N_WORDS, _N_TIMES, _N_GIVEN, _N_ASKED = 6, 12, 3, 3, 8

_SOUND = 0.25
"""Share of fp16's right words that a method must reach: few bits cost some, a broken cache leaves none."""
_ABLE = 0.5
"""Share of words that fp16 must get right to be a judge."""
_FULL_WIDTH = 0.75
"""Least share of a 16-bit cache's bytes that passes for one; an 8-bit cache with its scales takes 0.53."""
_TELLING = 0.9
"""A method must be expected to take less than this share of fp16 for the share to prove anything."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What an engine showed of a method.

    Parameters
    ----------
    usage : Usage or None
    right : float or None
        Share of words copied rightly from the context; None of random weights, whose text proves nothing.
    """

    usage: Usage | None
    right: float | None


@dataclass(frozen=True, slots=True)
class Proof:
    """What a probe proves.

    Parameters
    ----------
    method : str
        Full method string.
    took_effect : bool or None
        Whether the cache takes the memory that the method promises; None if the engine does not tell.
    sound : bool or None
        Whether the output is no garbage; None if fp16 itself cannot copy, as with random weights.
    text : str
        Both, with figures.
    """

    method: str
    took_effect: bool | None
    sound: bool | None
    text: str


def probe(engine: Engine, method: Method, *, max_seq_len: int) -> Probe:
    """Let an engine serve one sequence whose cache is counted, and copy word lists.

    Parameters
    ----------
    engine : Engine
    method : Method
    max_seq_len : int
        Most tokens of a sequence that the engine was started for.
    """
    prompt_len = min(USAGE_PROMPT_LEN, max_seq_len - USAGE_OUTPUT_LEN)
    usage = engine.usage(method, prompt_len=prompt_len, output_len=USAGE_OUTPUT_LEN)
    if engine.random_weights:
        return Probe(usage, None)
    right = [
        _right(engine.complete(method, prompt, max_tokens=2 * _N_ASKED), asked)
        for prompt, asked in copying_tasks()
    ]
    return Probe(usage, float(np.mean(right)))


def copying_tasks() -> Iterator[tuple[str, list[str]]]:
    """Yield prompts and their right continuations: shuffled word lists, repeated and begun again.

    The continuation can only be read in the context, so it tells a broken KV cache from a working one.
    """
    for seed in range(_N_LISTS):
        words = np.random.default_rng(seed).permutation(_WORDS)[:_N_WORDS].tolist()
        lines = [" ".join(words)] * _N_TIMES
        yield "\n".join([*lines, " ".join(words[:_N_GIVEN])]), words[_N_GIVEN : _N_GIVEN + _N_ASKED]


def _right(answer: str, asked: list[str]) -> float:
    """Return the share of asked words that come in their order; a word too many or too few costs no other."""
    blocks = SequenceMatcher(None, answer.split(), asked, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks) / len(asked)


def prove(method: Method, found: Probe, *, baseline: Probe | None, model: ModelSpec) -> Proof:
    """Judge a method's probe.

    Parameters
    ----------
    method : Method
    found : Probe
    baseline : Probe or None
        fp16's on the same engine; without it, bytes are compared with what fp16 must take, and words with
        the right ones.
    model : ModelSpec
    """
    took_effect, effect = _effect(
        method, found.usage, baseline.usage if baseline is not None else None, model
    )
    sound, words = _soundness(found.right, None if baseline is None else baseline.right)
    return Proof(method.spec, took_effect, sound, f"{effect}; {words}")


def _soundness(right: float | None, fp16_right: float | None) -> tuple[bool | None, str]:
    if right is None:
        return None, "random weights have no text to judge"
    text = f"copies {right:.0%} of words from its context"
    if fp16_right is None:
        return right >= _SOUND * _ABLE, text
    text += f" (fp16 {fp16_right:.0%})"
    return (right >= _SOUND * fp16_right if fp16_right >= _ABLE else None), text


def _effect(
    method: Method, own: Usage | None, baseline: Usage | None, model: ModelSpec
) -> tuple[bool | None, str]:
    if own is None:
        return None, "does not tell how much its cache takes"
    prompt_len = own.kv_len - USAGE_OUTPUT_LEN if own.kv_len > USAGE_OUTPUT_LEN else own.kv_len
    full = float(get_method(BASELINE).cache_bytes(model, bsz=1, kv_len=own.kv_len))
    if method.name == BASELINE:
        if own.cache_bytes is None:
            return None, f"does not tell how many bytes its cache takes ({own.source})"
        share = own.cache_bytes / full
        return share >= _FULL_WIDTH, f"takes {share:.2f} of a 16-bit cache's bytes ({own.source})"
    fp16_bytes = baseline.cache_bytes if baseline is not None and baseline.cache_bytes else full
    bytes_share = float(method.cache_bytes(model, bsz=1, kv_len=own.kv_len, prompt_len=prompt_len)) / full
    token_share = float(method.stored_tokens(own.kv_len, prompt_len=prompt_len)) / own.kv_len
    shares = []
    if own.cache_bytes is not None:
        shares.append(("bytes", own.cache_bytes / fp16_bytes, bytes_share))
    if baseline is not None and own.cache_tokens is not None and baseline.cache_tokens:
        shares.append(("tokens", own.cache_tokens / baseline.cache_tokens, token_share))
    if baseline is not None and own.capacity_tokens and baseline.capacity_tokens:
        # A cache's capacity does not depend on which tokens of a sequence it keeps.
        shares.append(
            ("bytes per token", baseline.capacity_tokens / own.capacity_tokens, bytes_share / token_share)
        )
    telling = [(what, share, hoped) for what, share, hoped in shares if hoped < _TELLING]
    if not telling:
        return None, "tells nothing that would show this method"
    # Halfway: engines round to pages, and some count their quantised bytes generously.
    holds = any(share <= (1 + hoped) / 2 for _, share, hoped in telling)
    text = ", ".join(f"{share:.2f} of fp16's {what} (expected {hoped:.2f})" for what, share, hoped in telling)
    return holds, f"takes {text} ({own.source})"

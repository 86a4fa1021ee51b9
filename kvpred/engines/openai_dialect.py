"""How an OpenAI-compatible server is asked, found by asking: endpoint, prompts, answers of full length."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvpred.engines.base import EngineError, Target
from kvpred.engines.openai_server import RefusedError, Server
from kvpred.engines.sse import Answer
from kvpred.errors import UsageError

TOLERANCE = 0.02
"""Share by which a prompt may miss its length where the server takes text alone."""
_PROBE_TOKENS = 8
_N_WORDS = (16, 64)
_OTHER_FORM = (400, 404, 405, 415, 422, 500, 501)
"""Statuses with which servers refuse a request's form."""

# Short everyday words: most tokenizers have them as single tokens.
_WORDS = """
the of and to in is you that it he was for on are as with his they at be this have from or one had by
word but not what all were we when your can said there use an each which she do how their if will up
other about out many then them these so some her would make like him into time has look two more write go
see number no way could people my than first water been call who its now find long down day did get come
made may part
""".split()  # noqa: SIM905 (a list of a hundred strings reads worse)

Fields = dict[str, Any]
_FULL_LENGTH: tuple[Callable[[int], Fields], ...] = (
    # vLLM, SGLang, LMDeploy and llama.cpp, which ignore what they do not know. The last two fields make every
    # event tell its tokens: for vLLM and SGLang the one, for llama.cpp the other.
    lambda n_tokens: {
        "ignore_eos": True,
        "min_tokens": n_tokens,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "timings_per_token": True,
    },
    # transformers serve refuses fields that it does not know; -1 is no token's number.
    lambda n_tokens: {"generation_config": json.dumps({"eos_token_id": -1})},
    lambda n_tokens: {},
)
"""Ways to have an answer of full length, past stop tokens; the last one hopes for it."""


@dataclass(slots=True)
class Dialect:
    """How one server is asked.

    Parameters
    ----------
    server : Server
    model : str
        Its name there.
    vocab_size : int
    path : str
        Of completions, or of chat.
    full_length : callable
        The fields that ask for answers of a number of tokens.
    token_ids : bool
        Whether it takes prompts as token numbers.
    per_word, template : float
        Where it takes text alone: tokens of a word, and those around the words.
    """

    server: Server
    model: str
    vocab_size: int
    path: str
    full_length: Callable[[int], Fields]
    token_ids: bool
    per_word: float = 1.0
    template: float = 0.0

    def body(self, prompt: str | list[int], max_tokens: int, *, full_length: bool = True) -> Fields:
        """Return a request for one streamed answer, greedy, of full length or up to a stop token."""
        is_chat = self.path.endswith("chat/completions")
        asked = {"messages": [{"role": "user", "content": prompt}]} if is_chat else {"prompt": prompt}
        plain = {
            "model": self.model, "max_tokens": max_tokens, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        return asked | plain | (self.full_length(max_tokens) if full_length else {})

    def prompt(self, prompt_len: int, *, seed: int) -> str | list[int]:
        """Make a random prompt, another one in each call.

        Raises
        ------
        UsageError
            If the server's template alone is longer.
        """
        # A server outlives a measurement and remembers prompts: the seed alone would bring back known ones.
        rng = np.random.default_rng([seed, secrets.randbits(63)])
        if self.token_ids:
            # Special tokens stand at either end of a vocabulary.
            low, high = self.vocab_size // 8, self.vocab_size * 3 // 4
            return rng.integers(low, high, prompt_len).tolist()  # type: ignore[no-any-return]
        n_words = round((prompt_len - self.template) / self.per_word)
        if n_words < 1:
            raise UsageError(
                f"{self.server.shown} adds {self.template:.0f} tokens to a prompt: use longer prompts."
            )
        return " ".join(rng.choice(_WORDS, n_words).tolist())

    def fits(self, answers: Sequence[Answer], prompt_len: int) -> bool:
        """Tell whether prompts had the length, by the server's count; learn from it if they had not."""
        misses = [answer.prompt_tokens - prompt_len for answer in answers]
        if max(map(abs, misses)) <= TOLERANCE * prompt_len:
            return True
        self.template += float(np.mean(misses))
        return False


def find_dialect(server: Server, target: Target) -> Dialect:
    """Ask for one token in all ways, best first, until the server takes one.

    Raises
    ------
    UsageError
        If the server serves several models, or does not say which, and the target names none.
    EngineError
        If the server takes none, with what it says and the models that it has.
    """
    names = server.model_names()
    model = target.served_name or (names[0] if len(names) == 1 else None)
    if model is None:
        says = f"serves {', '.join(names)}" if names else "does not say which model it serves"
        raise UsageError(f"{server.shown} {says}: give one's name with --served-name.")
    refusals = []
    for path in ("/v1/completions", "/v1/chat/completions"):
        for full_length in _FULL_LENGTH:
            for token_ids in (True, False) if path == "/v1/completions" else (False,):
                dialect = Dialect(server, model, target.model.vocab_size, path, full_length, token_ids)
                try:
                    if _takes(dialect):
                        return dialect
                except RefusedError as refusal:
                    if refusal.status not in _OTHER_FORM:
                        raise
                    refusals.append(refusal)
    # A path that is not there says nothing of what is wrong at the other.
    telling = [refusal for refusal in refusals if refusal.status != 404] or refusals
    listed = f"it lists {', '.join(names)}" if names else "it lists no models"
    raise EngineError(
        f"{telling[-1]} It was asked for model {model!r}; {listed}. Correct --served-name or --url."
    )


def _takes(dialect: Dialect) -> bool:
    """Tell whether the server takes a dialect; learn its words' tokens if it takes no numbers."""
    if dialect.token_ids:
        # Some take a list of numbers for a list of prompts.
        return _count(dialect, _PROBE_TOKENS) == _PROBE_TOKENS
    few, many = (_count(dialect, n_words) for n_words in _N_WORDS)
    dialect.per_word = max((many - few) / (_N_WORDS[1] - _N_WORDS[0]), 0.1)
    dialect.template = few - _N_WORDS[0] * dialect.per_word
    return True


def _count(dialect: Dialect, prompt_len: int) -> int:
    body = dialect.body(dialect.prompt(prompt_len, seed=0), 1)
    return dialect.server.stream(dialect.path, lambda: [body])[0].prompt_tokens

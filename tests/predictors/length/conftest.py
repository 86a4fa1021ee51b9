"""Invented conversations whose answers are long or short by a rule that the messages show."""

from __future__ import annotations

import numpy as np
import pytest

from kvpred.data.conversations import Message, Turn
from kvpred.predictors.length.crossfit import cross_fit
from kvpred.predictors.length.fast import FastPredictor
from kvpred.predictors.length.model import LengthModel

CUT = 400
TOPICS = ("the harbour", "old clocks", "bees", "a steam engine", "tides", "wool", "bridges", "salt")


def invented_turns(n_conversations: int, *, seed: int = 0, cut: int | None = CUT) -> list[Turn]:
    """Chatty and terse assistants: an essay takes four times as many tokens as a word of thanks."""
    rng = np.random.default_rng(seed)
    turns = []
    for number in range(n_conversations):
        verbosity = rng.lognormal(0, 0.6)
        messages: list[Message] = []
        for _ in range(int(rng.integers(1, 6))):
            topic = TOPICS[rng.integers(len(TOPICS))]
            essay = rng.random() < 0.5
            ask = f"Write a long essay about {topic}." if essay else f"Thanks, just one word on {topic}?"
            messages.append(Message("user", ask))
            tokens = max(1, round((200 if essay else 50) * verbosity * rng.lognormal(0, 0.3)))
            seen = tokens if cut is None else min(tokens, cut)
            turns.append(
                Turn(
                    piece=f"c{number}_0",
                    group=f"c{number}",
                    index=len(messages) - 1,
                    messages=tuple(messages),
                    prompt_tokens=len(ask) // 4,
                    response_tokens=seen,
                    censored=cut is not None and tokens >= cut,
                    first=len(messages) == 1,
                )
            )
            messages.append(Message("assistant", " ".join(["word"] * seen)))
    return turns


@pytest.fixture(scope="session")
def turns() -> list[Turn]:
    return invented_turns(150)


@pytest.fixture(scope="session")
def new_turns() -> list[Turn]:
    """Of other conversations by the same rule."""
    return invented_turns(150, seed=1)


@pytest.fixture(scope="session")
def model(turns: list[Turn]) -> LengthModel:
    return cross_fit(lambda part: FastPredictor(), turns, n_folds=3, provenance="invented conversations")

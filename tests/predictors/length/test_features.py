"""What a conversation shows: always the same features, quickly, whatever the text."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from kvpred.data.conversations import Message
from kvpred.predictors.length.features import features

NAMES = list(features([Message("user", "How do bees find home?")]))
CONVERSATIONS = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(max_size=200)), max_size=6
)


@given(CONVERSATIONS, st.text(max_size=300))
def test_any_conversation_has_the_same_finite_or_missing_features(
    history: list[tuple[str, str]], prompt: str
) -> None:
    found = features([*(Message(role, text) for role, text in history), Message("user", prompt)])  # type: ignore[arg-type]
    assert list(found) == NAMES
    assert not any(math.isinf(value) for value in found.values())


def test_a_first_message_has_no_history() -> None:
    found = features([Message("user", "Hello")])
    assert found["n_answers"] == 0
    assert math.isnan(found["answer_last"]) and math.isnan(found["alike_answer"])


def test_the_answer_to_the_same_prompt_is_found() -> None:
    found = features(
        [
            Message("user", "Tell me of bees"),
            Message("assistant", "buzz " * 100),
            Message("user", "Now of wool"),
            Message("assistant", "baa"),
            Message("user", "Tell me of bees"),
        ]
    )
    assert found["alike"] == 1
    assert math.exp(found["alike_answer"]) > 50


def test_an_asked_amount_is_read() -> None:
    assert features([Message("user", "Write 500 words on salt")])["amount_words"] == 500


def test_an_unfinished_answer_is_seen() -> None:
    asked = Message("user", "go on")
    assert features([Message("assistant", "and then the"), asked])["latest_unfinished"]
    assert not features([Message("assistant", "The end."), asked])["latest_unfinished"]

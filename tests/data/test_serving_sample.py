"""The serving sampler takes what vLLM's benchmark takes, in its order, and counts what it leaves out."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.data.chat_files import read_conversations
from kvpred.data.conversations import Conversation, Message, Role
from kvpred.data.serving_sample import sample_requests
from kvpred.data.tokenizers import estimate_tokens


def words(text: str) -> int:
    return len(text.split())


def talk(number: int, *lengths: int, first: Role = "user") -> Conversation:
    """A conversation whose messages have so many numbered words."""
    sides: tuple[Role, Role] = ("user", "assistant") if first == "user" else ("assistant", "user")
    messages = [Message(sides[n % 2], " ".join(map(str, range(k)))) for n, k in enumerate(lengths)]
    return Conversation(f"talk{number}", tuple(messages))


@pytest.mark.parametrize(
    ("prompt", "answer", "reason"),
    [
        (4, 4, None),
        (3, 4, "prompts under 4 tokens"),
        (4, 3, "answers under 4 tokens"),
        (1024, 1024, None),
        (1025, 4, "prompts over 1,024 tokens"),
        (1024, 1025, "over 2,048 tokens together"),
    ],
)
def test_the_limits_of_length_are_those_of_vllm(prompt: int, answer: int, reason: str | None) -> None:
    sample = sample_requests([talk(0, prompt, answer)], count=words)
    assert len(sample.requests) == (reason is None)
    assert sample.left_out == ({} if reason is None else {reason: 1})


def test_only_the_first_message_and_its_answer_count() -> None:
    (request,) = sample_requests([talk(0, 10, 20, 3000, 1)], count=words).requests
    assert (request.id, request.prompt_tokens, request.output_tokens) == ("talk0/0", 10, 20)
    assert request.messages == talk(0, 10).messages


def test_the_order_is_that_of_a_shuffle_of_all_conversations_of_two_messages() -> None:
    # vLLM shuffles before it looks at the texts: what is left out later must not change the order.
    chats = [
        talk(n, *((9,) if n % 5 == 0 else (9, 9)), first="assistant" if n % 3 == 0 else "user")
        for n in range(40)
    ]
    order = [n for n in range(40) if n % 5]
    random.seed(7)
    random.shuffle(order)
    sample = sample_requests(chats, count=words, seed=7)
    assert [request.id for request in sample.requests] == [f"talk{n}/0" for n in order if n % 3]


def test_conversations_that_begin_otherwise_are_left_out_and_counted() -> None:
    system = Conversation("s", (Message("system", "Be brief and kind."), *talk(0, 9, 9).messages))
    chats = [talk(0, 9), talk(1, 9, 9, first="assistant"), system, talk(2, 9, 9)]
    sample = sample_requests(chats, count=words)
    assert [request.id for request in sample.requests] == ["talk2/0"]
    assert sample.left_out == {
        "fewer than two messages": 1,
        "does not begin with the user and an answer": 2,
    }


@given(seed=st.integers(0, 1000), n=st.integers(1, 30))
def test_a_smaller_sample_begins_a_larger_one(seed: int, n: int) -> None:
    chats = [talk(number, 9, 9) for number in range(20)]
    few, all_of_them = (
        sample_requests(chats, count=words, seed=seed, n_requests=k).requests for k in (n, 1000)
    )
    assert few == all_of_them[:n]
    assert len(all_of_them) == 20


def test_answers_stop_at_the_generation_cap() -> None:
    sample = sample_requests([talk(0, 9, 1500), talk(1, 9, 1024)], count=words)
    assert [request.output_tokens for request in sample.requests] == [1024, 1024]
    assert sample.left_out == {"answers cut to the generation cap": 1}


@given(prompt=st.integers(4, 1024), answer=st.integers(4, 1024), context=st.integers(1100, 2100))
def test_a_prompt_too_long_for_the_context_keeps_its_end(prompt: int, answer: int, context: int) -> None:
    (conversation,) = [talk(0, prompt, answer)]
    sample = sample_requests([conversation], count=words, context_tokens=context)
    (request,) = sample.requests
    whole, kept = conversation.messages[0].content, request.messages[0].content
    assert request.prompt_tokens == words(kept) == min(prompt, context - answer)
    assert whole.endswith(kept)
    assert sample.left_out == ({"prompts cut to the context": 1} if kept != whole else {})


def test_the_sharegpt_sample_gives_509_pieces_that_begin_with_the_human(shared_data: Path) -> None:
    chats = read_conversations(shared_data / "sharegpt/conversations.json").conversations
    sample = sample_requests(chats, count=lambda text: round(estimate_tokens(text)))
    assert sample.left_out["fewer than two messages"] == 8
    assert sample.left_out["does not begin with the user and an answer"] == 762 - 8 - 509
    assert len(sample.requests) + sum(sample.left_out.values()) == 762

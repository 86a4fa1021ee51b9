"""Conversations become turns: pieces of one belong together, first turns are first, cut answers are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.data.chat_files import read_conversations
from kvpred.data.conversations import Conversation, Message, Role, find_cut, turns_of

ROLES: dict[str, Role] = {"s": "system", "u": "user", "a": "assistant"}


def talk(roles: str, id: str = "talk", lacks_beginning: bool = False) -> Conversation:
    """A conversation of roles by their first letters; the n-th message has n words."""
    messages = tuple(Message(ROLES[role], "word " * n) for n, role in enumerate(roles, start=1))
    return Conversation(id, messages, lacks_beginning)


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(
    ("id", "group"),
    [
        ("Ab3dEf7_0", "Ab3dEf7"),
        ("Ab3dEf7_12", "Ab3dEf7"),
        ("Ab3dEf7", "Ab3dEf7"),
        ("Ab3dEf7_x", "Ab3dEf7_x"),
        # Ids that only number conversations: each is one of its own.
        ("chat_1", "chat_1"),
        ("conversation_12", "conversation_12"),
        ("_3", "_3"),
    ],
)
def test_pieces_of_one_conversation_share_its_group(id: str, group: str) -> None:
    assert talk("ua", id).group == group


@pytest.mark.parametrize(
    ("conversation", "late"),
    [
        (talk("ua", "Ab3dEf7_0"), False),
        (talk("ua", "Ab3dEf7_10"), True),
        (talk("ua", f"Ab3dEf7_{'9' * 5000}"), True),
        (talk("ua", "chat_1"), False),
        (talk("aua", "Ab3dEf7_0"), True),
        (talk("sua"), False),
        (talk("saua"), True),
        (talk("ua", lacks_beginning=True), True),
        (talk(""), False),
    ],
)
def test_a_later_piece_is_known_by_its_number_or_its_beginning(
    conversation: Conversation, late: bool
) -> None:
    assert conversation.starts_late == late


def test_every_answered_message_is_a_turn_with_all_that_was_said_before() -> None:
    turns = turns_of([talk("suaua")], count=words).turns
    assert [(turn.index, len(turn.messages), turn.prompt_tokens, turn.response_tokens) for turn in turns] == [
        (1, 2, 2, 3),
        (3, 4, 4, 5),
    ]
    assert [turn.first for turn in turns] == [True, False]


def test_a_message_that_no_answer_follows_is_no_turn() -> None:
    table = turns_of([talk("uuau")], count=words)
    assert [turn.index for turn in table.turns] == [1]
    assert table.traps["messages that follow one of the same role"] == 1


def test_the_first_turn_of_a_later_piece_is_not_first() -> None:
    table = turns_of(
        [talk("aua", "Ab3dEf7_0"), talk("ua", "Gh1jKl2_4"), talk("ua", "Mn0pQr5_0")], count=words
    )
    assert [turn.first for turn in table.turns] == [False, False, True]
    assert table.traps["pieces that begin with the assistant"] == 1
    assert table.traps["pieces whose beginning is missing"] == 2
    assert table.traps["answers that only begin their piece"] == 1


def test_empty_messages_are_kept_and_counted() -> None:
    empty = Conversation("talk", (Message("user", ""), Message("assistant", "")))
    table = turns_of([empty], count=words)
    assert (table.turns[0].prompt_tokens, table.turns[0].response_tokens) == (0, 1)
    assert (table.traps["prompts of 0 tokens"], table.traps["empty answers"]) == (1, 1)


def test_known_counts_are_taken_at_their_word() -> None:
    (turn,) = turns_of([talk("ua")], count=words, known={("talk", 0): (70, 80)}).turns
    assert (turn.prompt_tokens, turn.response_tokens) == (70, 80)


def test_a_given_cut_censors_answers_that_reach_it() -> None:
    table = turns_of([talk("uauaua")], count=words, cut_tokens=4)
    assert [turn.censored for turn in table.turns] == [False, True, True]
    assert (table.cut_tokens, table.traps["answers that were cut"]) == (4, 2)


SHAPES = {
    "lognormal": lambda rng, n: rng.lognormal(5, 1, n),
    "narrow": lambda rng, n: rng.normal(500, 5, n),
    "exponential": lambda rng, n: rng.exponential(200, n),
    "one word": lambda rng, n: rng.geometric(0.9, n),
    "few lengths": lambda rng, n: rng.integers(1, 20, n),
    "always the same": lambda rng, n: np.full(n, 30),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [30, 1000, 5000])
def test_answers_that_were_not_cut_have_no_cut(shape: str, n: int) -> None:
    for seed in range(40):
        lengths = SHAPES[shape](np.random.default_rng(seed), n)
        assert find_cut(np.maximum(lengths, 1).astype(int).tolist()) is None


# Of answers whose median is e^5 = 148 tokens, these caps cut 79, 29 and 7 %.
@given(seed=st.integers(0, 10_000), cap=st.sampled_from([64, 256, 650]))
def test_a_hard_cap_is_found_to_the_token(seed: int, cap: int) -> None:
    lengths = np.random.default_rng(seed).lognormal(5, 1, 1000).astype(int)
    assert find_cut(np.minimum(lengths, cap).tolist()) == cap


@given(seed=st.integers(0, 10_000), cap=st.sampled_from([64, 256, 650]))
def test_a_blurred_cap_is_found_within_four_per_cent(seed: int, cap: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.lognormal(5, 1, 1000).astype(int)
    blurred = cap + rng.exponential(0.01 * cap, 1000).astype(int)
    cut = find_cut(np.where(lengths < cap, lengths, blurred).tolist())
    assert cut is not None and 0.96 * cap <= cut <= 1.02 * cap


@pytest.mark.parametrize("tokens", [[], [5], [300] * 19])
def test_too_few_answers_show_no_cut(tokens: list[int]) -> None:
    assert find_cut(tokens) is None


@pytest.mark.parametrize("file", ["conversations.json", "pairs.jsonl"])
def test_the_traps_of_the_sharegpt_sample_are_met(shared_data: Path, file: str) -> None:
    pairs = read_conversations(shared_data / "sharegpt/pairs.jsonl")
    chats = read_conversations(shared_data / "sharegpt" / file)
    # The turns of both files stand at other places, so counts of words stand in where none are known.
    table = turns_of(chats.conversations, count=words, known=pairs.token_counts if file[0] == "p" else None)
    assert len(table.turns) == 2618
    assert len({turn.group for turn in table.turns}) == 741
    # The file's own flag `first_turn` says 509.
    assert sum(turn.first for turn in table.turns) == 437
    assert table.traps["turns of the longest conversation"] == 62
    if file == "pairs.jsonl":
        assert table.traps["prompts of 0 tokens"] == 4
        assert table.cut_tokens in (749, 750)
        assert table.traps["answers that were cut"] == 94
    else:
        assert table.traps["pieces that begin with the assistant"] == 253

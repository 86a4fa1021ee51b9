"""Conversations with a chat model, and the answers in them whose length is to be predicted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal["system", "user", "assistant"]

# ShareGPT names a piece by its conversation, seven letters and digits, and the number of its first message.
# Other people's ids that end in a number (chat_1, prompt_12) are conversations of their own.
_PIECE = re.compile(r"([A-Za-z0-9]{7})_([0-9]+)")


@dataclass(frozen=True, slots=True)
class Message:
    """What one side says.

    Parameters
    ----------
    role : str
        ``system``, ``user`` or ``assistant``.
    content : str
        May be empty.
    """

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation, or a piece of one.

    Parameters
    ----------
    id : str
        As the file names it; pieces of one conversation have ids of their own (ShareGPT: ``Ab3dEf7_0``,
        ``Ab3dEf7_12``).
    messages : tuple of Message
    lacks_beginning : bool
        Whether the file says that earlier messages are missing.

    Examples
    --------
    >>> piece = Conversation("Ab3dEf7_12", (Message("user", "And in winter?"),))
    >>> piece.group, piece.starts_late
    ('Ab3dEf7', True)
    """

    id: str
    messages: tuple[Message, ...]
    lacks_beginning: bool = False

    @property
    def group(self) -> str:
        """The whole conversation that this is a piece of: all that must stand on one side of a split."""
        piece = _PIECE.fullmatch(self.id)
        return piece[1] if piece else self.id

    @property
    def begins_with_answer(self) -> bool:
        """Whether the assistant speaks first, but for the system."""
        return next((m.role for m in self.messages if m.role != "system"), None) == "assistant"

    @property
    def starts_late(self) -> bool:
        """Whether its beginning is missing: a later piece, or one that begins with an answer."""
        piece = _PIECE.fullmatch(self.id)
        return self.lacks_beginning or self.begins_with_answer or bool(piece and piece[2].strip("0"))


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer, with all that the server sees before it gives it.

    Parameters
    ----------
    piece : str
        `Conversation.id`.
    group : str
        `Conversation.group`: what must never stand on both sides of a split.
    index : int
        Position of the user's message among the conversation's messages: `messages` has index + 1 entries.
    messages : tuple of Message
        The conversation so far; the last is the user's.
    prompt_tokens, response_tokens : int
        Tokens of the user's message alone, and of the answer.
    censored : bool
        Whether the answer was cut, so that it is at least as long as `response_tokens`.
    first : bool
        Whether it is really the conversation's first answer.
    """

    piece: str
    group: str
    index: int
    messages: tuple[Message, ...]
    prompt_tokens: int
    response_tokens: int
    censored: bool = False
    first: bool = True


@dataclass(frozen=True, slots=True)
class TurnTable:
    """Answered turns, and what was met on the way.

    Parameters
    ----------
    turns : tuple of Turn
    cut_tokens : int or None
        Where answers were cut; None if they were not.
    traps : mapping of str to int
        What a reader should know of the data, by name.
    """

    turns: tuple[Turn, ...]
    cut_tokens: int | None
    traps: Mapping[str, int]


def turns_of(
    conversations: Sequence[Conversation],
    *,
    count: Callable[[str], int],
    known: Mapping[tuple[str, int], tuple[int, int]] | None = None,
    cut_tokens: int | None = None,
) -> TurnTable:
    """Return every user's message that an answer follows, with all that was said before it.

    Parameters
    ----------
    conversations : sequence of Conversation
    count : callable
        Tokens of a text.
    known : mapping, optional
        Tokens of message and answer where they were counted already; see `ChatFile.token_counts`.
    cut_tokens : int, optional
        Answers of so many tokens or more were cut. Found by `find_cut` if not given.

    Returns
    -------
    TurnTable
        Empty answers count as one token: their end.
    """
    found: list[Turn] = []
    traps: Counter[str] = Counter()
    for conversation in conversations:
        messages = conversation.messages
        traps["pieces that begin with the assistant"] += conversation.begins_with_answer
        traps["pieces whose beginning is missing"] += conversation.starts_late
        for index in range(len(messages) - 1):
            now, then = messages[index], messages[index + 1]
            if now.role == then.role:
                traps["messages that follow one of the same role"] += 1
            if now.role != "user" or then.role != "assistant":
                continue
            counted = (known or {}).get((conversation.id, index))
            asked, answered = counted or (count(now.content), count(then.content))
            begins = all(m.role != "assistant" for m in messages[:index])
            first = begins and not conversation.starts_late
            traps["prompts of 0 tokens"] += asked == 0
            traps["empty answers"] += answered == 0
            traps["answers that only begin their piece"] += begins and not first
            found.append(
                Turn(
                    piece=conversation.id,
                    group=conversation.group,
                    index=index,
                    messages=messages[: index + 1],
                    prompt_tokens=asked,
                    response_tokens=max(answered, 1),
                    first=first,
                )
            )
    cut = find_cut([turn.response_tokens for turn in found]) if cut_tokens is None else cut_tokens
    turns = tuple(replace(t, censored=cut is not None and t.response_tokens >= cut) for t in found)
    traps["answers that were cut"] = sum(turn.censored for turn in turns)
    traps["turns of the longest conversation"] = max(Counter(t.group for t in turns).values(), default=0)
    return TurnTable(turns, cut, {name: number for name, number in traps.items() if number})


# A pile-up at a length: at least so many answers within 4 % above it, three times as many as within 4 % below
# it, hardly any beyond, and a tenth of all shorter, so that answers of one usual length are none. Nobody cuts
# answers at fewer than 16 tokens, where few lengths are possible and most of them are usual.
_PILE_ANSWERS, _PILE_WIDTH, _PILE_FACTOR, _PILE_BEYOND = 20, 1.04, 3, 0.2
_LEAST_SHORTER, _LEAST_CUT_TOKENS = 0.1, 16
# A hard cap is one length, the few just below it were not cut; cuts between words spread over several.
_HARD_CAP_SHARE = 0.8


def find_cut(tokens: Sequence[int]) -> int | None:
    """Return the length at which answers were cut: where they pile up, and hardly any is longer.

    The ShareGPT sample has 91 answers of 750 to 780 tokens, 17 of 720 to 749, and 5 longer ones.

    Parameters
    ----------
    tokens : sequence of int

    Returns
    -------
    int or None
        None if there is no such pile.

    Examples
    --------
    >>> find_cut([*range(1, 1000), *[1000] * 200])
    1000
    >>> find_cut(range(1, 1000)) is None
    True
    """
    ordered = np.sort(np.asarray(tokens, dtype=np.float64))
    lengths = np.unique(ordered)

    def up_to(bound: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.searchsorted(ordered, bound, side="left")

    here = up_to(lengths)
    pile = up_to(lengths * _PILE_WIDTH) - here
    below = here - up_to(np.minimum(lengths / _PILE_WIDTH, lengths - 1))
    beyond = len(ordered) - here - pile
    found = (pile >= _PILE_ANSWERS) & (pile >= _PILE_FACTOR * (below + 1)) & (beyond <= _PILE_BEYOND * pile)
    found &= (lengths >= _LEAST_CUT_TOKENS) & (here - below >= _LEAST_SHORTER * len(ordered))
    if not found.any():
        return None
    best = np.argmax(np.where(found, pile - below, -1))
    inside, counts = np.unique(ordered[here[best] : here[best] + pile[best]], return_counts=True)
    hard = counts.max() >= _HARD_CAP_SHARE * pile[best]
    return int(inside[counts.argmax()] if hard else lengths[best])

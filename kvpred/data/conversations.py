"""Conversations with a chat model, and the answers in them whose length is to be predicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal["system", "user", "assistant"]


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
        As the file names it; pieces of one conversation may have ids of their own (``abc_0``, ``abc_7``).
    messages : tuple of Message
    starts_late : bool
        Whether it is known to be a later piece, whose beginning is missing.
    """

    id: str
    messages: tuple[Message, ...]
    starts_late: bool = False

    @property
    def group(self) -> str:
        """The whole conversation that this is a piece of: the id up to its last underscore and number."""
        head, _, tail = self.id.rpartition("_")
        return head if head and tail.isdecimal() else self.id


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
        traps["pieces that begin with the assistant"] += bool(messages) and messages[0].role == "assistant"
        traps["pieces whose beginning is missing"] += conversation.starts_late
        for index in range(len(messages) - 1):
            now, then = messages[index], messages[index + 1]
            if now.role == then.role:
                traps["messages that follow one of the same role"] += 1
            if now.role != "user" or then.role != "assistant":
                continue
            counted = (known or {}).get((conversation.id, index))
            asked, answered = counted or (count(now.content), count(then.content))
            first = not conversation.starts_late and all(m.role != "assistant" for m in messages[:index])
            traps["prompts of 0 tokens"] += asked == 0
            traps["empty answers"] += answered == 0
            traps["answers that only begin their piece"] += not first and not any(
                m.role == "assistant" for m in messages[:index]
            )
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
# it, and hardly any beyond.
_PILE_ANSWERS, _PILE_WIDTH, _PILE_FACTOR, _PILE_BEYOND = 20, 1.04, 3, 0.2


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
    >>> find_cut([*range(1, 1000), *[1000] * 50])
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
    below = here - up_to(lengths / _PILE_WIDTH)
    beyond = len(ordered) - here - pile
    found = (pile >= _PILE_ANSWERS) & (pile >= _PILE_FACTOR * (below + 1)) & (beyond <= _PILE_BEYOND * pile)
    if not found.any():
        return None
    return int(lengths[np.argmax(np.where(found, pile - below, -1))])

"""Conversations as a Longformer reads them: token ids with turn marks, and numbers of the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvpred.data.conversations import Message
from kvpred.data.tokenizers import estimate_tokens
from kvpred.predictors.length.base import Floats, Messages
from kvpred.predictors.length.features import features

_CLS, _SEP = "[CLS]", "[SEP]"
# Characters per token that are certainly enough: what lies beyond a message's tokens need not be encoded.
_MOST_CHARS = 24


@dataclass(frozen=True, slots=True)
class Encoded:
    """One conversation.

    Parameters
    ----------
    ids : tuple of int
        Its tokens, the newest message first: what does not fit is the oldest.
    marks : tuple of int
        Places that attend, and are attended to, globally: the beginning, and that of each message's mark.
    numbers : array, shape (n_features,)
        See `features`; NaN where there is no history.
    """

    ids: tuple[int, ...]
    marks: tuple[int, ...]
    numbers: Floats


def encode(
    messages: Messages, tokenizer: Any, *, max_tokens: int, message_tokens: int, n_messages: int
) -> Encoded:
    """Encode a conversation, its newest message first.

    Each message begins with a mark that says whose it is and, of earlier ones, how many tokens it had: the
    lengths of earlier answers tell most of the next one's, their texts little.

    Parameters
    ----------
    messages : sequence of Message
        Ends with the user's message, which is kept as a whole where it fits.
    tokenizer : tokenizers.Tokenizer
        With the tokens [CLS] and [SEP].
    max_tokens : int
        Of the whole.
    message_tokens : int
        Of the beginning of each earlier message that is kept.
    n_messages : int
        The newest messages that are kept.
    """
    ids, marks = [_id(tokenizer, _CLS)], [0]
    for age, message in enumerate(reversed(messages[-n_messages:])):
        if len(ids) >= max_tokens:
            break
        marks.append(len(ids))
        kept = max_tokens if age == 0 else message_tokens
        ids += _plain(tokenizer, _mark(message, age))
        ids += _plain(tokenizer, message.content[: kept * _MOST_CHARS])[:kept]
        ids.append(_id(tokenizer, _SEP))
    numbers = np.array(list(features(messages).values()), dtype=np.float64)
    return Encoded(tuple(ids[:max_tokens]), tuple(marks), numbers)


def pad(batch: Sequence[Encoded], *, multiple: int) -> tuple[Any, Any, Any]:
    """Return token ids, attention mask and global attention mask, tensors of shape (bsz, tokens)."""
    import torch

    longest = max(len(one.ids) for one in batch)
    width = -(-longest // multiple) * multiple
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    mask, marked = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, one in enumerate(batch):
        ids[row, : len(one.ids)] = torch.tensor(one.ids)
        mask[row, : len(one.ids)] = 1
        marked[row, list(one.marks)] = 1
    return ids, mask, marked


def _mark(message: Message, age: int) -> str:
    if age == 0:
        return "question :"
    who = "answer" if message.role == "assistant" else message.role
    return f"{who} of {round(estimate_tokens(message.content), -1)} tokens :"


def _plain(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return found


def _id(tokenizer: Any, token: str) -> int:
    found: int | None = tokenizer.token_to_id(token)
    return 0 if found is None else found

"""The public door: conversations as plain dictionaries in, one estimate of the answer's length each out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvpred.data.conversations import Message
from kvpred.errors import UsageError
from kvpred.methods import BASELINE, get_method
from kvpred.predictors.length.model import INTERVAL_LEVEL, LengthEstimate, LengthModel
from kvpred.predictors.length.shift import LengthShift, shift_for

# Intervals are known up to the outermost of the quantiles that predictors give.
MAX_LEVEL = 0.95
ROLES = ("system", "user", "assistant")


def predict_length(
    conversations: Sequence[Sequence[Mapping[str, Any]]],
    *,
    predictor: LengthModel,
    method: str = BASELINE,
    shifts: Sequence[LengthShift] = (),
    model: str | None = None,
    level: float = INTERVAL_LEVEL,
) -> list[LengthEstimate]:
    """Predict how long the answers to conversations will be.

    Parameters
    ----------
    conversations : sequence of sequences of mapping
        Messages ``{"role": "user" | "assistant" | "system", "content": str}``; each conversation as the
        server sees it, earlier answers included, and ends with the user's message.
    predictor : LengthModel
    method : str
        Method string. Unless the predictor was trained on this method's own answers, its measured shift is
        applied.
    shifts : sequence of LengthShift
        Measured ones.
    model : str, optional
        Catalogue name of the served model, which a shift may have been measured on.
    level : float
        Of the intervals, 0.5 to 0.95.

    Returns
    -------
    list of LengthEstimate
        One per conversation.

    Raises
    ------
    UsageError
        If a message is malformed, a conversation is empty or ends with an answer, or the level is out of
        range.
    NotCoveredError
        If no shift was measured for the method.
    """
    if not 0.5 <= level <= MAX_LEVEL:
        raise UsageError(f"level {level} of length intervals must lie between 0.5 and {MAX_LEVEL}.")
    asked = [_messages(number, messages) for number, messages in enumerate(conversations, start=1)]
    wanted = get_method(method).spec
    shift = None if wanted == predictor.method_params else shift_for(wanted, shifts, model=model)
    return predictor.estimates(asked, shift=shift, level=level) if asked else []


def _messages(number: int, messages: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    where = f"conversation {number}"
    if isinstance(messages, str | Mapping) or not messages:
        raise UsageError(f"{where} must be a list of at least one message.")
    found = tuple(
        _message(f"{where}, message {place}", value) for place, value in enumerate(messages, start=1)
    )
    if found[-1].role != "user":
        raise UsageError(f"{where} ends with the role {found[-1].role!r}: expected the user's message.")
    return found


def _message(where: str, value: Mapping[str, Any]) -> Message:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} must be a mapping of role and content, not {type(value).__name__}.")
    role, content = value.get("role"), value.get("content")
    if role not in ROLES:
        raise UsageError(f"{where} has the role {role!r}; expected one of {', '.join(ROLES)}.")
    if not isinstance(content, str):
        raise UsageError(f"{where} has the content {content!r}; expected a text.")
    return Message(role, content)

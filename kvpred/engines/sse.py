"""Read a streamed answer: the bytes as they arrived, to text, token counts and arrival times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from kvpred.engines.base import EngineError

Piece = tuple[float, bytes]
"""Seconds since the submission, and what came then."""

_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered to one prompt.

    Parameters
    ----------
    text : str
    prompt_tokens : int
        As the server counted them.
    arrivals_s : tuple of float
        One per token of the answer.
    own_ttft_s, own_tpot_s : float or None
        The server's own timings, where it sends them with the answer as llama.cpp does.
    """

    text: str
    prompt_tokens: int
    arrivals_s: tuple[float, ...]
    own_ttft_s: float | None = None
    own_tpot_s: float | None = None


class _Delta(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(BaseModel):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None

    @property
    def new_text(self) -> str:
        delta = self.delta or _Delta()
        return self.text or delta.content or delta.reasoning_content or delta.reasoning or ""


class _Usage(BaseModel):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(default=0, ge=0)


class _Timings(BaseModel):
    prompt_ms: float
    predicted_ms: float
    predicted_n: int


class _Event(BaseModel):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: Any = None

    @property
    def new_text(self) -> str:
        return "".join(choice.new_text for choice in self.choices)

    @property
    def tokens_so_far(self) -> int | None:
        if self.usage is not None:
            return self.usage.completion_tokens
        return None if self.timings is None else self.timings.predicted_n


def is_over(piece: bytes) -> bool:
    """Tell whether a piece of a stream holds its end."""
    return b"data: [DONE]" in piece or b"data:[DONE]" in piece


def read_answer(pieces: Sequence[Piece]) -> Answer:
    """Read the server-sent events of one streamed completion, of text or chat.

    A token arrives with the event that brings its text; an event's arrival is that of its last byte. Where
    events tell how many tokens they complete, tokens that share an event share its arrival. Where only the
    last one tells the count, the first event's text is taken for one token, and the other tokens are dealt
    evenly to the other events: no token gets a time at which nothing arrived, and the first and the last
    arrival, which the time per token rests on, are true.

    Parameters
    ----------
    pieces : sequence of (float, bytes)
        The answer's body in parts of any size.

    Raises
    ------
    EngineError
        If an event is malformed or reports an error, if the stream ends before the answer does, or if it does
        not tell the tokens.
    """
    events: list[tuple[float, _Event]] = []
    done = False
    for at, data in _data_lines(pieces):
        if data == b"[DONE]":
            done = True
            break
        events.append((at, _parse(data, n_before=len(events))))
    if not (done or any(choice.finish_reason for _, event in events for choice in event.choices)):
        raise EngineError(f"cut its stream after {len(events)} events, before the answer was done")
    return _answer(events)


def _data_lines(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Yield the payload of each complete ``data:`` line with the arrival of its end; skip comments."""
    rest = b""
    for at, piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield at, line.removeprefix(b"data:").strip()


def _parse(data: bytes, *, n_before: int) -> _Event:
    shown = data[:_SHOWN].decode(errors="replace")
    try:
        event = _Event.model_validate_json(data)
    except ValidationError:
        raise EngineError(f"sent a malformed event after {n_before} good ones: {shown!r}") from None
    if event.error is not None:
        raise EngineError(f"failed after {n_before} events: {shown}")
    return event


def _answer(events: Sequence[tuple[float, _Event]]) -> Answer:
    usages = [event.usage for _, event in events if event.usage is not None]
    if not usages:
        raise EngineError("did not report `usage`, so that tokens cannot be counted")
    n_tokens = max(usage.completion_tokens for usage in usages)
    timings = next((event.timings for _, event in reversed(events) if event.timings is not None), None)
    return Answer(
        text="".join(event.new_text for _, event in events),
        prompt_tokens=max(usage.prompt_tokens for usage in usages),
        arrivals_s=_arrivals(events, n_tokens),
        own_ttft_s=timings.prompt_ms / 1e3 if timings else None,
        own_tpot_s=timings.predicted_ms / 1e3 / (n_tokens - 1) if timings and n_tokens > 1 else None,
    )


def _arrivals(events: Sequence[tuple[float, _Event]], n_tokens: int) -> tuple[float, ...]:
    bringing = [(at, event) for at, event in events if event.new_text]
    if not bringing or not n_tokens:
        # Nothing but tokens without text: special ones.
        return (events[-1][0],) * n_tokens
    if all(event.tokens_so_far is not None for _, event in bringing):
        arrivals: list[float] = []
        for at, event in events:
            arrivals += [at] * ((event.tokens_so_far or 0) - len(arrivals))
        return tuple(arrivals)
    gaps, steps = len(bringing) - 1, max(n_tokens - 1, 1)
    return tuple(bringing[-(-token * gaps // steps)][0] for token in range(n_tokens))

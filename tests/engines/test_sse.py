"""Arrival times of tokens, from streams whose bytes come in all kinds of parts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.engines.base import EngineError
from kvpred.engines.sse import read_answer


def event(text: str = "", **fields: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"text": text}], **fields}).encode() + b"\n\n"


def usage(n_tokens: int) -> dict[str, object]:
    return {"usage": {"prompt_tokens": 5, "completion_tokens": n_tokens}}


DONE = b"data: [DONE]\n\n"


def test_one_event_a_token() -> None:
    answer = read_answer([(0.1, event("a")), (0.2, event("b")), (0.3, event("c", **usage(3))), (0.3, DONE)])
    assert answer.text == "abc"
    assert answer.prompt_tokens == 5
    assert answer.arrivals_s == (0.1, 0.2, 0.3)


def test_tokens_that_events_count_share_their_events_arrival() -> None:
    pieces = [(0.1, event("a", **usage(1))), (0.4, event("bcd", **usage(4))), (0.5, event("e", **usage(5)))]
    assert read_answer([*pieces, (0.5, DONE)]).arrivals_s == (0.1, 0.4, 0.4, 0.4, 0.5)


def test_llama_cpps_timings_count_too_and_are_its_own_times() -> None:
    def timings(n_tokens: int, predicted_ms: float) -> dict[str, object]:
        return {"timings": {"prompt_ms": 90.0, "predicted_ms": predicted_ms, "predicted_n": n_tokens}}

    pieces = [(0.1, event("a", **timings(1, 0.0))), (0.2, event("bc", **timings(3, 20.0)))]
    answer = read_answer([*pieces, (0.2, event(**timings(3, 20.0), **usage(3))), (0.2, DONE)])
    assert answer.arrivals_s == (0.1, 0.2, 0.2)
    assert answer.own_ttft_s == pytest.approx(0.090)
    assert answer.own_tpot_s == pytest.approx(0.010)


def test_tokens_that_none_counts_are_dealt_to_true_arrivals() -> None:
    pieces = [
        (0.1, event("a")),
        (0.2, event("bc")),
        (0.3, event("de")),
        (0.3, event(**usage(5))),
        (0.3, DONE),
    ]
    assert read_answer(pieces).arrivals_s == (0.1, 0.2, 0.2, 0.3, 0.3)


@given(st.integers(1, 40), st.integers(1, 40))
def test_dealing_keeps_count_order_and_both_ends(n_tokens: int, n_events: int) -> None:
    pieces = [(float(at), event("x")) for at in range(n_events)]
    arrivals = read_answer([*pieces, (99.0, event(**usage(n_tokens))), (99.0, DONE)]).arrivals_s
    assert len(arrivals) == n_tokens
    assert list(arrivals) == sorted(arrivals)
    assert arrivals[0] == 0.0
    if n_tokens > 1:
        assert arrivals[-1] == n_events - 1


@given(st.integers(1, 200))
def test_an_event_arrives_with_its_last_byte(size: int) -> None:
    stream = b": a comment\n\n" + event("a").replace(b"\n", b"\r\n") + event("b", **usage(2)) + DONE
    parts = [stream[begin : begin + size] for begin in range(0, len(stream), size)]
    answer = read_answer([(float(index), part) for index, part in enumerate(parts)])
    ends = [stream.index(b"\n", stream.index(text)) // size for text in (b'"a"', b'"b"')]
    assert answer.text == "ab"
    assert answer.arrivals_s == tuple(map(float, ends))


def test_chat_and_reasoning_are_text() -> None:
    def delta(**fields: str) -> bytes:
        return b"data: " + json.dumps({"choices": [{"delta": fields}]}).encode() + b"\n\n"

    pieces = [
        (0.1, delta(role="assistant")),
        (0.2, delta(reasoning_content="hm ")),
        (0.3, delta(content="yes")),
    ]
    answer = read_answer([*pieces, (0.4, event(**usage(2))), (0.4, DONE)])
    assert answer.text == "hm yes"
    assert answer.arrivals_s == (0.2, 0.3)


def test_a_finish_reason_ends_a_stream_as_well() -> None:
    last = b'data: {"choices": [{"text": "", "finish_reason": "length"}], '
    last += b'"usage": {"prompt_tokens": 5, "completion_tokens": 1}}\n\n'
    assert read_answer([(0.1, event("a")), (0.2, last)]).arrivals_s == (0.1,)


def test_tokens_without_text_come_with_the_last_event() -> None:
    assert read_answer([(0.1, event()), (0.3, event(**usage(2))), (0.3, DONE)]).arrivals_s == (0.3, 0.3)


def test_nothing_but_an_end() -> None:
    with pytest.raises(EngineError, match="did not report `usage`"):
        read_answer([(0.1, DONE)])

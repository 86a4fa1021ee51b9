"""Keeping time of requests that come one after another, on an engine made of pauses."""

from __future__ import annotations

import time

import numpy as np
import pytest

from kvpred.engines.base import Arrival
from kvpred.engines.recorder import Recorder

STEP_S = 0.02


def served_in_steps(arrivals: list[Arrival]) -> Recorder:
    """Answer every request that has come with one token a step."""
    recorder = Recorder(arrivals, [10] * len(arrivals))
    recorder.start()
    while not recorder.done:
        recorder.come()
        if not recorder.open:
            recorder.wait()
            continue
        with recorder.step() as tokens:
            time.sleep(STEP_S)
            tokens.update(dict.fromkeys(recorder.open, 1))
    return recorder


def test_requests_come_when_they_should_and_get_their_tokens() -> None:
    arrivals = [Arrival("a", 0.0, "x", 3), Arrival("b", 0.5, "x", 2)]
    served = served_in_steps(arrivals).served()

    assert served.ids == ("a", "b")
    assert served.output_tokens.tolist() == [3, 2]
    assert served.first_token_at_s[1] >= 0.5 + STEP_S
    assert np.all(served.completed_at_s > served.first_token_at_s)


@pytest.mark.alone
def test_a_step_falls_in_equal_shares_to_those_in_it() -> None:
    served = served_in_steps([Arrival("a", 0.0, "x", 2), Arrival("b", 0.0, "x", 2)]).served()
    assert served.device_s[0] == pytest.approx(served.device_s[1])
    assert served.device_s.sum() == pytest.approx(served.makespan_s, rel=0.3)


@pytest.mark.alone
def test_one_who_got_no_token_has_no_part_in_the_step() -> None:
    recorder = Recorder([Arrival("a", 0.0, "x", 1), Arrival("b", 0.0, "x", 1)], [1, 1])
    recorder.start()
    recorder.come()
    with recorder.step() as tokens:
        tokens.update({0: 1, 1: 0})
    assert recorder.open == (1,)
    with recorder.step() as tokens:
        tokens[1] = 1
    assert recorder.done
    assert np.all(recorder.served().device_s < 0.05)


def test_where_steps_are_not_seen_shares_are_unknown() -> None:
    recorder = Recorder([Arrival("a", 0.0, "x", 2)], [1])
    recorder.start()
    recorder.come()
    recorder.token(0)
    recorder.token(0)
    served = recorder.served(device_known=False)
    assert recorder.done
    assert np.isnan(served.device_s).all()
    assert served.first_token_at_s[0] <= served.completed_at_s[0]

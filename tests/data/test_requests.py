"""Served requests: what their times say, and the file that holds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kvpred.data.requests import COLUMNS, ServedRequests, read_requests, write_requests
from kvpred.errors import DataError

SERVED = ServedRequests(
    ids=("a", "b"),
    arrived_at_s=np.array([0.0, 1.0]),
    first_token_at_s=np.array([0.5, 2.0]),
    completed_at_s=np.array([2.5, 2.0]),
    prompt_tokens=np.array([10, 20]),
    output_tokens=np.array([5, 1]),
    restarts=np.array([0, 2]),
    device_s=np.array([1.25, np.nan]),
)


def test_latencies_run_from_the_arrival() -> None:
    assert SERVED.ttft_s.tolist() == [0.5, 1.0]
    assert SERVED.e2e_s.tolist() == [2.5, 1.0]


def test_an_answer_of_one_token_has_no_time_per_token() -> None:
    assert SERVED.tpot_s[0] == pytest.approx(2.0 / 4)
    assert np.isnan(SERVED.tpot_s[1])


def test_throughput_is_answered_tokens_over_the_whole_time() -> None:
    assert SERVED.makespan_s == 2.5
    assert SERVED.throughput_tok_s == pytest.approx(6 / 2.5)


def test_shares_of_steps_add_up_to_the_busy_time() -> None:
    served = replace(SERVED, device_s=np.array([1.25, 0.75]))
    assert served.busy_share == pytest.approx(2.0 / 2.5)
    assert np.isnan(SERVED.busy_share)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_requests(tmp_path / "requests.csv", {("1 qps", "fp16"): SERVED, ("1 qps", "kv-int8"): SERVED})

    found = read_requests(tmp_path / "requests.csv")

    assert list(found) == [("1 qps", "fp16"), ("1 qps", "kv-int8")]
    for served in found.values():
        assert served.ids == SERVED.ids
        for name in COLUMNS[3:]:
            np.testing.assert_array_equal(getattr(served, name), getattr(SERVED, name))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("r,fp16,a,0,0.5,0.4,10,5,0,1", "line 2, column 'completed_at_s'.*not before first_token_at_s"),
        ("r,fp16,a,1,0.5,2,10,5,0,1", "line 2, column 'first_token_at_s'.*not before arrived_at_s"),
        ("r,fp16,a,0,0.5,2,0,5,0,1", "line 2, column 'prompt_tokens'.*at least 1"),
        ("r,fp16,a,0,,2,10,5,0,1", "line 2, column 'first_token_at_s'.*expected a number"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "requests.csv"
    path.write_text(",".join(COLUMNS) + "\n" + row + "\n")
    with pytest.raises(DataError, match=message):
        read_requests(path)


def test_a_file_without_requests_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    path.write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(DataError):
        read_requests(path)

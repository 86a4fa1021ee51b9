"""Workloads: where requests come from, and what a reader is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kvpred.data.traces import Trace, write_trace
from kvpred.errors import DataError, UsageError
from kvpred.workflows.workloads import WorkloadRequest, build_workload


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    at_s, prompts = np.array([0.0, 1.0, 1.0, 4.0]), np.array([10, 20, 5000, 40])
    write_trace(path, Trace(at_s, prompts, np.array([1, 2, 3, 4]), "t", ("a", "b", "c", "d")))
    return path


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    path = tmp_path / "talks.json"
    words = [" ".join(["word"] * n) for n in range(6, 66)]
    found = [
        {
            "id": f"t{n}",
            "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": text * 2}],
        }
        for n, text in enumerate(words)
    ]
    path.write_text(json.dumps(found))
    return path


def test_a_trace_keeps_its_own_arrivals(trace: Path) -> None:
    found = build_workload(WorkloadRequest(trace=trace))
    assert found.trace.arrived_at_s.tolist() == [0.0, 1.0, 1.0, 4.0]
    assert any("1 of 4 requests come at the moment of another" in note for note in found.notes)


def test_a_trace_at_another_rate_or_with_other_arrivals(trace: Path) -> None:
    assert build_workload(WorkloadRequest(trace=trace, qps=3.0)).trace.arrived_at_s[-1] == pytest.approx(1.0)
    drawn = build_workload(WorkloadRequest(trace=trace, arrivals="uniform")).trace
    assert drawn.arrived_at_s == pytest.approx([0, 4 / 3, 8 / 3, 4])
    assert drawn.prompt_tokens.tolist() == [10, 20, 5000, 40]


def test_the_context_refuses_or_drops(trace: Path) -> None:
    with pytest.raises(
        DataError, match=r"trace.csv: request c: 5,000 tokens of prompt and 3 .*--too-long drop"
    ):
        build_workload(WorkloadRequest(trace=trace), context_tokens=4096)
    left = build_workload(WorkloadRequest(trace=trace, too_long="drop", qps=2.0), context_tokens=4096)
    assert left.trace.ids == ("a", "b", "d")
    assert left.trace.qps == pytest.approx(2.0)
    assert any("1 of 4 requests left out" in note for note in left.notes)
    with pytest.raises(DataError, match="longer context"):
        build_workload(WorkloadRequest(trace=trace, too_long="drop"), context_tokens=8)
    with pytest.raises(UsageError, match="exceed the model's context of 4,096"):
        build_workload(WorkloadRequest(prompt_len=4000, qps=1.0), context_tokens=4096)


def test_requests_that_are_all_alike() -> None:
    found = build_workload(WorkloadRequest(qps=5.0, n_requests=50, seed=3)).trace
    again = build_workload(WorkloadRequest(qps=5.0, n_requests=50, seed=3)).trace
    assert set(zip(found.prompt_tokens.tolist(), found.output_tokens.tolist(), strict=True)) == {(1024, 256)}
    assert found.arrived_at_s.tolist() == again.arrived_at_s.tolist()
    still = build_workload(WorkloadRequest(n_requests=3), timed=False).trace
    assert still.arrived_at_s.tolist() == [0, 0, 0]


def test_vllms_sample_of_conversations(talks: Path) -> None:
    request = WorkloadRequest(conversations=(talks,), n_requests=20, qps=1.0, output_len=9)
    found = build_workload(request).trace
    assert (len(found), set(found.output_tokens.tolist())) == (20, {9})
    longer = build_workload(WorkloadRequest(conversations=(talks,), n_requests=20, qps=1.0)).trace
    assert (longer.output_tokens > longer.prompt_tokens).all()


def test_predicted_lengths_are_drawn_by_the_seed(talks: Path) -> None:
    pytest.importorskip("lightgbm")
    drawn = [
        build_workload(
            WorkloadRequest(conversations=(talks,), lengths="predicted", qps=1.0, seed=seed, n_requests=60)
        ).trace
        for seed in (0, 0, 1)
    ]
    by_id = [dict(zip(one.ids, one.output_tokens.tolist(), strict=True)) for one in drawn]
    assert by_id[0] == by_id[1] != by_id[2]
    mean = build_workload(
        WorkloadRequest(conversations=(talks,), lengths="predicted-mean", qps=1.0)
    ).trace.output_tokens
    assert drawn[0].output_tokens.std() > 2 * mean.std()
    # 60 draws: the mean is within three standard errors of what is expected.
    error = drawn[0].output_tokens.std() / np.sqrt(60)
    assert abs(drawn[0].output_tokens.mean() - mean.mean()) < 3 * error


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (WorkloadRequest(), "--qps is missing"),
        (WorkloadRequest(qps=-1.0), "-1 requests per second: give a positive number"),
        (WorkloadRequest(qps=float("nan")), "nan requests per second: give a positive number"),
        (WorkloadRequest(qps=1.0, arrivals="now"), "--arrivals 'now' is not known"),
        (WorkloadRequest(qps=1.0, n_requests=0), "--requests 0"),
        (WorkloadRequest(qps=1.0, output_len=0), "--output-len 0"),
        (WorkloadRequest(qps=1.0, lengths="predicted"), "needs the --conversations"),
        (WorkloadRequest(qps=1.0, too_long="shrink"), "use refuse, drop"),
        (WorkloadRequest(trace=Path("t"), conversations=(Path("c"),)), "give one of them"),
        (WorkloadRequest(trace=Path("t"), prompt_len=5), "leave out --trace"),
    ],
)
def test_options_that_do_not_go_together(request_: WorkloadRequest, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_workload(request_)

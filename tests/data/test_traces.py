"""Traces: three formats in, other rates and answers out, and what a bad file is told."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.data.traces import Trace, read_trace, write_trace
from kvpred.errors import DataError, UsageError

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def make(at_s: list[float], outputs: list[int] | None = None) -> Trace:
    n = len(at_s)
    tokens = np.array(outputs or [10] * n)
    return Trace(np.array(at_s), np.arange(1, n + 1), tokens, "made up", tuple(map(str, range(n))))


def test_published_traces_are_read_whole(shared_data: Path) -> None:
    # Counts and totals of SOURCES.md and of the files themselves (`wc -l`, awk).
    conv = read_trace(shared_data / "traces" / "AzureLLMInferenceTrace_conv.csv")
    assert (len(conv), conv.simultaneous) == (19_366, 0)
    assert conv.arrived_at_s[1] == pytest.approx(50.9951690 - 46.6805900, abs=1e-9)
    assert (conv.prompt_tokens[0], conv.output_tokens[0]) == (374, 44)
    mooncake = read_trace(shared_data / "traces" / "mooncake_conversation.jsonl")
    assert (len(mooncake), mooncake.arrived_at_s[-1]) == (12_031, 3536.999)
    assert round(mooncake.prompt_tokens.mean()) == 12_035
    assert mooncake.simultaneous == 10_851


def test_own_format_comes_back_as_written(tmp_path: Path) -> None:
    trace = make([0.0, 0.1, 0.1, 7.25])
    write_trace(tmp_path / "t.csv", trace)
    again = read_trace(tmp_path / "t.csv")
    assert again.ids == trace.ids
    for name in ("arrived_at_s", "prompt_tokens", "output_tokens"):
        assert getattr(again, name).tolist() == getattr(trace, name).tolist()


def test_lines_are_the_ids_of_files_without_and_time_begins_at_0(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("arrived_at_s,prompt_tokens,output_tokens\n5,1,2\n6.5,3,4\n")
    trace = read_trace(tmp_path / "t.csv")
    assert (trace.ids, trace.arrived_at_s.tolist()) == (("2", "3"), [0.0, 1.5])


def test_a_day_ends_and_offsets_are_read(tmp_path: Path) -> None:
    rows = "2023-12-31 23:59:59.5,1,1\n2024-01-01 00:00:01.000000+00:00,1,1\n"
    (tmp_path / "t.csv").write_text(AZURE + rows)
    assert read_trace(tmp_path / "t.csv").arrived_at_s.tolist() == [0.0, 1.5]


STAMP = "2023-11-16 18:17:03.9799600"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{AZURE}{STAMP},1,1\n2023-11-16 18:17:02.0,1,1\n", "line 3, column 'TIMESTAMP', value '2023-11-16"),
        (f"{AZURE}{STAMP},1,1\n2023-11-16 18:17:02.0,1,1\n", "sort the file by arrival"),
        (f"{AZURE}{STAMP},0,1\n", "line 2, column 'ContextTokens', value '0'"),
        (f"{AZURE}{STAMP},7,-1\n", "line 2, column 'GeneratedTokens', value '-1'"),
        (f"{AZURE}{STAMP},7,1.5\n", "expected a whole number of at least 1"),
        (f"{AZURE}yesterday,7,1\n", "value 'yesterday': expected a time such as"),
        (f"{AZURE}2023-13-16 18:17:03,7,1\n", "no day or time that there is"),
        (AZURE, "only a header, no rows"),
        ("arrived_at_s,prompt_tokens,output_tokens\n,1,1\n", "expected a number of seconds"),
        ("arrived_at_s,prompt_tokens,output_tokens\n-1,1,1\n", "not negative"),
        (
            "arrived_at_s,prompt_tokens,output_tokens\n2,1,1\n1,1,1\n",
            "line 3, column 'arrived_at_s', value '1'",
        ),
        ("when,how\n1,1\n", "no trace: the header has when, how"),
        ("", "the file is empty"),
        ('{"timestamp": 5, "input_length": 1, "output_length": 1}\nnonsense\n', "line 2: not JSON"),
        (
            '{"timestamp": 5, "input_length": 1, "output_length": 0}\n',
            "line 1, column 'output_length', value '0'",
        ),
        ('{"timestamp": 5, "input_length": true, "output_length": 1}\n', "column 'input_length'"),
        ('{"timestamp": "5", "input_length": 1, "output_length": 1}\n', "line 1, column 'timestamp'"),
        ('{"timestamp": NaN, "input_length": 1, "output_length": 1}\n', "milliseconds"),
        (
            '{"timestamp": 5, "input_length": 1, "output_length": 1}\n\n'
            '{"timestamp": 4, "input_length": 1, "output_length": 1}\n',
            "line 3, column 'timestamp', value '4'",
        ),
    ],
)
def test_bad_files_are_told_where_they_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "trace.txt").write_text(text)
    with pytest.raises(DataError) as error:
        read_trace(tmp_path / "trace.txt")
    assert message in str(error.value)
    assert "trace.txt" in str(error.value)


gaps = st.lists(st.floats(0, 1e4), min_size=1, max_size=30).filter(lambda found: sum(found) > 1e-3)


@given(gaps=gaps, qps=st.floats(0.01, 1e3))
def test_another_rate_stretches_every_gap_alike(gaps: list[float], qps: float) -> None:
    trace = make([0.0, *np.cumsum(gaps).tolist()])
    there = trace.at_qps(qps)
    assert there.qps == pytest.approx(qps)
    assert there.arrived_at_s * trace.arrived_at_s[-1] == pytest.approx(
        trace.arrived_at_s * there.arrived_at_s[-1], rel=1e-9
    )
    assert (there.ids, there.output_tokens.tolist()) == (trace.ids, trace.output_tokens.tolist())


def test_rates_that_cannot_be() -> None:
    for qps in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="requests per second"):
            make([0.0, 1.0]).at_qps(qps)
    with pytest.raises(UsageError, match="come at once"):
        make([0.0, 0.0]).at_qps(1.0)
    assert make([0.0]).at_qps(3.0).arrived_at_s.tolist() == [0.0]


def test_answers_are_replaced_and_scaled_to_whole_tokens() -> None:
    trace = make([0.0, 1.0, 2.0], [1, 10, 25])
    assert trace.with_outputs(7).output_tokens.tolist() == [7, 7, 7]
    assert trace.with_outputs([1, 2, 3]).output_tokens.tolist() == [1, 2, 3]
    assert trace.scaled_outputs(0.3).output_tokens.tolist() == [1, 3, 8]


def test_a_part_begins_at_0() -> None:
    trace = make([0.0, 1.0, 3.0])
    assert trace.first(2).ids == ("0", "1")
    assert trace.first(9).ids == trace.ids
    assert trace.where(np.array([False, True, True])).arrived_at_s.tolist() == [0.0, 2.0]


HEADERS = st.sampled_from(["", AZURE, "arrived_at_s,prompt_tokens,output_tokens\n", '{"timestamp": '])


@given(header=HEADERS, rest=st.text(max_size=60))
def test_no_text_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, header: str, rest: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "trace"
    path.write_text(header + rest, encoding="utf-8", errors="replace", newline="")
    with contextlib.suppress(DataError):
        assert len(read_trace(path)) > 0


cells = st.one_of(st.integers(-5, 10**400), st.floats(), st.sampled_from(["", "x", None, "1_0", "²"]))


@given(values=st.tuples(cells, cells, cells))
def test_no_cell_breaks_the_reader(
    tmp_path_factory: pytest.TempPathFactory, values: tuple[object, object, object]
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "trace"
    names = ("timestamp", "input_length", "output_length")
    path.write_text(json.dumps(dict(zip(names, values, strict=True))))
    with contextlib.suppress(DataError):
        assert len(read_trace(path)) == 1
    path.write_text("arrived_at_s,prompt_tokens,output_tokens\n" + ",".join(map(str, values)) + "\n")
    with contextlib.suppress(DataError):
        assert len(read_trace(path)) == 1

"""From tables of runs to views: what belongs together, and what a reader is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvpred.data.runs import Run
from kvpred.errors import DataError
from kvpred.evaluation.throughput_views import ThroughputViews
from kvpred.workflows.throughput import view_throughput
from tests.measured_runs import EAGER, make_run, make_runs, write_table


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "runs.csv"


def _views(table: Path, runs: list[Run]) -> ThroughputViews:
    return view_throughput([write_table(table, runs)])


def test_engines_of_several_tables_stand_side_by_side(tmp_path: Path) -> None:
    told: list[str] = []
    paths = [
        write_table(tmp_path / "a.csv", make_runs("transformers", laws=EAGER)),
        write_table(tmp_path / "b.csv", make_runs("openvino")),
    ]
    views = view_throughput(paths, progress=told.append)
    assert list(views.names.values()) == ["openvino", "transformers"]
    assert len(views.sides) == 4
    assert told == ["432 runs of smollm2-135m: openvino; transformers"]
    assert views.notes[0] == (
        "Measured: smollm2-135m on host-cpu (two cores); openvino, transformers; medians of 3 repeats."
    )


def test_settings_are_named_by_what_differs(table: Path) -> None:
    runs = [make_run(host="lab"), make_run(host="desk"), make_run(device="a100", host="lab")]
    assert list(_views(table, runs).names.values()) == [
        "openvino on a100-80gb (lab)",
        "openvino on host-cpu (desk)",
        "openvino on host-cpu (lab)",
    ]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"model": "llama-2-7b"}, "2 models (llama-2-7b, smollm2-135m): give the runs of one"),
        ({"tp": 2}, "2 tensor-parallel degrees (1, 2)"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(
    table: Path, other: dict[str, object], words: str
) -> None:
    with pytest.raises(DataError) as refused:
        _views(table, [make_run(), make_run("kv-int8", **other)])
    assert words in str(refused.value)
    assert str(table) in str(refused.value)


def test_labels_of_a_published_table_are_pooled_on_purpose_only(shared_data: Path) -> None:
    paths, known = [shared_data / "a6000" / "throughput"], {"device": "a6000", "engine": "lmdeploy"}
    with pytest.raises(DataError, match=r"4 models .*--pool-labels"):
        view_throughput(paths, **known)
    views = view_throughput(paths, model="llama-2-7b", pool_labels=True, **known)
    assert any("4 model names of the table" in note for note in views.notes)


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([make_run("kv-int8")], "openvino: no runs of fp16, so no speed-ups."),
        ([make_run()], "openvino: nothing of decode was measured twice"),
        ([make_run(), make_run("kv-int8", bsz=8)], "no fp16 where 1 case would need it"),
        ([make_run(), make_run(repeat=1, mark="drift")], "1 of 2 runs are marked (drift: 1)"),
        ([make_run(mark="drift")], "site has no others: at 1 of 1 points, ringed"),
        ([make_run(versions="1"), make_run(repeat=1, versions="2")], "2 different versions"),
        ([make_run(), make_run(engine="llamacpp")], "Nothing stands side by side"),
    ],
)
def test_what_is_missing_or_doubtful_is_said(table: Path, runs: list[Run], said: str) -> None:
    assert [note for note in _views(table, runs).notes if said in note]


def test_good_runs_need_no_excuses(table: Path) -> None:
    notes = _views(table, make_runs()).notes
    assert len(notes) == 2
    assert "two standard errors" in notes[1]


def test_a_table_without_rows_is_refused(table: Path) -> None:
    with pytest.raises(DataError, match="only a header"):
        _views(table, [])

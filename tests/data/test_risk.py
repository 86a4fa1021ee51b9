"""The packaged table of published risks, sizes of requests, and what bad ones are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kvpred.data.longbench import Task
from kvpred.data.quality import read_quality
from kvpred.data.risk import ALL_TASKS, PACKAGED, PublishedRisk, read_risk, read_sizes, write_risk
from kvpred.errors import DataError

HEADER = "dataset,id,task,prompt_tokens,input_chars,context_chars,answers\n"


def by_run() -> dict[str, list[PublishedRisk]]:
    found: dict[str, list[PublishedRisk]] = {}
    for row in read_risk():
        found.setdefault(row.published_as, []).append(row)
    return found


def test_every_run_of_published_quality_has_its_task_types_and_all() -> None:
    runs = {row.published_as: row for row in read_quality()}
    assert list(by_run()) == list(runs)
    for name, rows in by_run().items():
        assert [row.task for row in rows] == [*Task, ALL_TASKS]
        for row in rows:
            quality = runs[name]
            assert (row.method_params, row.model, row.source) == (
                quality.method_params,
                quality.model,
                quality.source,
            )


def test_packaged_shares_are_sound() -> None:
    for *parts, whole in by_run().values():
        assert sum(row.benign for row in parts) == whole.benign
        assert sum(row.broken for row in parts) == whole.broken
        for row in (*parts, whole):
            assert row.share == pytest.approx(row.broken / row.benign, abs=5e-5)
            assert row.low <= row.share <= row.high
            assert row.auc_low <= row.auc <= row.auc_high
            assert row.skill_low <= row.skill <= row.skill_high
            assert (row.auc, row.skill, row.level) == (whole.auc, whole.skill, 0.9)


def test_a_table_comes_back_as_written(tmp_path: Path) -> None:
    write_risk(tmp_path / "risk.csv", read_risk())
    assert (tmp_path / "risk.csv").read_bytes() == PACKAGED.read_bytes()


@pytest.mark.parametrize(
    ("skill_low", "beats"), [(0.001, True), (0.0, False), (-0.2, False)], ids=["above 0", "at 0", "below 0"]
)
def test_a_task_type_beats_the_base_rate_if_all_of_the_interval_does(skill_low: float, beats: bool) -> None:
    assert replace(read_risk()[0], skill_low=skill_low).beats_base_rate is beats


def test_a_share_says_what_it_is_of() -> None:
    first = read_risk()[0]
    assert replace(first, task="code").basis == "task type"
    assert replace(first, task=ALL_TASKS).basis == "base rate"


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"task": "poetry"}, "task"),
        ({"benign": 5, "broken": 6}, "broken"),
        ({"share": 1.5}, "share"),
        ({"auc": -0.1}, "auc"),
        ({"auc": float("nan")}, "auc"),
        ({"skill_low": "little"}, "skill_low"),
        ({"skill": 2.0}, "skill"),
        ({"method_params": ""}, "method_params"),
    ],
)
def test_bad_cells_are_named(tmp_path: Path, change: dict[str, object], column: str) -> None:
    write_risk(tmp_path / "risk.csv", [replace(read_risk()[0], **change)])  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"line 2, column '{column}'"):
        read_risk(tmp_path / "risk.csv")


def test_sizes_are_read_by_dataset_and_id(tmp_path: Path) -> None:
    path = tmp_path / "features.csv"
    path.write_text(
        HEADER + "trec,0,few-shot,5121,64,20480,1\nlcc,0,code,900,0,3600,1\ntrec,a,few-shot,7,1,2,3\n"
    )
    assert read_sizes(path) == {
        "trec": {"0": (5121, 64, 20480), "a": (7, 1, 2)},
        "lcc": {"0": (900, 0, 3600)},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset,id,prompt_tokens\ntrec,0,1\n", "missing columns input_chars, context_chars"),
        (HEADER + "trec,0,few-shot,many,64,1,1\n", "line 2, column 'prompt_tokens', value 'many'"),
        (HEADER + "trec,0,few-shot,-1,64,1,1\n", "line 2, column 'prompt_tokens', value '-1'"),
        (HEADER + "trec,,few-shot,1,64,1,1\n", "line 2, column 'id'"),
        (HEADER + 2 * "trec,0,few-shot,1,2,3,1\n", "line 3, column 'id', value '0': occurs twice"),
    ],
)
def test_bad_sizes(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "features.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_sizes(tmp_path / "features.csv")

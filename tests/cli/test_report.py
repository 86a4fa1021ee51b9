"""``kvpred report profile`` and ``kvpred report throughput``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.in_place import write_root
from tests.measured_runs import EAGER, make_runs, write_table

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_root(tmp_path_factory.mktemp("profiles"), methods=("fp16", "h2o", "kivi"))


@pytest.fixture(autouse=True)
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chrome")


def test_tables_go_to_stdout_and_what_was_written_to_stderr(cli: Cli, profiles: Path, tmp_path: Path) -> None:
    answer = cli("report", "profile", profiles, "--output", tmp_path / "report")
    assert answer.code == 0
    assert "Where the speed-up against fp16 crosses 1" in answer.out
    read, written, remark = answer.err.splitlines()
    assert read == "kvpred: 3 profiles of smollm2-135m on host-cpu"
    assert written.startswith(f"kvpred: wrote {tmp_path / 'report' / 'report.html'} and ")
    assert remark.startswith("kvpred: no PNG files")


def test_json_is_one_object_with_everything(cli: Cli, profiles: Path, tmp_path: Path) -> None:
    answer = cli("report", "profile", profiles, "--output", tmp_path / "report", "--format", "json")
    (record,) = answer.objects
    assert {row["method"] for row in record["crossings"]} == {row["method"] for row in record["summary"]} - {
        "fp16"
    }


def test_csv_is_the_summary(cli: Cli, profiles: Path, tmp_path: Path) -> None:
    rows = cli("report", "profile", profiles, "--output", tmp_path / "report", "--format", "csv").rows
    assert [(row["method"].partition(":")[0], row["stage"]) for row in rows] == [
        (method, stage) for stage in ("decode", "prefill") for method in ("fp16", "h2o", "kivi")
    ]


def test_the_report_lies_beside_the_profiles_unless_told_otherwise(
    cli: Cli, profiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("report", "profile", profiles).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["profile-report"]


def test_profiles_without_steps_are_drawn_too(cli: Cli, store: Path, tmp_path: Path) -> None:
    answer = cli("report", "profile", store, "--output", tmp_path / "report")
    assert answer.code == 0
    assert "No steps.csv" in answer.out
    assert "crosses 1" not in answer.out


def test_nothing_else_is_replaced(cli: Cli, profiles: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    answer = cli("report", "profile", profiles, "--output", tmp_path)
    assert (answer.code, answer.out) == (2, "")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (("nowhere",), 3, "nowhere"),
        (("{profiles}", "--tp", 4), 4, "tp=4"),
        (("{profiles}", "--device", "abacus"), 2, "abacus"),
        (("{profiles}", "--model", "llama-2-7b"), 3, "contradicts the manifest"),
        (("{profiles}", "--method", "zip"), 2, "zip"),
    ],
)
def test_bad_input_is_explained_and_leaves_nothing(
    cli: Cli, profiles: Path, tmp_path: Path, options: tuple[Any, ...], code: int, word: str
) -> None:
    given = [str(option).format(profiles=profiles) for option in options]
    answer = cli("report", "profile", *given, "--output", tmp_path / "report")
    assert (answer.code, answer.out) == (code, "")
    assert word in answer.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def two_engines(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return (
        write_table(folder / "eager.csv", make_runs("transformers", laws=EAGER)),
        write_table(folder / "paged.csv", make_runs("openvino")),
    )


def test_throughput_of_two_engines_stands_side_by_side(
    cli: Cli, two_engines: tuple[Path, Path], tmp_path: Path
) -> None:
    eager, paged = two_engines
    answer = cli("report", "throughput", "--runs", eager, "--runs", paged, "--output", tmp_path / "report")
    assert answer.code == 0
    assert "Compression decodes slower than fp16 in " in answer.out
    assert "Engines side by side" in answer.out
    read, written, remark = answer.err.splitlines()
    assert read == "kvpred: 432 runs of smollm2-135m: openvino; transformers"
    assert written.startswith(f"kvpred: wrote {tmp_path / 'report' / 'report.html'} and ")
    assert remark.startswith("kvpred: no PNG files")


def test_throughput_as_json_and_csv(cli: Cli, two_engines: tuple[Path, Path], tmp_path: Path) -> None:
    command = ("report", "throughput", "--runs", two_engines[0], "--output", tmp_path / "report", "--format")
    (record,) = cli(*command, "json").objects
    assert len(record["throughput"]) == 3 * 2 * 12
    rows = cli(*command, "csv").rows
    assert [row["method"].partition(":")[0] for row in rows] == 2 * ["fp16", "h2o", "kv-int8"]
    assert [float(row["speedup"]) for row in rows if row["speedup"]] == [
        row["speedup"] for row in record["summary"] if row["speedup"]
    ]


def test_throughput_of_published_tables(cli: Cli, shared_data: Path, tmp_path: Path) -> None:
    tables = shared_data / "a6000" / "throughput"
    names = ("--model", "llama-2-7b", "--device", "a6000", "--engine", "lmdeploy", "--pool-labels")
    answer = cli("report", "throughput", "--runs", tables, *names, "--output", tmp_path / "report")
    assert answer.code == 0
    assert "4 model names of the table" in answer.out


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        ((), 2, "--runs"),
        (("--runs", "nowhere.csv"), 3, "nowhere.csv"),
        (("--runs", "{runs}", "--model", "llama-2-7b"), 3, "contradicts --model"),
        (("--runs", "{runs}", "--pool-labels"), 2, "--model"),
    ],
)
def test_bad_runs_are_explained_and_leave_nothing(
    cli: Cli, two_engines: tuple[Path, Path], tmp_path: Path, options: tuple[str, ...], code: int, word: str
) -> None:
    given = [option.format(runs=two_engines[0]) for option in options]
    answer = cli("report", "throughput", *given, "--output", tmp_path / "report")
    assert (answer.code, answer.out) == (code, "")
    assert word in answer.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []

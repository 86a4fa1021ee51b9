"""``kvpred shift`` as a shell runs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kvpred.data.lengths import write_lengths
from kvpred.predictors.length.shift import read_shifts
from tests.cli.conftest import Cli
from tests.made_up_lengths import make_lengths


@pytest.fixture(scope="module")
def lengths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("collected") / "lengths.csv"
    write_lengths(path, make_lengths({"fp16": 1.0, "kivi": 1.0, "h2o": 1.5}, n_prompts=60))
    return path


def test_multipliers_are_printed_and_written(cli: Cli, lengths: Path, tmp_path: Path) -> None:
    done = cli("shift", "--lengths", lengths.parent, "--output", tmp_path / "s.json", "--format", "json")
    assert done.code == 0, done.err
    (study,) = done.objects
    rows = {row["method"].partition(":")[0]: row for row in study["shifts"]}
    assert (rows["kivi"]["verdict"], rows["h2o"]["verdict"]) == ("no shift beyond noise", "longer")
    written = {shift.method_params: shift.multiplier for shift in read_shifts(tmp_path / "s.json")}
    assert written["h2o:heavy=64,recent=448"] == rows["h2o"]["multiplier"]


def test_csv_and_table(cli: Cli, lengths: Path) -> None:
    rows = cli("shift", "--lengths", lengths, "--format", "csv").rows
    assert [row["method"].partition(":")[0] for row in rows] == ["another seed", "h2o", "kivi"]
    table = cli("shift", "--lengths", lengths).out
    assert "1 of 2 methods give longer answers" in table
    assert "smallest shift that this could detect" in table


def test_scope_stands_beside(cli: Cli, lengths: Path, shared_data: Path) -> None:
    scope = shared_data / "length_shift" / "scope_lengths.csv"
    found = cli("shift", "--lengths", lengths, "--scope", scope, "--format", "json").objects
    assert [study["study"] for study in found] == ["lengths", "scope"]
    assert any("585 rows left out: csqa" in note for note in found[1]["notes"])


def test_report_is_written(cli: Cli, lengths: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chrome")
    done = cli("shift", "--lengths", lengths, "--report", tmp_path / "report")
    assert (done.code, (tmp_path / "report" / "report.html").exists()) == (0, True)


def test_bad_requests_and_files(cli: Cli, lengths: Path, tmp_path: Path) -> None:
    assert (cli("shift").code, cli("shift", "--lengths", lengths, "--level", 2).code) == (2, 2)
    other = cli("shift", "--lengths", lengths, "--baseline", "kivi", "--output", tmp_path / "s.json")
    assert (other.code, (tmp_path / "s.json").exists()) == (2, False)
    path = tmp_path / "lengths.csv"
    runs = make_lengths({"kivi": 1.0}, n_prompts=20)
    write_lengths(path, runs)
    missing = cli("shift", "--lengths", path)
    assert missing.code == 3
    assert "lengths.csv: no lengths of fp16" in missing.err
    write_lengths(path, [replace(run, method="kiwi", method_params="kiwi") for run in runs])
    unknown = cli("shift", "--lengths", path)
    assert unknown.code == 3
    assert "column 'method_params', value 'kiwi'" in unknown.err

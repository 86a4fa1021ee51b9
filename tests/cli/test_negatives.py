"""``kvpred negatives`` as a shell runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvpred.data.scores import write_scores
from tests.cli.conftest import Cli

# At 10 %: KIVI breaks samples 0 and 1, H2O 1 and 2; KIVI's sample 3 loses 5 %.
SCORES = {
    "fp16": [1.0, 1.0, 1.0, 1.0],
    "kivi_bits=4": [0.0, 0.5, 1.0, 0.95],
    "h2o_heavy=64_recent=448": [1.0, 0.0, 0.25, 1.0],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for run, scores in SCORES.items():
        write_scores(tmp_path / "scores", run, "trec", {str(n): score for n, score in enumerate(scores)})
        if run[:3] != "h2o":
            write_scores(tmp_path / "scores", run, "qmsum", {"a": 0.5})
    return tmp_path / "scores"


def test_json_has_one_object_per_group_and_threshold(cli: Cli, folder: Path) -> None:
    done = cli("negatives", "--scores", folder, "--method", "all", "--threshold", "1,10%", "--format", "json")
    assert done.code == 0, done.err
    counts = {(row["label"], row["threshold"]): row["negative"] for row in done.objects}
    assert counts == {
        ("h2o_heavy=64_recent=448", 0.01): 2, ("h2o_heavy=64_recent=448", 0.1): 2,
        ("kivi_bits=4", 0.01): 3, ("kivi_bits=4", 0.1): 2,
        ("all methods", 0.01): 1, ("all methods", 0.1): 1,
    }  # fmt: skip
    last = done.objects[-1]
    assert last["methods"] == ["h2o_heavy=64_recent=448", "kivi_bits=4"]
    assert (last["samples"], last["benign"], last["missing_datasets"]) == (4, 4, ["qmsum"])
    assert (last["center"], last["definition"], last["interval_level"]) == ("median", "algorithm", 0.9)
    assert last["baseline_score"] == 1.0
    assert last["scores"] == pytest.approx({"h2o_heavy=64_recent=448": 0.5625, "kivi_bits=4": 0.6125})
    assert last["negative_low"] <= 1 <= last["negative_high"]
    assert "kvpred: qmsum is missing from h2o_heavy=64_recent=448" in done.err


def test_a_group_has_its_name_in_csv_and_table(cli: Cli, folder: Path) -> None:
    asked = ("negatives", "--scores", folder, "--group", "Quant (C)=kivi_bits=4+h2o", "--baseline", "fp")
    rows = cli(*asked, "--threshold", 10, "--format", "csv").rows
    assert [(row["label"], row["negative"]) for row in rows] == [
        ("kivi_bits=4", "2"), ("h2o_heavy=64_recent=448", "2"), ("Quant (C)", "1"),
    ]  # fmt: skip
    assert "methods" in rows[0]
    table = cli(*asked)
    assert (table.code, "Quant (C)" in table.out, "qmsum is missing from" in table.out) == (0, True, True)


def test_the_centre_and_the_definition_are_chosen(cli: Cli, folder: Path) -> None:
    for run in SCORES:
        write_scores(folder, run, "passage_count", {"0": 1, "1": 0, "2": 0})
    asked = ("negatives", "--scores", folder, "--method", "kivi", "--threshold", 10, "--format", "json")
    # Of 1, 0 and 0 the median is 0 and the mean a third.
    benign = {
        (center, definition): cli(*asked, "--center", center, "--definition", definition).objects[0]["benign"]
        for center in ("median", "mean")
        for definition in ("algorithm", "artifact")
    }
    assert benign == {
        ("median", "algorithm"): 4 + 1 + 1, ("median", "artifact"): 4 + 1 + 3,
        ("mean", "algorithm"): 4 + 1 + 1, ("mean", "artifact"): 4 + 1 + 1,
    }  # fmt: skip


def test_published_counts(cli: Cli, shared_data: Path) -> None:
    asked = (
        "negatives",
        "--scores",
        shared_data / "longbench_scores",
        "--method",
        "kivi_4",
        "--threshold",
        10,
    )
    rows = [
        cli(*asked, "--definition", definition, "--format", "json").objects[0]
        for definition in ("artifact", "algorithm")
    ]
    # 194 of the 294 are passage_count's, which the published list names twice.
    assert [(row["negative"], row["negative_as_listed"]) for row in rows] == [(294, 294 + 194), (102, 102)]


def test_risk_says_whether_the_task_type_tells_what_breaks(cli: Cli, shared_data: Path) -> None:
    asked = ("negatives", "--scores", shared_data / "longbench_scores", "--method", "kivi_4", "--risk")
    (record,) = cli(*asked, "--format", "json").objects
    whole = record["shares"][-1]
    assert (whole["benign"], whole["broken"], record["method"]) == (1691, 102, "kivi 4bits")
    refused = cli(*asked, "--definition", "artifact")
    assert refused.code == 2 and "--risk" in refused.err
    (row,) = cli(*asked, "--format", "csv").rows
    assert json.loads(row["shares"]) == record["shares"]


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_an_exported_benchmark_scores_runs(cli: Cli, folder: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"negatives.{suffix}"
    done = cli("negatives", "--scores", folder, "--method", "all", "--threshold", "10,20", "--export", path)
    assert done.code == 0, done.err
    assert f"wrote {path}: 1 negative sample of all methods at 10 %" in done.err
    write_scores(folder, "new", "trec", {"0": 1, "1": 0.75, "2": 0, "3": 0})
    asked = ("negatives", "--scores", folder, "--benchmark", path, "--method")
    rows = cli(*asked, "new", "--format", "json").objects
    # What both break is sample 1.
    assert rows[0] == {
        "run": "new", "part": "all", "name": "all", "count": 1, "missing": 0, "baseline_score": 1.0,
        "score": 0.75,
    }  # fmt: skip
    assert [(row["part"], row["name"]) for row in rows[1:]] == [("task", "few-shot"), ("dataset", "trec")]
    assert [row["score"] for row in cli(*asked, "kivi", "--format", "csv").rows] == 3 * ["0.5"]
    assert "few-shot" in cli(*asked, "all").out


def test_a_benchmark_that_a_run_lacks_samples_of_needs_a_word(cli: Cli, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "negatives.json"
    cli("negatives", "--scores", folder, "--method", "kivi", "--threshold", 10, "--export", path)
    write_scores(folder, "new", "trec", {"1": 0.75})
    asked = ("negatives", "--scores", folder, "--benchmark", path, "--method", "new", "--format", "json")
    refused = cli(*asked)
    assert (refused.code, refused.out) == (3, "")
    assert "new_trec_eval.json" in refused.err and "id '0'" in refused.err
    done = cli(*asked, "--skip-missing")
    assert (done.code, done.objects[0]["count"], done.objects[0]["missing"]) == (0, 1, 1)
    assert "1 id (trec 0)" in done.err


def test_report_is_written(cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("plotly")
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chrome")
    done = cli("negatives", "--scores", folder, "--method", "all", "--report", tmp_path / "report")
    assert (done.code, (tmp_path / "report" / "report.html").exists()) == (0, True), done.err


def test_skipping_is_reported(cli: Cli, folder: Path) -> None:
    write_scores(folder, "kivi_bits=4", "trec", {"0": 1, "1": 1, "7": 1})
    asked = ("negatives", "--scores", folder, "--method", "all", "--format", "json")
    refused = cli(*asked)
    assert refused.code == 3
    assert "kivi_bits=4_trec_eval.json: no id '2', which fp16_trec_eval.json has" in refused.err
    done = cli(*asked, "--skip-missing")
    assert (done.code, done.objects[0]["samples"]) == (0, 2)
    assert "Left out: of trec 3 ids (2, 3, 7) that not all runs have." in done.err
    assert "Left out: qmsum (1 sample), missing from h2o_heavy=64_recent=448." in done.err


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ((), ["--method"]),
        (("--method", "kivi", "--threshold", "0"), ["--threshold", "'0'"]),
        (("--method", "kivi", "--threshold", "100"), ["--threshold", "below 100"]),
        (("--method", "kivi", "--threshold", "10,"), ["--threshold"]),
        (("--method", "kivi", "--threshold", "nan"), ["--threshold", "nan"]),
        (("--method", "kivi", "--center", "mode"), ["--center", "mode"]),
        (("--method", "kivi", "--level", "2"), ["level=2"]),
        (("--method", "kiwi"), ["'kiwi'", "kivi_bits=4"]),
        (("--method", "fp16"), ["fp16 is the baseline"]),
        (("--method", "kivi", "--baseline", "hf"), ["'hf'", "fp16"]),
        (("--method", "kivi", "--group", "Quant"), ["--group", "Quant"]),
        (("--method", "kivi", "--group", "Quant="), ["no run ''"]),
        (("--group", "Q=kivi", "--group", "Q=h2o"), ["'Q'", "twice"]),
        (("--method", "kivi", "--export", "negatives.txt"), ["negatives.txt", ".json"]),
        (("--method", "kivi", "--benchmark", "b.json", "--export", "c.json"), ["--benchmark"]),
        (("--method", "kivi", "--benchmark", "b.json", "--baseline", "fp16"), ["--benchmark"]),
    ],
)
def test_a_senseless_request_is_a_usage_error(
    cli: Cli, folder: Path, options: tuple[str, ...], names: list[str]
) -> None:
    done = cli("negatives", "--scores", folder, *options)
    assert (done.code, done.out) == (2, ""), done.err
    assert [name for name in names if name not in done.err] == [], done.err


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("{", ["not JSON"]),
        ('[{"id": 0, "score": 1.5}]', ["id '0'", "'1.5'"]),
        ('[{"id": 0, "score": NaN}]', ["id '0'", "'nan'"]),
        ('[{"id": 0, "score": 1}, {"id": 0, "score": 1}]', ["id '0'", "twice"]),
    ],
)
def test_a_bad_file_is_named_with_the_sample(cli: Cli, folder: Path, content: str, names: list[str]) -> None:
    path = folder / "kivi_bits=4_trec_eval.json"
    path.write_text(content)
    done = cli("negatives", "--scores", folder, "--method", "all", "--export", folder / "negatives.json")
    assert (done.code, done.out, len(done.err.splitlines())) == (3, "", 1), done.err
    assert [name for name in [str(path), *names] if name not in done.err] == [], done.err
    assert not (folder / "negatives.json").exists()


def test_places_without_scores_or_baseline_are_refused(cli: Cli, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "missing"):
        done = cli("negatives", "--scores", place, "--method", "all")
        assert (done.code, done.out, str(place) in done.err) == (3, "", True)
    for path in folder.glob("fp16_*"):
        path.unlink()
    done = cli("negatives", "--scores", folder, "--method", "all")
    assert (done.code, done.out, "no baseline" in done.err, str(folder) in done.err) == (3, "", True, True)
    (folder / "kivi_nosuch_eval.json").write_text(json.dumps([{"id": 0, "score": 1}]))
    done = cli("negatives", "--scores", folder, "--method", "all")
    assert (done.code, "kivi_nosuch_eval.json: unknown dataset" in done.err) == (3, True)

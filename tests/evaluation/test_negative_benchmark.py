"""The benchmark of negative samples: what it holds, that it comes back, and what runs score on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvpred.data.scores import ScoreRun, read_score_runs
from kvpred.errors import DataError, UsageError
from kvpred.evaluation.negative_benchmark import (
    BenchmarkScore,
    missing_items,
    negative_items,
    read_benchmark,
    score_on,
    write_benchmark,
)
from kvpred.evaluation.negatives import NegativeStudy, study_negatives


def run_of(name: str, **scores: list[float]) -> ScoreRun:
    """A run with ids 0, 1, ... in each dataset."""
    return ScoreRun(
        name, {dataset: dict(zip("0123456789", own, strict=False)) for dataset, own in scores.items()}
    )


def small_study() -> NegativeStudy:
    """At 10 %, KIVI breaks samples 0 of all datasets, H2O 0 and 1 of trec and 0 of lcc; it lacks qmsum."""
    base = run_of("fp16", trec=[1, 1, 1, 1], lcc=[0.8, 0.6], qmsum=[0.5])
    kivi = run_of("kivi", trec=[0.5, 0.95, 1, 1], lcc=[0.2, 0.6], qmsum=[0.1])
    h2o = run_of("h2o", trec=[0, 0.5, 1, 1], lcc=[0.4, 0.6])
    groups = {"kivi": ["kivi"], "h2o": ["h2o"], "both": ["kivi", "h2o"]}
    return study_negatives(base, {"kivi": kivi, "h2o": h2o}, groups=groups, thresholds=[0.01, 0.1])


def test_a_benchmark_holds_the_groups_samples_with_all_runs_scores() -> None:
    first, second = negative_items(small_study(), "both", 0.1)
    assert (first.dataset, first.id, first.baseline_score, first.task) == ("lcc", "0", 0.8, "code")
    assert (second.dataset, second.id, second.scores) == ("trec", "0", {"kivi": 0.5, "h2o": 0.0})
    (qmsum,) = [item for item in negative_items(small_study(), "kivi", 0.1) if item.dataset == "qmsum"]
    assert qmsum.scores == {"kivi": 0.1}


@pytest.mark.parametrize("name", ["b.json", "b.csv"])
def test_a_benchmark_comes_back_as_written(tmp_path: Path, name: str) -> None:
    study = small_study()
    written = write_benchmark(tmp_path / name, study, "kivi", 0.01)
    assert written == negative_items(study, "kivi", 0.01)
    assert read_benchmark(tmp_path / name) == written


def test_json_tells_how_the_samples_were_chosen(tmp_path: Path) -> None:
    write_benchmark(tmp_path / "b.json", small_study(), "both", 0.1)
    content = json.loads((tmp_path / "b.json").read_text())
    items = content.pop("items")
    assert content == {
        "baseline": "fp16", "label": "both", "methods": ["kivi", "h2o"], "threshold": 0.1,
        "center": "median", "definition": "algorithm",
    }  # fmt: skip
    assert items[0] == {
        "dataset": "lcc", "id": "0", "task": "code", "baseline_score": 0.8,
        "scores": {"kivi": 0.2, "h2o": 0.4},
    }  # fmt: skip


def test_scores_on_a_benchmark_are_means_over_its_samples() -> None:
    items = negative_items(small_study(), "both", 0.1)
    new = run_of("new", trec=[0.25], lcc=[0.75])
    assert score_on(items, new) == [
        BenchmarkScore("new", "all", "all", 2, 0, (0.8 + 1) / 2, (0.25 + 0.75) / 2),
        BenchmarkScore("new", "task", "few-shot", 1, 0, 1.0, 0.25),
        BenchmarkScore("new", "task", "code", 1, 0, 0.8, 0.75),
        BenchmarkScore("new", "dataset", "lcc", 1, 0, 0.8, 0.75),
        BenchmarkScore("new", "dataset", "trec", 1, 0, 1.0, 0.25),
    ]


def test_samples_that_a_run_lacks_are_counted() -> None:
    items = negative_items(small_study(), "both", 0.1)
    new = run_of("new", trec=[0.25])
    assert [item.dataset for item in missing_items(items, new)] == ["lcc"]
    whole, few_shot, code, *_ = score_on(items, new)
    assert (whole.count, whole.missing, whole.baseline_score, whole.score) == (1, 1, 1.0, 0.25)
    assert (few_shot.missing, code.count, code.missing, np.isnan(code.score)) == (0, 0, 1, True)


@pytest.mark.parametrize("name", ["b.json", "b.csv"])
def test_published_runs_score_on_their_benchmark_what_they_scored(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    folder = shared_data / "longbench_scores"
    runs = read_score_runs(folder, ["hf", "kivi_4", "gear_4"])
    base, *methods = runs
    study = study_negatives(
        runs[base],
        {run: runs[run] for run in methods},
        groups={"kivi": methods[:1], "quant": methods},
        thresholds=[0.1],
    )
    for label in study.groups:
        write_benchmark(tmp_path / name, study, label, 0.1)
        items = read_benchmark(tmp_path / name)
        assert len(items) == study.cells[label, 0.1].count > 10
        for run in methods:
            scores, bases = [], []
            for item in items:
                for found, own in ((scores, run), (bases, base)):
                    samples = json.loads((folder / f"{own}_{item.dataset}_eval.json").read_text())
                    found += [sample["score"] for sample in samples if str(sample["id"]) == item.id]
            whole = score_on(items, runs[run])[0]
            assert (whole.count, len(scores), whole.missing) == (len(items), len(items), 0)
            assert whole.score == pytest.approx(sum(scores) / len(scores), rel=1e-12)
            assert whole.baseline_score == pytest.approx(sum(bases) / len(bases), rel=1e-12)
            assert [item.scores[run] for item in items] == scores


def test_nothing_is_written_where_nothing_is_broken(tmp_path: Path) -> None:
    base = run_of("fp16", trec=[1])
    study = study_negatives(base, {"kivi": base}, groups={"kivi": ["kivi"]}, thresholds=[0.1])
    with pytest.raises(UsageError, match="no negative sample of kivi at 10 %"):
        write_benchmark(tmp_path / "b.json", study, "kivi", 0.1)
    with pytest.raises(UsageError, match=r"name a file that ends in \.json or \.csv"):
        write_benchmark(tmp_path / "b.txt", small_study(), "kivi", 0.1)
    assert list(tmp_path.iterdir()) == []


ITEM = {"dataset": "trec", "id": "7", "baseline_score": 1.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ({}, "expected a list of objects with dataset, id and baseline_score"),
        ([], "expected a list of objects"),
        ([{"dataset": "trec", "id": "7"}], r"item 1 \(id '7'\): expected a list of objects with id and base"),
        ([ITEM | {"dataset": "nosuch"}], "value 'nosuch': id '7': unknown dataset"),
        ([{"id": "7", "baseline_score": 1}], "id '7': unknown dataset"),
        ([ITEM | {"baseline_score": 2}], "value '2': id '7': expected scores between 0 and 1"),
        ([ITEM | {"scores": {"kivi": None}}], "id '7': expected scores between 0 and 1"),
        ([ITEM | {"scores": [1]}], "id '7': expected scores by run"),
        ([ITEM, ITEM], "trec has id '7' twice"),
    ],
)
def test_a_bad_benchmark_and_its_bad_sample_are_named(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=rf"b\.json.*{message}"):
        read_benchmark(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("trec,7,few-shot,1.5,", "line 2, column 'baseline_score', value '1.5'"),
        ("trec,7,few-shot,,", "line 2, column 'baseline_score'"),
        ("trec,7,few-shot,nan,", "line 2, column 'baseline_score'"),
        ("trec,7,few-shot,1,2", r"line 2, column 'scores\.kivi', value '2'"),
        ("nosuch,7,few-shot,1,", "id '7': unknown dataset"),
        ("trec,,few-shot,1,", "line 2, column 'id'"),
        ("trec,7,few-shot,1,\ntrec,7,few-shot,1,", "trec has id '7' twice"),
    ],
)
def test_a_bad_row_of_a_benchmark_is_named(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "b.csv"
    path.write_text(f"dataset,id,task,baseline_score,scores.kivi\n{row}\n")
    with pytest.raises(DataError, match=rf"b\.csv.*{message}"):
        read_benchmark(path)

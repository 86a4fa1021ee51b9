"""From a folder of scores: which runs are compared, on which samples, and what is said of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kvpred.data.scores import write_scores
from kvpred.errors import DataError, UsageError
from kvpred.evaluation.negative_benchmark import write_benchmark
from kvpred.evaluation.negatives import NegativeStudy
from kvpred.workflows.negatives import score_benchmark, study_folder

TREC = {"fp16": [1, 1, 1, 1], "kivi": [0, 0, 1, 1], "gear": [1, 0, 0, 1], "h2o": [0, 1, 0, 1]}


def write_run(folder: Path, name: str, **scores: Mapping[str, float] | Sequence[float]) -> None:
    for dataset, own in scores.items():
        by_id = own if isinstance(own, Mapping) else {str(n): score for n, score in enumerate(own)}
        write_scores(folder, name, dataset, by_id)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four runs on trec, three of which, without H2O, are on qmsum too."""
    for name, scores in TREC.items():
        write_run(tmp_path, name, trec=scores)
        if name != "h2o":
            write_run(tmp_path, name, qmsum=[0.5, 0.25 if name == "fp16" else 0.0])
    return tmp_path


def study(folder: Path, *methods: str, **options: Any) -> NegativeStudy:
    return study_folder(folder, methods=methods, thresholds=[0.1], **options)


def counts(found: NegativeStudy) -> dict[str, int]:
    return {label: found.cells[label, 0.1].count for label in found.groups}


def test_all_runs_are_counted_alone_and_together(folder: Path) -> None:
    said: list[str] = []
    found = study(folder, "all", progress=said.append)
    assert said == ["3 runs against fp16: 7 files of scores"]
    assert found.groups == {
        "gear": ("gear",), "h2o": ("h2o",), "kivi": ("kivi",), "all methods": ("gear", "h2o", "kivi"),
    }  # fmt: skip
    # Of qmsum, the median of 0.5 and 0.25 is reached by sample 0 alone, which no run breaks.
    assert counts(found) == {"gear": 2, "h2o": 2, "kivi": 2, "all methods": 0}
    assert {label: found.cells[label, 0.1].missing for label in found.groups} == {
        "gear": (), "h2o": ("qmsum",), "kivi": (), "all methods": ("qmsum",),
    }  # fmt: skip


def test_groups_have_names_and_their_runs_count_alone_too(folder: Path) -> None:
    found = study(folder, groups={"Quant": ["kivi", "gear"], "Both": ["kivi", "h2o"]})
    assert list(found.groups) == ["kivi", "gear", "h2o", "Quant", "Both"]
    assert (counts(found)["Quant"], counts(found)["Both"]) == (1, 1)
    assert list(study(folder, "kivi").groups) == ["kivi"]
    assert list(study(folder, "h2o", "kiv", "kivi").groups) == ["h2o", "kivi", "all methods"]


def test_another_run_can_be_the_baseline(folder: Path) -> None:
    found = study(folder, "all", baseline="kiv")
    assert (found.baseline.name, list(found.runs)) == ("kivi", ["fp16", "gear", "h2o"])
    assert counts(found)["fp16"] == 0


def test_published_runs_have_short_labels(shared_data: Path) -> None:
    found = study(
        shared_data / "longbench_scores",
        "kivi_4",
        "gear",
        groups={"Sparse (C)": ["h2o_c512", "streamingllm_c512"]},
    )
    assert list(found.groups) == [
        "kivi_4bits_group32_residual128", "gear_4bits", "h2o_c512_w64_k7_maxpool",
        "streamingllm_c512_w64_k7_maxpool", "all methods", "Sparse (C)",
    ]  # fmt: skip
    assert found.cells["Sparse (C)", 0.1].missing == ("qmsum",)
    assert counts(found)["kivi_4bits_group32_residual128"] == 102


def test_other_ids_are_an_error_that_names_file_and_id(folder: Path) -> None:
    write_run(folder, "gear", trec={"0": 1, "1": 0, "2": 0, "9": 1})
    with pytest.raises(DataError, match=r"gear_trec_eval\.json: no id '3', which fp16_trec_eval\.json has"):
        study(folder, "all")
    write_run(folder, "gear", trec={"0": 1, "1": 0, "2": 0, "3": 1, "9": 1})
    with pytest.raises(DataError, match=r"fp16_trec_eval\.json: no id '9', which gear_trec_eval\.json has"):
        study(folder, "all")
    # A run that is not asked for may differ.
    assert counts(study(folder, "kivi")) == {"kivi": 2}


def test_missing_samples_and_datasets_are_left_out_if_asked_and_named(folder: Path) -> None:
    write_run(folder, "gear", trec={"3": 1, "2": 0, "1": 0, "9": 1, "8": 1})
    found = study(folder, "all", skip_missing=True)
    assert found.notes[:2] == (
        "Left out: qmsum (2 samples), missing from h2o.",
        "Left out: of trec 3 ids (0, 9, 8) that not all runs have.",
    )
    assert found.cells["gear", 0.1].datasets[0].ids == ("1", "2", "3")
    assert counts(found) == {"gear": 2, "h2o": 1, "kivi": 1, "all methods": 0}


def test_medians_are_of_the_samples_that_are_left(tmp_path: Path) -> None:
    write_run(tmp_path, "fp16", trec=[1, 0.5, 0.4])
    write_run(tmp_path, "kivi", trec={"1": 0.1, "2": 0.1})
    # Of 1, 0.5 and 0.4 the median is 0.5, of the latter two 0.45: sample 1 alone reaches it.
    (part,) = study(tmp_path, "kivi", skip_missing=True).cells["kivi", 0.1].datasets
    assert (part.ids, part.benign) == (("1", "2"), ("1",))


def test_many_missing_ids_are_counted_and_the_first_named(tmp_path: Path) -> None:
    write_run(tmp_path, "fp16", trec=30 * [1])
    write_run(tmp_path, "kivi", trec=[1])
    (note, *_) = study(tmp_path, "kivi", skip_missing=True).notes
    assert note.startswith("Left out: of trec 29 ids (1, 2, 3,")
    assert note.endswith("19, 20 and 9 more) that not all runs have.")


def test_runs_without_a_dataset_in_common_count_alone(folder: Path) -> None:
    write_run(folder, "lone", qmsum=[0.1, 0.25])
    found = study(folder, "h2o", "lone")
    assert counts(found) == {"h2o": 2, "lone": 1}
    assert "No dataset is in every run: what all methods break is not counted." in found.notes
    with pytest.raises(DataError, match=f"{folder}: no dataset that all of fp16, h2o, lone have"):
        study(folder, groups={"Both": ["h2o", "lone"]})
    with pytest.raises(DataError, match="no sample that all of fp16, h2o, lone have"):
        study(folder, "h2o", "lone", skip_missing=True)


def test_requests_without_sense_are_refused(folder: Path) -> None:
    for methods, options, message in (
        ((), {}, "no method: give --method"),
        (("fp16",), {}, "fp16 is the baseline"),
        (("nosuch",), {}, "no run 'nosuch'; there are fp16, gear, h2o, kivi"),
        (("kivi",), {"baseline": "nosuch"}, "no run 'nosuch'"),
        (("kivi",), {"level": 0.3}, "level=0.3"),
        (("kivi",), {"groups": {"kivi": ["h2o"]}}, "--group kivi: this is a run's name"),
    ):
        with pytest.raises(UsageError, match=message):
            study(folder, *methods, **options)
    with pytest.raises(UsageError, match="give a share above 0 and below 1"):
        study_folder(folder, methods=["kivi"], thresholds=[1.0])


def test_the_baseline_is_found_or_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path, "kivi", trec=[1])
    with pytest.raises(DataError, match=r"no run is named hf\.\.\. or fp16\.\.\., only kivi"):
        study(tmp_path, "kivi")
    write_run(tmp_path, "fp16_a", trec=[1])
    assert study(tmp_path, "kivi").baseline.name == "fp16_a"
    write_run(tmp_path, "hf_b", trec=[1])
    with pytest.raises(UsageError, match="name one of fp16_a, hf_b with --baseline"):
        study(tmp_path, "kivi")
    assert study(tmp_path, "kivi", baseline="hf").baseline.name == "hf_b"


def test_new_runs_are_scored_on_a_benchmark(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "negatives.json"
    write_benchmark(path, study(folder, "kivi"), "kivi", 0.1)
    rows = score_benchmark(folder, path, ["all"])
    # KIVI breaks samples 0 and 1 of trec.
    whole = {row.run: (row.count, row.baseline_score, row.score) for row in rows if row.part == "all"}
    assert whole == {"gear": (2, 1.0, 0.5), "h2o": (2, 1.0, 0.5), "kivi": (2, 1.0, 0.0)}
    (baseline, *_) = score_benchmark(folder, path, ["fp16"])
    assert baseline.score == baseline.baseline_score == 1.0


def test_samples_of_a_benchmark_that_a_run_lacks_are_named(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "negatives.csv"
    write_benchmark(path, study(folder, "kivi"), "kivi", 0.1)
    write_run(folder, "new", trec={"1": 0.75, "2": 1})
    with pytest.raises(
        DataError, match=r"new_trec_eval\.json: new lacks 1 of 2 samples of .*, id '0' of trec"
    ):
        score_benchmark(folder, path, ["new"])
    said: list[str] = []
    whole, *_ = score_benchmark(folder, path, ["new"], skip_missing=True, progress=said.append)
    assert (whole.count, whole.missing, whole.score) == (1, 1, 0.75)
    assert said == [f"left out of new's scores: 1 of 2 samples of {path}: 1 id (trec 0)"]
    write_run(folder, "none", lcc=[1])
    with pytest.raises(DataError, match="none lacks 2 of 2 samples"):
        score_benchmark(folder, path, ["none"], skip_missing=True)
    with pytest.raises(UsageError, match="no method to score"):
        score_benchmark(folder, path, [])

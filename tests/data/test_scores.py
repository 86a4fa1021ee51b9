"""Files of scores: what is read, what comes back as written, and what a bad file is told."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.data.longbench import DATASETS
from kvpred.data.scores import find_run, read_score_runs, run_labels, run_name, score_files, write_scores
from kvpred.errors import DataError, UsageError

HF = "hf_Meta-Llama-3-8B-instruct_8192_b1"
KIVI_4 = "kivi_Meta-Llama-3-8B-instruct_8192_b1_4bits_group32_residual128"
KIVI_2 = "kivi_Meta-Llama-3-8B-instruct_8192_b1_2bits_group32_residual128"
NAMES = (HF, KIVI_4, KIVI_2, "gear_Meta-Llama-3-8B-instruct_8192_b1_4bits")

ids = st.integers(0, 10**20).map(str) | st.text("ab-_ 019é", min_size=1)
scores = st.dictionaries(ids, st.floats(0, 1), min_size=1, max_size=5)


@given(st.dictionaries(st.sampled_from(list(DATASETS)), scores, min_size=1, max_size=3))
def test_scores_come_back_as_written(written: dict[str, dict[str, float]]) -> None:
    with TemporaryDirectory() as folder:
        for dataset, own in written.items():
            write_scores(Path(folder), "kivi_bits=4", dataset, own)
        (run,) = read_score_runs(Path(folder)).values()
    assert (run.name, run.scores) == ("kivi_bits=4", written)
    assert all(list(run.scores[dataset]) == list(own) for dataset, own in written.items())


def test_ids_that_are_whole_numbers_are_written_as_such(tmp_path: Path) -> None:
    path = write_scores(tmp_path / "new", "fp16", "trec", {"0": 1, "12": 0.5, "012": 0.25, "a": 0})
    assert path == tmp_path / "new" / "fp16_trec_eval.json"
    assert [item["id"] for item in json.loads(path.read_text())] == [0, 12, "012", "a"]


def test_published_runs_are_read_whole(shared_data: Path) -> None:
    runs = read_score_runs(shared_data / "longbench_scores")
    assert len(runs) == 10
    assert {len(run.scores) for run in runs.values()} == {13, 14}
    # H2O's published runs lack qmsum.
    assert {name[:3] for name, run in runs.items() if "qmsum" not in run.scores} == {"h2o"}
    assert list(runs[HF].scores) == list(DATASETS)


def test_only_runs_asked_for_are_read_in_the_order_asked(tmp_path: Path) -> None:
    for run in ("fp16", "kivi", "gear"):
        write_scores(tmp_path, run, "trec", {"0": 1.0})
    (tmp_path / "gear_trec_eval.json").write_text("spoilt")
    assert list(read_score_runs(tmp_path, ["kiv", "fp16", "kivi"])) == ["kivi", "fp16"]


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("fp16", "fp16"),
        ("h2o:heavy=64,recent=448", "h2o_heavy=64_recent=448"),
        ("kv-fp8", "kv-fp8"),
        ("../a b+c/é", ".._a_b_c_"),
    ],
)
def test_a_method_has_a_name_that_files_can_have(spec: str, name: str) -> None:
    assert run_name(spec) == name


def test_labels_leave_out_what_all_names_share() -> None:
    assert list(run_labels(NAMES).values()) == [
        "hf", "kivi_4bits_group32_residual128", "kivi_2bits_group32_residual128", "gear_4bits",
    ]  # fmt: skip
    assert run_labels(["fp16", "kivi_bits=4"]) == {"fp16": "fp16", "kivi_bits=4": "kivi_bits=4"}
    # Without the shared parts b and c, both would be "a".
    assert run_labels(["a_b_c", "a_c_b"]) == {"a_b_c": "a_b_c", "a_c_b": "a_c_b"}
    assert run_labels(["a_b"]) == {"a_b": "a_b"}


@pytest.mark.parametrize(
    ("spec", "run"),
    [
        (KIVI_4, KIVI_4),
        ("kivi_Meta-Llama-3-8B-instruct_8192_b1_2", KIVI_2),
        ("kivi_4", KIVI_4),
        ("kivi_2bits_group32_residual128", KIVI_2),
        ("hf", HF),
    ],
)
def test_a_run_is_found_by_name_label_or_beginning(spec: str, run: str) -> None:
    assert find_run(spec, NAMES) == run


def test_a_whole_name_is_meant_though_another_begins_so() -> None:
    assert find_run("kivi", ["kivi", "kivi_2"]) == "kivi"


@pytest.mark.parametrize(
    ("spec", "message"),
    [("kivi", f"2 runs: {KIVI_4}, {KIVI_2}"), ("h2o", f"no run 'h2o'; there are {HF}"), ("", "no run ''")],
)
def test_unclear_runs_are_refused_with_the_candidates(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_run(spec, NAMES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("{", "not JSON"),
        (100_000 * "[", "not JSON"),
        ("[]", "expected a list of objects with id and score"),
        ('{"id": 0, "score": 1}', "expected a list of objects with id and score"),
        ("[7]", "item 1: expected a list of objects with id and score"),
        ('[{"id": 0, "score": 1}, {"score": 1}]', "item 2: expected a list of objects"),
        ('[{"id": 41}]', r"item 1 \(id 41\): expected a list of objects"),
        ('[{"id": null, "score": 1}]', "item 1: expected an id"),
        ('[{"id": true, "score": 1}]', "value 'True': item 1: expected an id"),
        ('[{"id": 1.0, "score": 1}]', "value '1.0': item 1: expected an id"),
        ('[{"id": "", "score": 1}]', "item 1: expected an id"),
        (r'[{"id": "\ud800", "score": 1}]', "item 1: expected an id"),
        ('[{"id": 41, "score": 1.5}]', "value '1.5': id '41': expected scores between 0 and 1"),
        ('[{"id": 41, "score": -0.1}]', "value '-0.1': id '41': expected scores"),
        ('[{"id": 41, "score": NaN}]', "value 'nan': id '41': expected scores"),
        ('[{"id": 41, "score": Infinity}]', "value 'inf': id '41': expected scores"),
        ('[{"id": 41, "score": "1"}]', "value '1': id '41': expected scores"),
        ('[{"id": 41, "score": true}]', "value 'True': id '41': expected scores"),
        ('[{"id": "q", "score": null}]', "id 'q': expected scores"),
        ('[{"id": 41, "score": 1}, {"id": "41", "score": 0}]', "id '41' occurs twice"),
    ],
)
def test_a_bad_file_and_its_bad_sample_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "fp16_trec_eval.json").write_text(content)
    with pytest.raises(DataError, match=rf"fp16_trec_eval\.json.*{message}"):
        read_score_runs(tmp_path)


@pytest.mark.parametrize("name", ["fp16_nosuch_eval.json", "trec_eval.json", "_trec_eval.json"])
def test_a_file_of_no_dataset_or_no_run_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('[{"id": 0, "score": 1}]')
    with pytest.raises(DataError, match=rf"{name}: unknown dataset: expected <run>_<dataset>_eval\.json"):
        score_files(tmp_path)


def test_folders_without_scores_are_refused(tmp_path: Path) -> None:
    (tmp_path / "features.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match="no scores in this folder"):
        read_score_runs(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read_score_runs(tmp_path / "missing")


@pytest.mark.parametrize("spoilt", [{}, {"0": 1.5}, {"0": float("nan")}])
def test_scores_that_could_not_be_read_are_not_written(tmp_path: Path, spoilt: dict[str, float]) -> None:
    with pytest.raises(DataError, match=r"fp16_trec_eval\.json"):
        write_scores(tmp_path, "fp16", "trec", spoilt)
    with pytest.raises(UsageError, match="nosuch"):
        write_scores(tmp_path, "fp16", "nosuch", {"0": 1.0})
    assert list(tmp_path.iterdir()) == []

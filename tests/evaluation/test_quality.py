"""Published scores against fp16's: the means by hand, and which run speaks of which method."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvpred.data.quality import PACKAGED, read_quality
from kvpred.errors import DataError
from kvpred.evaluation.quality import DATASETS, quality_of, study_quality
from kvpred.methods import get_method
from kvpred.workflows.quality import package_quality

RUN = "_Meta-Llama-3-8B-instruct_8192_b1"


def mean_of_means(folder: Path, run: str, datasets: list[str]) -> float:
    means = []
    for dataset in datasets:
        scores = [item["score"] for item in json.loads((folder / f"{run}_{dataset}_eval.json").read_text())]
        means.append(sum(scores) / len(scores))
    return sum(means) / len(means)


def test_the_packaged_table_is_made_of_the_published_scores(shared_data: Path, tmp_path: Path) -> None:
    package_quality(shared_data / "longbench_scores", tmp_path / "quality.csv")
    assert (tmp_path / "quality.csv").read_bytes() == PACKAGED.read_bytes()


def test_scores_are_means_over_the_datasets_that_both_have(shared_data: Path) -> None:
    folder = shared_data / "longbench_scores"
    rows = {row.method_params: row for row in read_quality()}
    h2o = rows["h2o:heavy=448,recent=64"]
    # The published H2O runs lack qmsum.
    common = [dataset for dataset in DATASETS if dataset != "qmsum"]
    assert (h2o.datasets, h2o.samples) == (13, 3150)
    assert h2o.score == pytest.approx(mean_of_means(folder, h2o.published_as, common), abs=1e-5)
    assert h2o.baseline_score == pytest.approx(mean_of_means(folder, f"hf{RUN}", common), abs=1e-5)
    kivi = rows["kivi:bits=4,group_size=32,residual_length=128"]
    assert kivi.score == pytest.approx(mean_of_means(folder, kivi.published_as, list(DATASETS)), abs=1e-5)


@pytest.mark.parametrize(
    ("method", "published", "exact"),
    [
        ("kivi", "kivi:bits=4,group_size=32,residual_length=128", True),
        ("kivi:bits=2", "kivi:bits=2,group_size=32,residual_length=128", True),
        ("h2o:heavy=448,recent=64", "h2o:heavy=448,recent=64", True),
        ("h2o", "h2o:heavy=448,recent=64", False),
        ("streamingllm:sinks=4,recent=1020", "streamingllm:sinks=960,recent=64", False),
    ],
)
def test_a_run_speaks_of_its_parameters_or_of_as_large_a_cache(
    method: str, published: str, exact: bool
) -> None:
    match = quality_of(get_method(method), read_quality())
    assert match is not None
    assert (match.published.method_params, match.exact) == (published, exact)


@pytest.mark.parametrize("method", ["fp16", "kv-fp8", "snapkv", "h2o:heavy=10,recent=90", "kivi:bits=8"])
def test_other_methods_have_no_published_score(method: str) -> None:
    assert quality_of(get_method(method), read_quality()) is None


def write(folder: Path, run: str, dataset: str, scores: object) -> None:
    (folder / f"{run}{RUN}{dataset}_eval.json").write_text(json.dumps(scores))


def test_samples_are_paired_by_id(tmp_path: Path) -> None:
    write(tmp_path, "hf", "_trec", [{"id": n, "score": 0.5} for n in range(4)])
    write(tmp_path, "gear", "_4bits_trec", [{"id": n, "score": 0.25} for n in (3, 2, 9)])
    (row,) = study_quality(tmp_path, resamples=50)
    assert (row.samples, row.score, row.baseline_score) == (2, 0.25, 0.5)
    assert (row.loss, row.loss_low, row.loss_high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("run", "dataset", "scores", "message"),
    [
        ("gear", "_4bits_trec", [{"id": 0, "score": 1}], "no scores of fp16"),
        ("hf", "_nosuch", [{"id": 0, "score": 1}], "unknown dataset"),
        ("hf", "_trec", [{"id": 0}], "objects with id and score"),
        ("hf", "_trec", {"a": 1}, "objects with id and score"),
        ("hf", "_trec", [], "scores between 0 and 1"),
        ("hf", "_trec", [{"id": 0, "score": 7}], "scores between 0 and 1"),
        ("zip", "_trec", [{"id": 0, "score": 1}], "tells no method that is known"),
    ],
)
def test_bad_folders(tmp_path: Path, run: str, dataset: str, scores: object, message: str) -> None:
    write(tmp_path, run, dataset, scores)
    with pytest.raises(DataError, match=message):
        study_quality(tmp_path)

"""From a folder of scores, with and without sizes of the requests, to what can be told of broken ones."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from kvpred.data.longbench import DATASETS
from kvpred.data.quality import read_quality
from kvpred.data.risk import read_risk
from kvpred.data.scores import read_score_runs, write_scores
from kvpred.errors import DataError
from kvpred.evaluation.risk import BEATS, NO_BETTER
from kvpred.workflows.quality import package_risk
from kvpred.workflows.risk import study_risk

N = 20


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """A folder of fp16's scores and KIVI's, which fails every fourth request."""
    for dataset in DATASETS:
        write_scores(tmp_path, "fp16_tiny", dataset, {str(n): 1.0 for n in range(N)})
        write_scores(tmp_path, "kivi_tiny", dataset, {str(n): float(n % 4 > 0) for n in range(N)})
    return tmp_path


def write_sizes(folder: Path, *, last: int = N) -> None:
    """Write sizes of the first requests; those of every fourth are large."""
    rows = [
        f"{name},{n},{dataset.task},{4000 if n % 4 == 0 else 1000 + n},20,{5000 + n},1"
        for name, dataset in DATASETS.items()
        for n in range(last)
    ]
    header = "dataset,id,task,prompt_tokens,input_chars,context_chars,answers"
    (folder / "features.csv").write_text("\n".join([header, *rows]) + "\n")


def test_sizes_beside_the_scores_are_taken_into_account(scores: Path) -> None:
    base, *methods = read_score_runs(scores).values()
    (alone,) = study_risk(scores, base, methods)
    write_sizes(scores)
    (sized,) = study_risk(scores, base, methods)
    assert (alone.run, alone.label, alone.known) == ("kivi_tiny", "kivi", ("task type",))
    assert (alone.verdict, sized.verdict) == (NO_BETTER, BEATS)
    assert "prompt tokens" in sized.known
    assert sized.auc.value > 0.99


def test_sizes_that_lack_a_request_are_blamed_on_the_folder(scores: Path) -> None:
    write_sizes(scores, last=16)
    base, *methods = read_score_runs(scores).values()
    with pytest.raises(DataError, match=r"features\.csv has no sizes of request '16' of 2wikimqa") as error:
        study_risk(scores, base, methods)
    assert error.value.path == str(scores)


@pytest.mark.slow
def test_the_packaged_table_is_made_of_the_published_scores(shared_data: Path, tmp_path: Path) -> None:
    for path in (shared_data / "longbench_scores").glob("*"):
        if path.name.startswith(("hf_", "kivi_Meta-Llama-3-8B-instruct_8192_b1_4bits")):
            (tmp_path / path.name).symlink_to(path)
    package_risk(tmp_path, tmp_path / "risk.csv")
    made = read_risk(tmp_path / "risk.csv")
    packaged = [row for row in read_risk() if row.published_as == made[0].published_as]
    assert len(made) == 7 and len(read_risk()) == 7 * len(read_quality())
    # Another processor solves the fits to other digits, and what was a tie in them is none.
    loose = {"auc": 0.05, "auc_low": 0.1, "auc_high": 0.1} | dict.fromkeys(
        ("skill", "skill_low", "skill_high"), 0.02
    )
    for one, other in zip(made, packaged, strict=True):
        for name, value in asdict(one).items():
            known = getattr(other, name)
            assert value == (pytest.approx(known, abs=loose[name]) if name in loose else known)

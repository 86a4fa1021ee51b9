from pathlib import Path

import pytest

from kvpred.data.runs import Run, read_runs
from kvpred.errors import UsageError
from kvpred.evaluation.labels import evaluate_label


@pytest.fixture(scope="module")
def published_runs(shared_data: Path) -> list[Run]:
    folder = shared_data / "a6000" / "throughput"
    return read_runs(folder, model="llama-2-7b", device="a6000", engine="lmdeploy", pool_labels=True)


def test_the_7b_label_alone_is_predicted_as_well_as_the_pool(published_runs: list[Run]) -> None:
    alone = evaluate_label(published_runs, "Llama-2-7b-hf")
    assert alone["runs"] == 183
    assert min(alone[f"{split} mean"] for split in ("lengths", "batches", "largest batch")) >= 0.97
    assert min(alone[f"{split} worst"] for split in ("lengths", "batches", "largest batch")) >= 0.95


@pytest.mark.parametrize(("label", "found"), [("gpt-2", "none"), ("hf", "13b-hf")])
def test_a_label_that_names_none_or_several_is_refused(
    published_runs: list[Run], label: str, found: str
) -> None:
    with pytest.raises(UsageError, match=found):
        evaluate_label(published_runs, label)

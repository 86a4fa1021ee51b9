"""Validation holds out what the sites can spare, and says what they cannot."""

from __future__ import annotations

import warnings
from pathlib import Path

from kvpred.evaluation.validation import Validation
from kvpred.predictors.bundle import save
from kvpred.reports.validation import validation_record, validation_sheets
from kvpred.workflows.training import Measurements, train
from kvpred.workflows.validation import validate
from tests.measured_runs import PAGED, make_runs, write_table

TWO = {method: PAGED[method] for method in ("fp16", "h2o")}


def judged(folder: Path, *, batches: tuple[int, ...], prompts: tuple[int, ...]) -> Validation:
    """Train on runs of a grid, and hold parts of it out."""
    table = write_table(folder / "runs.csv", make_runs(laws=TWO, batches=batches, prompts=prompts))
    save(train(Measurements(runs=[table])), folder / "bundle")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = validate(str(folder / "bundle"))
    assert validation_sheets(result) and validation_record(result)
    return result


def test_large_batches_alone_are_judged(tmp_path: Path) -> None:
    result = judged(tmp_path, batches=(8, 16, 32), prompts=(256, 1024, 4096))
    assert [split.split for split in result.report.splits][:2] == ["lengths", "batches"]
    assert result.published is not None
    assert [one.name for one in result.published.definitions] == ["in sample", "held out"]


def test_batches_are_held_out_where_there_is_one_length(tmp_path: Path) -> None:
    result = judged(tmp_path, batches=(1, 2, 4, 8), prompts=(1024,))
    assert "batches" in [split.split for split in result.report.splits]
    assert {"lengths, prefill", "lengths, decode"} <= set(result.report.left_out)


def test_sites_too_few_for_whole_lengths_and_batches_are_held_out_one_by_one(tmp_path: Path) -> None:
    result = judged(tmp_path, batches=(1, 8), prompts=(256, 2048))
    assert [split.split for split in result.report.splits] == ["sites", "random rows"]
    assert 0.8 < result.report.splits[0].mean <= 1


def test_runs_of_an_engine_spelt_otherwise_are_judged(tmp_path: Path) -> None:
    table = write_table(tmp_path / "runs.csv", make_runs("OpenVINO", laws=TWO))
    save(train(Measurements(runs=[table])), tmp_path / "bundle")
    result = validate(str(tmp_path / "bundle"), runs=[table])
    assert result.report.n_runs == len(make_runs(laws=TWO))

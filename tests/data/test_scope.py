"""SCOPE's published lengths: what is read, and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvpred.data.scope import read_scope
from kvpred.errors import DataError
from kvpred.evaluation.length_shift import LONGER
from kvpred.evaluation.length_shift_report import study_lengths

HEADER = (
    "bench,task,prefill_method,prefill_budget,decode_method,decode_window,prompt_id,pred_tokens,prompt_tokens"
)
SMALL, PLUG_IN = "results_longgenbench_4K", "results_longgenbench_gsm8k_plug_in"


def written(folder: Path, *rows: str) -> Path:
    path = folder / "scope.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


def test_full_cache_is_the_baseline_and_others_are_labels(tmp_path: Path) -> None:
    found = read_scope(
        written(
            tmp_path,
            f"{SMALL},gsm8k,ALLKV,2048,None,512,3,1000,2600",
            f"{PLUG_IN},gsm8k,SnapKV,2048,slide,1024,3,4091,2600",
        )
    )
    full, other = found.runs
    assert (full.method, full.output_tokens, full.censored, full.temperature) == ("fp16", 1000, False, 0.0)
    assert other.method == "SnapKV+slide 2048+1024"
    assert other.prompt_id == full.prompt_id
    assert (other.output_tokens, other.cap, other.censored) == (4096, 4096, True)


def test_csqa_and_copies_are_dropped_and_counted(tmp_path: Path) -> None:
    found = read_scope(
        written(
            tmp_path,
            f"{SMALL},csqa,ALLKV,2048,None,512,3,1000,2600",
            f"{PLUG_IN},gsm8k,PyramidKV,2048,slide,512,3,900,2600",
            f"{PLUG_IN},gsm8k,SnapKV,2048,slide,512,3,900,2600",
        )
    )
    assert [run.method for run in found.runs] == ["PyramidKV+slide 2048+512"]
    assert sorted(found.dropped.values()) == [1, 1]
    assert "SnapKV+slide 2048+512 repeats PyramidKV+slide 2048+512" in found.dropped


def test_unknown_benchmark_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2, column 'bench'.*unknown benchmark"):
        read_scope(written(tmp_path, "other,gsm8k,ALLKV,2048,None,512,3,1000,2600"))


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows are left"):
        read_scope(written(tmp_path, f"{SMALL},csqa,ALLKV,2048,None,512,3,1000,2600"))


def test_published_lengths_grow_under_compression(shared_data: Path) -> None:
    found = read_scope(shared_data / "length_shift" / "scope_lengths.csv")
    assert len(found.runs) + sum(found.dropped.values()) == 3741
    assert sum(rows for reason, rows in found.dropped.items() if reason.startswith("csqa")) == 585
    assert all("SnapKV" in label for label in found.dropped if label.startswith("SnapKV"))
    study = study_lengths(found.runs, name="scope")
    assert (study.n_prompts, study.floor) == (170, None)
    assert sum(one.verdict == LONGER for one in study.comparisons.values()) == 26
    assert len(study.comparisons) == 35

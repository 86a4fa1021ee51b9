"""Curating a collection: names to ours, words to nothing, unusable rows left out with a reason."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.data.evidence import PACKAGED_EVIDENCE, write_evidence
from kvpred.data.field import COLUMNS, count_of, curate, device_name, method_of, model_name, unmatched
from kvpred.errors import DataError

ROW = {
    "source_url": "https://example.com/a", "date": "2026-01-01", "engine": "vLLM", "engine_version": "1.0",
    "device": "H100", "n_devices": "1", "tp": "1", "model": "Llama-3.1-8B", "weights_dtype": "",
    "method": "fp8_e4m3", "method_params": "--kv-cache-dtype fp8", "concurrency_or_bsz": "8",
    "prompt_len": "~20k", "output_len": "<=400", "metric": "tpot_ms", "baseline_value": "15.18",
    "compressed_value": "12.93", "ratio_better": "1.174", "notes": "a text of somebody's", "quality": "B",
}  # fmt: skip


def collection(path: Path, *changes: dict[str, str]) -> Path:
    """Write rows that differ from the usual one by what is given."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(ROW | change for change in changes)
    return path


def test_names_and_lengths_become_ours_and_notes_are_dropped(tmp_path: Path) -> None:
    (row,) = curate(collection(tmp_path / "c.csv", {})).rows
    assert (row.method, row.engine, row.device, row.model) == ("kv-fp8", "vllm", "h100", "llama-3.1-8b")
    assert (row.stage, row.prompt_len, row.output_len, row.approximate) == ("decode", 20000, None, True)
    assert row.published_method == "fp8_e4m3 (--kv-cache-dtype fp8)"
    write_evidence(tmp_path / "e.csv", [row])
    assert "somebody" not in (tmp_path / "e.csv").read_text()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"concurrency_or_bsz": "25 (fp16) vs 35 (int8)"}, "different batches"),
        ({"engine": "llama.cpp (fork vs stock)"}, "different engines"),
        ({"notes": "the author blames VRAM pressure"}, "memory ran short"),
        ({"device": "", "model": "", "prompt_len": "8K context"}, "neither device, model nor length"),
    ],
)
def test_unusable_rows_are_counted_by_reason(tmp_path: Path, change: dict[str, str], reason: str) -> None:
    curated = curate(collection(tmp_path / "c.csv", {}, change))
    assert len(curated.rows) == 1
    ((found, count),) = curated.left_out.items()
    assert reason in found
    assert count == 1


def test_of_two_branches_of_a_pull_request_the_newer_is_kept(tmp_path: Path) -> None:
    older = {"engine_version": "main at PR 7", "compressed_value": "30"}
    curated = curate(collection(tmp_path / "c.csv", older, {"engine_version": "PR 7"}))
    assert [row.version for row in curated.rows] == ["PR 7"]
    assert curated.left_out == {"an older branch of a pull request whose newer one is kept": 1}
    alone = curate(collection(tmp_path / "c.csv", older))
    assert [row.version for row in alone.rows] == ["main at PR 7"]


def test_the_same_numbers_count_once_and_other_methods_numbers_stay(tmp_path: Path) -> None:
    twice, other = {"method_params": "the same with a sink"}, {"method": "int2"}
    curated = curate(collection(tmp_path / "c.csv", {}, twice, other))
    assert [row.method for row in curated.rows] == ["kv-fp8", ""]
    assert sum(curated.left_out.values()) == 1
    assert unmatched(curated.rows) == {"int2": 1}


@pytest.mark.parametrize(
    ("column", "value"), [("metric", "joules"), ("baseline_value", "0"), ("ratio_better", "fast")]
)
def test_bad_cells_are_named(tmp_path: Path, column: str, value: str) -> None:
    with pytest.raises(DataError, match=f"c.csv, line 3, column '{column}', value '{value}'"):
        curate(collection(tmp_path / "c.csv", {}, {column: value}))


@given(st.integers(0, 10**7))
def test_plain_counts_are_exact_and_thousands_are_rounded(count: int) -> None:
    assert count_of(str(count)) == (count, False)
    assert count_of(f"~{count}") == (count, True)
    assert count_of(f"{count}K") == (1000 * count, True)


@pytest.mark.parametrize("words", ["", "ShareGPT", "<=400", "8K context", "80 (f16), 88 (q8_0)", "-1", "1e3"])
def test_words_are_no_counts(words: str) -> None:
    assert count_of(words) == (None, False)


def test_methods_have_a_counterpart_only_where_keys_and_values_are_stored_alike() -> None:
    assert method_of("q4_0") == "kv-int4"
    assert method_of("turboquant-3") == "turboquant:bits=3"
    assert {method_of(name) for name in ("turboquant-4-v", "q8_0-k+turboquant-3-v", "exl2-q4", "int2")} == {
        ""
    }


def test_names_without_a_counterpart_stay_as_published() -> None:
    assert device_name("H100 PCIe 80GB") == "h100-pcie"
    assert device_name("Apple M1 Max 64GB") == "Apple M1 Max 64GB"
    assert model_name("Llama-3.1-8B-Instruct") == "llama-3.1-8b"
    assert model_name("Qwen3.5-35B-A3B (pruned, 205 experts)") == "Qwen3.5-35B-A3B"


def test_the_packaged_file_is_what_the_collection_gives(shared_data: Path, tmp_path: Path) -> None:
    curated = curate(shared_data / "field" / "field_runs.csv")
    assert len(curated.rows) + sum(curated.left_out.values()) == 309
    write_evidence(tmp_path / "e.csv", curated.rows)
    assert (tmp_path / "e.csv").read_bytes() == PACKAGED_EVIDENCE.read_bytes()

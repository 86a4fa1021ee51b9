from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kvpred.data.files import write_text
from kvpred.data.profiles import (
    SCHEMA_VERSION,
    Columns,
    Manifest,
    Profile,
    format_profile_table,
    read_manifest,
    read_profile_table,
    time_column,
    timed_operators,
)
from kvpred.errors import DataError

MEDIAN = "time_stats.attn_decode.median"


def rewritten(path: Path, table: Columns, *, column: str, line: int, cell: str) -> Path:
    """Write a table with one cell replaced."""
    rows = [row.split(",") for row in format_profile_table(table).splitlines()]
    rows[line - 1][rows[0].index(column)] = cell
    write_text(path, "\n".join(",".join(row) for row in rows))
    return path


@pytest.mark.parametrize("name", ["attention", "mlp"])
def test_written_table_is_read_back_the_same(tmp_path: Path, small_profile: Profile, name: str) -> None:
    table = small_profile.tables()[name]
    write_text(tmp_path / f"{name}.csv", format_profile_table(table))
    read = read_profile_table(tmp_path / f"{name}.csv")
    assert set(read) == set(table)
    for column, values in table.items():
        np.testing.assert_array_equal(read[column], values)


def test_written_steps_are_read_back_the_same(tmp_path: Path, small_steps: Columns) -> None:
    write_text(tmp_path / "steps.csv", format_profile_table(small_steps))
    read = read_profile_table(tmp_path / "steps.csv")
    assert set(read) == set(small_steps)
    for column, values in small_steps.items():
        np.testing.assert_array_equal(read[column], values)


def test_other_statistics_and_operators_are_kept_and_other_columns_left(
    tmp_path: Path, small_profile: Profile
) -> None:
    spread, extra = time_column("attn_decode", "std"), time_column("lm_head")
    table = small_profile.attention | {
        spread: np.full(4, np.nan),
        extra: np.ones(4),
        "num_tokens": np.ones(4),
    }
    write_text(tmp_path / "attention.csv", format_profile_table(table))
    read = read_profile_table(tmp_path / "attention.csv")
    assert np.isnan(read[spread]).all()
    assert timed_operators(read)[-1] == "lm_head"
    assert "num_tokens" not in read


@pytest.mark.parametrize(
    ("place", "cell", "message"),
    [
        ((MEDIAN, 4), "", "expected a time"),
        ((MEDIAN, 4), "-1", "not negative"),
        ((MEDIAN, 4), "slow", "finite number"),
        (("time_stats.attn_prefill.median", 2), "", "expected a time"),
        (("is_prefill", 2), "False", "contradicts prefill_chunk_size"),
        (("is_prefill", 2), "maybe", "True or False"),
        (("batch_size", 3), "0", "at least 1"),
        (("n_embd", 3), "1.5", "whole number"),
        (("attention_backend", 2), "", "expected a text"),
    ],
)
def test_bad_cell_is_named_with_line_column_and_value(
    tmp_path: Path, small_profile: Profile, place: tuple[str, int], cell: str, message: str
) -> None:
    column, line = place
    table = small_profile.attention
    path = rewritten(tmp_path / "attention.csv", table, column=column, line=line, cell=cell)
    with pytest.raises(DataError, match=message) as caught:
        read_profile_table(path)
    error = caught.value
    assert (error.path, error.row, error.column, error.value) == (path, line, column, cell)


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("n_layers", "0", "at least 1"),
        ("n_layers", "", "whole number"),
        ("is_prefill", "True", "contradicts prefill_chunk_size"),
        ("time_stats.step.median", "", "expected a time"),
        ("time_stats.hooked_step.median", "nan", "finite number"),
        ("time_stats.operators.median", "-1", "not negative"),
    ],
)
def test_bad_cell_of_the_steps_is_named_with_line_column_and_value(
    tmp_path: Path, small_steps: Columns, column: str, cell: str, message: str
) -> None:
    path = rewritten(tmp_path / "steps.csv", small_steps, column=column, line=3, cell=cell)
    with pytest.raises(DataError, match=message) as caught:
        read_profile_table(path)
    error = caught.value
    assert (error.path, error.row, error.column, error.value) == (path, 3, column, cell)


def test_missing_columns_of_the_steps_are_named_at_once(tmp_path: Path, small_steps: Columns) -> None:
    gone = ("n_layers", time_column("hooked_step"))
    table = {name: values for name, values in small_steps.items() if name not in gone}
    write_text(tmp_path / "steps.csv", format_profile_table(table))
    with pytest.raises(DataError, match=r"missing columns n_layers, time_stats\.hooked_step\.median"):
        read_profile_table(tmp_path / "steps.csv")


def test_missing_columns_are_named_at_once(tmp_path: Path, small_profile: Profile) -> None:
    gone = ("n_embd", MEDIAN)
    table = {name: values for name, values in small_profile.attention.items() if name not in gone}
    write_text(tmp_path / "attention.csv", format_profile_table(table))
    with pytest.raises(DataError, match=f"missing columns n_embd, {MEDIAN}"):
        read_profile_table(tmp_path / "attention.csv")


def test_grid_point_given_twice_must_agree(tmp_path: Path, small_profile: Profile) -> None:
    same = small_profile.attention | {"batch_size": np.array([1, 1, 1, 1])}
    write_text(tmp_path / "attention.csv", format_profile_table(same))
    assert len(read_profile_table(tmp_path / "attention.csv")["batch_size"]) == 4
    wild = same | {MEDIAN: np.array([np.nan, np.nan, 0.25, 1.0])}
    write_text(tmp_path / "attention.csv", format_profile_table(wild))
    with pytest.raises(DataError, match="3 times another row") as caught:
        read_profile_table(tmp_path / "attention.csv")
    assert (caught.value.row, caught.value.column) == (5, MEDIAN)


def manifest() -> dict[str, object]:
    made = Manifest(
        model="m",
        device="d",
        method="kivi",
        method_params="kivi:bits=4",
        noise={"emb": 0.02},
        n_layers=30,
        weights="model.gguf",
        threads=2,
        host="a processor",
        roofline={"bytes_s": 2e10, "flops_s": 1.5e11},
        not_fitting=3,
    )
    return dict(json.loads(made.model_dump_json()))


def test_written_manifest_is_read_back_the_same(tmp_path: Path) -> None:
    write_text(tmp_path / "manifest.json", json.dumps(manifest()))
    assert read_manifest(tmp_path / "manifest.json") == Manifest.model_validate(manifest())


def test_manifest_that_does_not_say_how_it_was_timed_is_read(tmp_path: Path) -> None:
    added = {"n_layers", "weights", "threads", "host", "roofline", "not_fitting", "cache_state"}
    older = {name: value for name, value in manifest().items() if name not in added}
    write_text(tmp_path / "manifest.json", json.dumps(older))
    read = read_manifest(tmp_path / "manifest.json")
    assert (read.n_layers, read.threads, read.host, read.cache_state) == (None, None, None, None)
    assert (read.weights, read.roofline, read.not_fitting) == (None, {}, 0)


def test_newer_manifest_asks_for_an_upgrade_even_with_unknown_fields(tmp_path: Path) -> None:
    newer = manifest() | {"schema_version": SCHEMA_VERSION + 1, "colour": "red"}
    write_text(tmp_path / "manifest.json", json.dumps(newer))
    with pytest.raises(DataError, match="upgrade kvpred"):
        read_manifest(tmp_path / "manifest.json")


@pytest.mark.parametrize(
    "change",
    [
        {"cache_state": "lukewarm"},
        {"repeats": 0},
        {"colour": "red"},
        {"method": ""},
        {"seed": None},
        {"n_layers": 0},
        {"threads": 0},
        {"not_fitting": -1},
        {"roofline": None},
    ],
)
def test_bad_manifest_field_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    write_text(tmp_path / "manifest.json", json.dumps(manifest() | change))
    with pytest.raises(DataError) as caught:
        read_manifest(tmp_path / "manifest.json")
    assert caught.value.column == next(iter(change))


def test_manifest_that_is_not_json_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "manifest.json", "{")
    with pytest.raises(DataError, match="not a profile's manifest"):
        read_manifest(tmp_path / "manifest.json")


def test_the_published_attention_table_is_read_whole(shared_data: Path) -> None:
    path = shared_data / "a6000" / "profile" / "meta-llama" / "Llama-2-7b-fp16" / "attention.csv"
    table = read_profile_table(path)
    assert len(table["is_prefill"]) == 14_653
    assert np.count_nonzero(np.isnan(table[MEDIAN])) == np.count_nonzero(table["is_prefill"]) == 4_414

"""Collected lengths as files: what is written comes back, and a wrong cell is named."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.data.lengths import LengthRun, read_lengths, write_lengths
from kvpred.errors import DataError

RUN = LengthRun(
    model="smollm2-135m", method="kivi", method_params="kivi:bits=2,group_size=32,residual_length=128",
    engine="transformers", prompt_id="talk1_0/2", temperature=1.0, seed=0, prompt_tokens=100,
    output_tokens=40, cap=384, censored=False, cache_ratio=0.625, host="a host", versions="torch 2",
    measured_at="today",
)  # fmt: skip


@given(
    tokens=st.integers(1, 384),
    seed=st.integers(0, 99),
    temperature=st.floats(0.01, 10),
    ratio=st.floats(0.01, 2),
    censored=st.booleans(),
)
def test_what_is_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    tokens: int,
    seed: int,
    temperature: float,
    ratio: float,
    censored: bool,
) -> None:
    path = tmp_path_factory.mktemp("written") / "lengths.csv"
    run = replace(
        RUN, output_tokens=tokens, seed=seed, temperature=temperature, cache_ratio=ratio, censored=censored
    )
    write_lengths(path, [run, RUN])
    assert read_lengths(path) == [run, RUN]


def test_an_unknown_ratio_comes_back_as_unknown(tmp_path: Path) -> None:
    write_lengths(tmp_path / "lengths.csv", [replace(RUN, cache_ratio=math.nan)])
    (back,) = read_lengths(tmp_path)
    assert math.isnan(back.cache_ratio)


def test_files_and_whole_folders_are_read_in_order(tmp_path: Path) -> None:
    for seed, name in enumerate(("shard1/lengths.csv", "shard2/lengths.csv", "other.csv")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_lengths(tmp_path / name, [replace(RUN, seed=seed)])
    assert [run.seed for run in read_lengths(tmp_path)] == [0, 1]
    assert [run.seed for run in read_lengths(tmp_path / "other.csv", tmp_path)] == [2, 0, 1]


def test_a_folder_without_lengths_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no lengths\.csv"):
        read_lengths(tmp_path)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("output_tokens", "0"),
        ("output_tokens", "385"),
        ("output_tokens", "many"),
        ("censored", "perhaps"),
        ("temperature", "nan"),
        ("temperature", "warm"),
        ("seed", "1.5"),
        ("cap", ""),
    ],
)
def test_a_wrong_cell_is_named(column: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "lengths.csv"
    write_lengths(path, [RUN, RUN])
    head, good, _ = path.read_text().splitlines()
    places = {name: place for place, name in enumerate(head.split(","))}
    # The method's own commas make its cell a quoted one; the cells changed here all stand behind it.
    cells = good.split(",")
    cells[places[column] - len(places)] = value
    path.write_text("\n".join((head, good, ",".join(cells))) + "\n")
    with pytest.raises(DataError) as caught:
        read_lengths(path)
    assert (caught.value.row, caught.value.column) == (3, column)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lengths.csv"
    path.write_text("model,method\nsmollm2-135m,fp16\n")
    with pytest.raises(DataError, match="output_tokens"):
        read_lengths(path)

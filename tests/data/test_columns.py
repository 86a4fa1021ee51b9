from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from kvpred.data import columns
from kvpred.data.columns import write_columns
from kvpred.errors import MissingExtraError, UsageError

TABLE = {"name": ["a", "b"], "time_s": [0.1, None], "fits": [True, False], "reason": [None, None]}


def test_csv_keeps_every_digit_and_leaves_unknown_cells_empty(tmp_path: Path) -> None:
    write_columns(tmp_path / "t.csv", TABLE)
    assert (tmp_path / "t.csv").read_text() == "name,time_s,fits,reason\na,0.1,True,\nb,,False,\n"


def test_parquet_holds_the_same_with_types(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_columns(tmp_path / "t.PARQUET", TABLE)
    table = parquet.read_table(tmp_path / "t.PARQUET")
    assert table.to_pydict() == TABLE
    assert [str(field.type) for field in table.schema] == ["string", "double", "bool", "string"]


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"use \.csv or \.parquet"):
        write_columns(tmp_path / "t.xlsx", TABLE)
    assert list(tmp_path.iterdir()) == []


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(columns, "find_spec", lambda name: None if name == "pyarrow" else find(name))
    with pytest.raises(MissingExtraError, match=r"pip install 'kvpred\[parquet\]'"):
        write_columns(tmp_path / "t.parquet", TABLE)

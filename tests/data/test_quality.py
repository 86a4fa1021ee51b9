"""The packaged table of published quality, and what a bad one is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kvpred.data.quality import PACKAGED, read_quality, write_quality
from kvpred.errors import DataError
from kvpred.methods import get_method


def test_packaged_rows_are_of_known_methods_and_sound() -> None:
    rows = read_quality()
    assert len(rows) == 9
    for row in rows:
        assert get_method(row.method_params).spec == row.method_params
        assert row.loss_low <= row.loss <= row.loss_high
        assert row.loss == pytest.approx(1 - row.score / row.baseline_score, abs=3e-5)


def test_a_table_comes_back_as_written(tmp_path: Path) -> None:
    write_quality(tmp_path / "q.csv", read_quality())
    assert (tmp_path / "q.csv").read_bytes() == PACKAGED.read_bytes()


@pytest.mark.parametrize(
    ("change", "column"),
    [({"loss": "much"}, "loss"), ({"score": 1.5}, "score"), ({"loss_high": 2.0}, "loss_high")],
)
def test_bad_cells_are_named(tmp_path: Path, change: dict[str, object], column: str) -> None:
    write_quality(tmp_path / "q.csv", [replace(read_quality()[0], **change)])  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"line 2, column '{column}'"):
        read_quality(tmp_path / "q.csv")

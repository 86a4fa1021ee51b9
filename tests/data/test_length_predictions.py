"""Predictions as CSV, there and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.data.length_predictions import LengthPredictions, read_predictions, write_predictions
from kvpred.errors import DataError

LEVELS = (0.1, 0.5, 0.9)
HEADER = "piece,index,fold,mean,q0.1,q0.5,q0.9\n"


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    quantiles = np.array([[1.0, 20.5, 300.0], [2.0, 2.0, 9.0]])
    found = LengthPredictions(
        ("a_0", "b"), np.array([0, 2]), np.array([1, 0]), quantiles, np.array([90.0, 4.0])
    )

    write_predictions(tmp_path / "p.csv", found, levels=LEVELS)
    back = read_predictions(tmp_path / "p.csv", levels=LEVELS)

    assert back.pieces == found.pieces
    assert back.indices.tolist() == [0, 2]
    assert back.folds.tolist() == [1, 0]
    assert back.quantiles.tolist() == quantiles.tolist()
    assert back.mean.tolist() == [90, 4]


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ("a,0,0,5,1,x,9", "q0.5"),
        ("a,0,0,,1,2,9", "mean"),
        ("a,0,0,5,3,2,9", "q0.5"),
        ("a,z,0,5,1,2,9", "index"),
    ],
)
def test_a_bad_cell_is_named_with_its_place(tmp_path: Path, row: str, column: str) -> None:
    (tmp_path / "p.csv").write_text(HEADER + row + "\n")

    with pytest.raises(DataError, match=f"line 2, column '{column}'"):
        read_predictions(tmp_path / "p.csv", levels=LEVELS)


def test_a_missing_level_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("piece,index,fold,mean,q0.1,q0.5\na,0,0,5,1,2\n")

    with pytest.raises(DataError, match=r"missing column q0\.9"):
        read_predictions(tmp_path / "p.csv", levels=LEVELS)


# A bare carriage return is left out: the csv module of Python 3.11 does not quote it.
@given(
    st.lists(st.lists(st.floats(1, 1e6), min_size=3, max_size=3).map(sorted), min_size=1, max_size=5),
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1), min_size=5, max_size=5
    ),
)
def test_rounding_never_makes_quantiles_fall(
    tmp_path_factory: pytest.TempPathFactory, quantiles: list[list[float]], names: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "p.csv"
    known = np.array(quantiles)
    n = len(known)
    found = LengthPredictions(tuple(names[:n]), np.arange(n), np.zeros(n, dtype=np.int64), known, known[:, 1])

    write_predictions(path, found, levels=LEVELS)
    back = read_predictions(path, levels=LEVELS)

    assert back.pieces == found.pieces
    assert np.abs(back.quantiles - known).max() <= 0.0501

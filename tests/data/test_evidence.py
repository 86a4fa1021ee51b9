"""Published measurements as a CSV file, and the packaged ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvpred.data.evidence import PACKAGED_EVIDENCE, read_evidence, write_evidence
from kvpred.errors import DataError
from kvpred.methods import get_method
from tests.made_up_evidence import make_evidence


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = [make_evidence(), make_evidence(method="", tp=None, bsz=None, prompt_len=None, approximate=True)]
    write_evidence(tmp_path / "e.csv", rows)
    assert read_evidence(tmp_path / "e.csv") == rows


def test_the_packaged_rows_name_methods_in_full_and_their_sources() -> None:
    rows = read_evidence()
    assert len(rows) == 254
    assert {row.method for row in rows if row.method and get_method(row.method).spec != row.method} == set()
    assert all(row.source_url.startswith("https://") for row in rows)


def test_ratios_follow_from_the_two_values() -> None:
    """Times and peak memory are better where smaller, rates and capacity where larger."""
    smaller = {"ttft_s", "tpot_ms", "e2e_s", "peak_memory_mb"}
    for row in read_evidence():
        better = row.baseline_value / row.compressed_value
        expected = better if row.metric in smaller else 1 / better
        assert row.ratio_better == pytest.approx(expected, rel=2e-3), row


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("stage", "warm-up", "expected one of prefill, decode, e2e, memory"),
        ("ratio_better", "0", "expected a number above 0"),
        ("bsz", "1.5", "expected a whole number, or nothing"),
        ("approximate", "perhaps", "expected True or False"),
        ("source_url", "", "found nothing"),
    ],
)
def test_bad_cells_are_named(tmp_path: Path, column: str, value: str, message: str) -> None:
    lines = PACKAGED_EVIDENCE.read_text().splitlines()
    cells = lines[1].split(",")
    cells[lines[0].split(",").index(column)] = value
    path = tmp_path / "e.csv"
    path.write_text("\n".join([lines[0], ",".join(cells)]) + "\n")
    with pytest.raises(DataError, match=f"e.csv, line 2, column '{column}'.*{message}"):
        read_evidence(path)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("stage,method\ndecode,kv-fp8\n")
    with pytest.raises(DataError, match="missing columns published_method"):
        read_evidence(path)

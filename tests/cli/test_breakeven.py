"""``kvpred breakeven`` as a shell runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli

SMALL = ("breakeven", "--method", "h2o,kivi:bits=2,group_size=32", "--cells", 4)


def test_json_holds_every_cell_of_both_kinds_of_batches(cli: Cli) -> None:
    done = cli(*SMALL, "--format", "json", "--price-per-hour", 0.8)
    assert done.code == 0, done.err
    rows = done.objects
    assert len(rows) == 2 * 2 * 4 * 4
    assert {row["batches"] for row in rows} == {"equal", "largest"}
    # Up to 4,096 tokens of context, the answer included.
    assert {row["prompt_len"] for row in rows} == {128, 398, 1236, 3840}
    assert all(row["usd_per_request"] > 0 for row in rows)
    assert "Answers' length over fp16's" in done.err


def test_csv_says_what_json_says(cli: Cli) -> None:
    rows = cli(*SMALL, "--at", "equal", "--format", "csv").rows
    objects = cli(*SMALL, "--at", "equal", "--format", "json").objects
    assert [float(row["e2e_ratio"]) for row in rows] == [row["e2e_ratio"] for row in objects]
    assert "usd_per_request" not in rows[0]


def test_table_names_shares_borders_and_the_basis(cli: Cli) -> None:
    done = cli(*SMALL)
    assert done.code == 0, done.err
    for words in ("at equal batch", "each at the largest batch that fits", "kivi:bits=2", "Basis: published"):
        assert words in done.out
    assert "faster" in done.out


def test_other_axes(cli: Cli) -> None:
    rows = cli(*SMALL, "--axes", "output_len,prompt_len", "--at", "largest", "--format", "csv").rows
    assert {int(row["output_len"]) for row in rows} == {16, 81, 406, 2048}
    assert "asked_bsz" not in rows[0]


def test_no_shift_leaves_the_answers_length_out(cli: Cli) -> None:
    rows = cli(*SMALL, "--no-shift", "--format", "csv").rows
    assert {row["shift"] for row in rows} == {"1.0"}


def test_report_is_written(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chrome")
    done = cli(*SMALL, "--report", tmp_path / "report")
    assert (done.code, (tmp_path / "report" / "cells_equal.csv").exists()) == (0, True), done.err


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--price-per-hour", -1), ["-1"]),
        (("--price-per-hour", "nan"), ["nan"]),
        (("--method", "fp16"), ["fp16", "another"]),
        (("--method", "kivy"), ["Did you mean kivi?"]),
        (("--bsz", "8:2"), ["bsz '8:2'", "LOW:HIGH"]),
        (("--bsz", "1:2:3"), ["1:2:3"]),
        (("--bsz", "few"), ["bsz 'few'"]),
        (("--prompt-len", "0:5"), ["prompt_len '0'", "from 1"]),
        (("--output-len", "1:4"), ["output_len must be one number"]),
        (("--axes", "output_len,prompt_len", "--bsz", "1:4"), ["bsz must be one number"]),
        (("--axes", "bsz"), ["bsz,prompt_len"]),
        (("--cells", 1), ["--cells"]),
        (("--level", 2), ["level=2"]),
        (("--tp", 3), ["tp=3"]),
        (("--model", "lama-2-7b"), ["Did you mean llama-2-7b?"]),
    ],
)
def test_bad_requests_are_refused(cli: Cli, options: tuple[object, ...], names: list[str]) -> None:
    done = cli("breakeven", *options)
    assert (done.code, done.out) == (2, "")
    assert all(name in done.err for name in names), done.err

"""``kvpred predict --sweep`` as a shell runs it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli

PARTS = ("model=llama-2-7b|llama-3-8b", "device=a6000|a100", "method=fp16|kivi:bits=2,group_size=32|h2o")
SWEEP = ",".join((*PARTS, "bsz=1:8:x2", "prompt_len=512|2048"))


def test_every_combination_is_a_row_equal_to_predict(cli: Cli) -> None:
    rows = cli("predict", "--sweep", SWEEP, "--format", "json").objects
    assert len(rows) == 2 * 2 * 3 * 4 * 2
    for row in (rows[0], rows[37], rows[-1]):
        request = [
            f"--{key.replace('_', '-')}={row[key]}" for key in ("model", "device", "bsz", "prompt_len")
        ]
        (alone,) = cli("predict", *request, "--method", row["method_params"], "--format", "json").objects
        assert _flat(row) == pytest.approx(_flat(alone | {"reason": None}))


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        inner = dict(enumerate(value)) if isinstance(value, list) else value
        nested = _flat(inner) if isinstance(inner, dict) else {"": inner}
        flat |= {f"{key}.{name}": one for name, one in nested.items()}
    return flat


def test_csv_says_what_json_says(cli: Cli) -> None:
    rows = cli("predict", "--sweep", SWEEP, "--format", "csv").rows
    objects = cli("predict", "--sweep", SWEEP, "--format", "json").objects
    assert [float(row["interval.ttft_s.high"]) for row in rows] == [
        item["interval"]["ttft_s"][1] for item in objects
    ]
    assert [row["fits"] for row in rows] == [str(item["fits"]) for item in objects]


def test_a_file_holds_what_stdout_would(cli: Cli, tmp_path: Path) -> None:
    done = cli("predict", "--sweep", SWEEP, "--output", tmp_path / "grid.csv")
    assert (done.code, done.out) == (0, "")
    assert "wrote 96 rows" in done.err
    rows = cli("predict", "--sweep", SWEEP, "--format", "csv").rows
    assert list(csv.DictReader((tmp_path / "grid.csv").open())) == rows


def test_parquet_holds_the_same_numbers(cli: Cli, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'kvpred[parquet]' brings PyArrow")
    assert cli("predict", "--sweep", SWEEP, "--output", tmp_path / "grid.parquet").code == 0
    table = parquet.read_table(tmp_path / "grid.parquet")
    objects = cli("predict", "--sweep", SWEEP, "--format", "json").objects
    assert table.column("tpot_s").to_pylist() == [row["tpot_s"] for row in objects]
    assert str(table.schema.field("reason").type) == "string"


def test_options_give_what_the_sweep_leaves_out(cli: Cli) -> None:
    rows = cli(
        "predict", "--sweep", "bsz=1|2", "--prompt-len", 300, "--method", "h2o", "--output-len", 10,
        "--format", "csv",
    ).rows  # fmt: skip
    assert [(row["method"], row["bsz"], row["prompt_len"], row["output_len"]) for row in rows] == [
        ("h2o", "1", "300", "10"),
        ("h2o", "2", "300", "10"),
    ]


def test_cells_without_an_estimate_stay_with_their_reason(cli: Cli) -> None:
    done = cli("predict", "--sweep", "tp=1|3,method=fp16,bsz=1|2,prompt_len=512", "--format", "csv")
    assert done.code == 0
    rows = done.rows
    assert [row["ttft_s"] != "" for row in rows] == [True, True, False, False]
    assert [(row["tp"], row["bsz"], row["method_params"]) for row in rows[2:]] == [
        ("3", "1", "fp16"),
        ("3", "2", "fp16"),
    ]
    assert "tp=3 does not divide" in rows[2]["reason"]
    assert "2 cells have no estimate: tp=3" in done.err
    assert cli("predict", "--sweep", "tp=1|3,method=fp16,bsz=1,prompt_len=512").code == 0


def test_nothing_but_such_cells_is_an_error(cli: Cli) -> None:
    done = cli("predict", "--sweep", "tp=3,bsz=1,prompt_len=512")
    assert (done.code, done.out) == (2, "")
    assert cli("predict", "--sweep", "bsz=1,prompt_len=512", "--level", 3).code == 2


def test_weaker_bases_are_left_out(cli: Cli) -> None:
    sweep = "method=fp16|turboquant,bsz=1|2,prompt_len=512"
    done = cli("predict", "--sweep", sweep, "--min-basis", "calibrated", "--format", "csv")
    assert {row["method"] for row in done.rows} == {"fp16"}
    assert (
        "left out 2 cells of turboquant:bits=4 for llama-2-7b on a6000 with lmdeploy, whose basis is roofline"
        in done.err
    )
    none = cli("predict", "--sweep", "method=turboquant,bsz=1,prompt_len=512", "--min-basis", "calibrated")
    assert (none.code, none.out) == (4, "")


def test_requests_beyond_a_models_context_are_remarked_upon(cli: Cli) -> None:
    sweep = "model=llama-2-7b|llama-3.1-8b,method=fp16,bsz=1,prompt_len=512|8000"
    done = cli("predict", "--sweep", sweep, "--format", "json")
    assert (done.code, len(done.objects)) == (0, 4)
    assert done.err.count("exceed the context of") == 1
    assert (
        "a prompt of 8,000 tokens and an answer of 256 exceed the context of 4,096 of llama-2-7b" in done.err
    )


def test_strict_fails_if_a_cell_does_not_fit(cli: Cli) -> None:
    done = cli("predict", "--sweep", "method=fp16,bsz=1|512,prompt_len=2048", "--strict")
    assert done.code == 5
    assert "1 of 2 cells do not fit: of fp16; " in done.err


def test_strict_is_of_cells_that_were_left_out_too(cli: Cli) -> None:
    sweep = "method=h2o|snapkv,bsz=40,prompt_len=512,output_len=3500"
    done = cli("predict", "--sweep", sweep, "--min-basis", "calibrated", "--strict", "--format", "json")
    assert {row["method"]: row["fits"] for row in done.objects} == {"h2o": True}
    assert done.code == 5
    assert "1 of 2 cells do not fit: of snapkv:budget=512,window=32,kernel=7;" in done.err


def test_table_shows_the_first_rows(cli: Cli) -> None:
    done = cli("predict", "--sweep", "method=fp16,bsz=1:150,prompt_len=512")
    assert "150 cells of model llama-2-7b" in done.out
    assert "The first 100 of 150 rows" in done.out


@pytest.mark.parametrize(
    ("sweep", "names"),
    [
        ("foo=1,bsz=1,prompt_len=2", ["'foo'", "prompt_len"]),
        ("bsz=1", ["prompt_len", "--prompt-len"]),
        ("bsz=1,bsz=2,prompt_len=2", ["bsz twice"]),
        ("bsz=0,prompt_len=2", ["bsz=0"]),
        ("bsz=8:1,prompt_len=2", ["bsz=8:1"]),
        ("bsz=1:64:x1,prompt_len=2", ["1:64:x1"]),
        ("bsz=1:64:0,prompt_len=2", ["1:64:0"]),
        ("bsz=1:64:1.5,prompt_len=2", ["1:64:1.5"]),
        ("bsz=many,prompt_len=2", ["bsz=many"]),
        ("bsz=,prompt_len=2", ["bsz="]),
        ("bsz", ["'bsz'", "KEY=VALUE"]),
        ("", ["KEY=VALUE"]),
        ("bsz=1,prompt_len=1:10000000", ["prompt_len=1:10000000", "1,000,000"]),
        ("bsz=1:1000,prompt_len=1:2000", ["20,000,000 cells"]),
        ("model=lama-2-7b,bsz=1,prompt_len=2", ["Did you mean llama-2-7b?"]),
        ("device=a600,bsz=1,prompt_len=2", ["Did you mean a6000?"]),
        ("engine=vlm,bsz=1,prompt_len=2", ["Did you mean vllm?"]),
        ("method=kivy,bsz=1,prompt_len=2", ["Did you mean kivi?"]),
        ("method=kivi:bits=2,wits=3,bsz=1,prompt_len=2", ["'wits'"]),
        ("method=kivi,bits=2,bsz=1,prompt_len=2", ["'bits'"]),
    ],
)
def test_bad_sweeps_are_refused(cli: Cli, sweep: str, names: list[str]) -> None:
    done = cli("predict", "--sweep", sweep)
    assert (done.code, done.out) == (2, "")
    assert all(name in done.err for name in names), done.err


def test_options_that_do_not_go_together_are_refused(cli: Cli, tmp_path: Path) -> None:
    good = ("--sweep", "bsz=1,prompt_len=512")
    assert cli("predict", *good, "--output", tmp_path / "grid.txt").code == 2
    assert cli("predict", *good, "--explain").code == 2
    assert cli("predict", "--bsz", 1, "--prompt-len", 5, "--output", tmp_path / "grid.csv").code == 2
    assert "--sweep" in cli("predict", "--bsz", 1).err
    assert list(tmp_path.iterdir()) == []


def test_csv_needs_nothing_but_the_core() -> None:
    blocked = ("pandas", "pyarrow", "plotly", "sklearn", "torch", "lightgbm", "scipy")
    code = (
        f"import sys; sys.modules |= dict.fromkeys({blocked!r})\n"
        "from kvpred.cli import run\n"
        "assert run(['predict', '--sweep', 'method=all,bsz=1|2,prompt_len=512', '--format', 'csv']) == 0\n"
        "assert run(['breakeven', '--cells', '3', '--format', 'csv']) == 0\n"
        "assert run(['breakeven', '--cells', '3']) == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_json_is_json(cli: Cli) -> None:
    found = cli("predict", "--sweep", "tp=1|3,method=fp16,bsz=1,prompt_len=512", "--format", "json")
    known, unknown = json.loads(found.out)
    assert known["interval"]["ttft_s"][0] < known["ttft_s"]
    assert (unknown["ttft_s"], unknown["interval"]["ttft_s"]) == (None, [None, None])

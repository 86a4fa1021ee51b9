"""``kvpred measure``: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="pip install 'kvpred[profile]' brings torch and transformers")

from kvpred.data.runs import read_runs
from tests.tiny import write_model

Cli = Callable[..., Any]


@pytest.fixture
def measured(cli: Cli, tmp_path: Path) -> Cli:
    """Return a runner of ``kvpred measure`` on the tiny model, into a folder of its own."""
    given = ["--engine", "transformers", "--model", write_model(tmp_path), "--output", tmp_path / "runs"]
    return lambda *more: cli("measure", *given, *more)


@pytest.mark.slow
def test_runs_are_measured_gone_on_with_and_replaced(measured: Cli, tmp_path: Path) -> None:
    sizes = (
        "--method",
        "kv-int8",
        "--bsz",
        "1,2",
        "--prompt-len",
        "64",
        "--output-len",
        "3",
        "--dtype",
        "float32",
    )

    done = measured(*sizes, "--repeats", "1", "--format", "json")

    assert done.code == 0, done.err
    assert [(row["method"].partition(":")[0], row["bsz"]) for row in done.objects] == [
        ("fp16", 1), ("kv-int8", 1), ("fp16", 2), ("kv-int8", 2),
    ]  # fmt: skip
    row = done.objects[-1]
    assert row["decode_throughput_tok_s"] == pytest.approx(2 / row["tpot_s"])
    assert row["e2e_latency_s"] == pytest.approx(row["ttft_s"] + 2 * row["tpot_s"])
    assert row["peak_memory_bytes"] > 2**20
    assert row["speedup_decode"] > 0
    assert "4/4" in done.err

    again = measured(*sizes, "--repeats", "1", "--format", "csv")
    assert again.code == 0
    assert "starting" not in again.err
    assert len(again.rows) == 4

    before = read_runs(tmp_path / "runs" / "runs.csv")
    replaced = measured(*sizes, "--repeats", "1", "--seed", "1", "--no-resume")
    assert replaced.code == 0, replaced.err
    assert {run.measured_at for run in read_runs(tmp_path / "runs" / "runs.csv")} != {
        run.measured_at for run in before
    }


def test_a_dry_run_lists_the_runs_and_measures_nothing(measured: Cli, tmp_path: Path) -> None:
    done = measured("--method", "h2o,kivi", "--plan", "6", "--repeats", "2", "--dry-run", "--format", "json")

    assert done.code == 0, done.err
    methods = [row["method"].partition(":")[0] for row in done.objects]
    assert methods.count("fp16") == 12
    assert 4 <= methods.count("h2o") <= 8
    assert "runs left, about" in done.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bsz", "1,two"), "--bsz '1,two': write whole numbers"),
        (("--bsz", "0"), "--bsz '0': write whole numbers of at least 1"),
        (("--engine", "openai"), "name the model that the server serves (--model) and the device"),
        (("--prompt-len", "64", "--plan", "4"), "one of --prompt-len, --grid and --plan"),
        (("--option", "threads"), "--option 'threads': write KEY=VALUE"),
        (("--option", "attention=flash"), "option 'attention' is not known"),
        (("--budget", "soon"), "--budget 'soon'"),
        (("--prompt-len", "9000"), "do not fit into the 8,192 tokens"),
        (("--method", "kiwi"), "kiwi"),
    ],
)
def test_bad_options_are_named(measured: Cli, arguments: tuple[str, ...], message: str) -> None:
    refused = measured(*arguments)

    assert refused.code == 2, refused.err
    assert message in refused.err
    assert refused.out == ""


def test_a_grid_file_that_is_none_is_named(measured: Cli, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text("bsz = [1]\n")

    refused = measured("--grid", tmp_path / "grid.toml")

    assert refused.code == 3
    assert "grid.toml" in refused.err and "prompt_len" in refused.err


def test_a_folder_of_another_measurement_is_refused(measured: Cli, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "measure.jsonl").write_text(json.dumps({"engine": "openvino"}) + "\n")

    refused = measured("--prompt-len", "64")

    assert refused.code == 2
    assert 'engine was "openvino", now "transformers"' in refused.err

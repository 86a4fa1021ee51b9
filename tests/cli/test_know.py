"""What kvpred knows, in every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kvpred
from kvpred._version import __version__
from kvpred.cli.know import EXTRAS

Cli = Callable[..., Any]

NAMES = {
    "models": ("name", "llama-2-7b"),
    "devices": ("name", "a6000"),
    "methods": ("method", "kivi"),
    "engines": ("name", "lmdeploy"),
    "predictors": ("name", "llama-2-7b_a6000_lmdeploy"),
    "doctor": ("check", "packaged predictor"),
}


@pytest.mark.parametrize("command", NAMES)
def test_every_format_holds_the_same_entries(cli: Cli, command: str) -> None:
    field, name = NAMES[command]
    objects = cli(command, "--format", "json").objects
    rows = cli(command, "--format", "csv").rows
    table = cli(command)
    assert (table.code, table.err) == (0, "")
    assert name in table.out
    assert name in [item[field] for item in objects]
    assert [row[field] for row in rows] == [item[field] for item in objects]


def test_a_models_config_is_shown(cli: Cli, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        '{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2,'
        ' "intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 512}'
    )
    (model,) = cli("models", config, "--format", "json").objects
    assert (model["n_layers"], model["kv_bytes_per_token"]) == (2, 2 * 2 * 2 * 64)


def test_predictors_describes_the_packaged_one_and_those_given(cli: Cli, trained: Path) -> None:
    packaged, own = cli("predictors", trained, "--format", "json").objects
    assert (packaged["sites"], packaged["runs"]) == (190, 663)
    assert (own["sites"], own["runs"], own["methods"]) == (96, 192, ["fp16", "h2o", "kivi"])
    assert own["accuracy_held_out_lengths"] > 0.95


def test_predictors_describes_bundles_of_lengths_too(cli: Cli) -> None:
    packaged, lengths = cli("predictors", kvpred.PACKAGED_LENGTHS, "--format", "json").objects
    assert (packaged["kind"], packaged["answers"]) == ("throughput", None)
    assert (lengths["kind"], lengths["predictor"], lengths["methods"]) == ("length", "lightgbm", ["fp16"])
    assert (lengths["answers"], lengths["conversations"], lengths["sites"]) == (2618, 741, None)
    table = cli("predictors", kvpred.PACKAGED_LENGTHS)
    assert (table.code, table.err) == (0, "")
    assert "2618" in table.out
    assert "answers" not in cli("predictors").out


def test_doctor_names_what_is_missing(cli: Cli) -> None:
    found = {item["check"]: item for item in cli("doctor", "--format", "json").objects}
    assert set(found) == {
        "python",
        *(f"extra {name}" for name in EXTRAS),
        "packaged predictor",
        "browser for PNG",
    }
    assert found["packaged predictor"]["ok"] is True
    missing = [item for name, item in found.items() if name.startswith("extra") and not item["ok"]]
    assert all("pip install 'kvpred[" in item["detail"] for item in missing)


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"kvpred {__version__}\n"

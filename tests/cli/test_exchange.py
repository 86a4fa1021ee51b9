"""``kvpred import`` and ``kvpred export``: a profile goes to Vidur's layout and back unharmed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]

VIDUR_NAME = "meta-llama/Llama-2-7b-hf"


def test_a_profile_survives_export_and_import(cli: Cli, fp16_profile: Path, tmp_path: Path) -> None:
    exported = cli("export", fp16_profile, "--output", tmp_path / "vidur", "--model", VIDUR_NAME)
    assert exported.code == 0
    folder = tmp_path / "vidur" / "compute" / "a6000" / VIDUR_NAME
    assert sorted(path.name for path in folder.iterdir()) == ["attention.csv", "mlp.csv"]

    imported = cli(
        "import", folder, "--method", "fp16", "--model", "llama-2-7b", "--output", tmp_path / "back",
        "--format", "json",
    )  # fmt: skip
    back = tmp_path / "back" / "compute" / "a6000" / "llama-2-7b" / "fp16"
    assert [row["written"] for row in imported.objects] == [str(path) for path in sorted(back.iterdir())]
    for name in ("attention.csv", "mlp.csv", "manifest.json"):
        assert (back / name).read_text() == (fp16_profile / name).read_text()


@pytest.mark.parametrize("form", ["table", "csv"])
def test_the_files_written_are_listed(cli: Cli, fp16_profile: Path, tmp_path: Path, form: str) -> None:
    answer = cli("export", fp16_profile, "--output", tmp_path, "--format", form)
    assert (answer.code, answer.err) == (0, "")
    assert "mlp.csv" in answer.out.replace("\n", "")


def test_the_manifest_says_what_the_options_said(cli: Cli, fp16_profile: Path, tmp_path: Path) -> None:
    cli("export", fp16_profile, "--output", tmp_path / "vidur")
    source = tmp_path / "vidur" / "compute" / "a6000" / "llama-2-7b"
    assert cli("import", source, "--method", "kivi:bits=2", "--output", tmp_path).code == 0
    manifest = json.loads(next(tmp_path.glob("compute/**/manifest.json")).read_text())
    assert (manifest["method"], manifest["method_params"]) == ("kivi", "kivi:bits=2")


def test_an_import_must_say_what_folders_do_not(cli: Cli, fp16_profile: Path, tmp_path: Path) -> None:
    cli("export", fp16_profile, "--output", tmp_path / "vidur")
    answer = cli(
        "import", tmp_path / "vidur" / "compute" / "a6000" / "llama-2-7b", "--output", tmp_path / "s"
    )
    assert (answer.code, answer.out) == (3, "")
    assert "give --method" in answer.err
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("option", "value"), [("--method", "kivy"), ("--method", "kivi:bits=3"), ("--model", "../../outside")]
)
def test_an_import_refuses_names_that_cannot_be(
    cli: Cli, fp16_profile: Path, tmp_path: Path, option: str, value: str
) -> None:
    cli("export", fp16_profile, "--output", tmp_path / "vidur")
    source = tmp_path / "vidur" / "compute" / "a6000" / "llama-2-7b"
    answer = cli("import", source, "--method", "fp16", option, value, "--output", tmp_path / "s")
    assert (answer.code, answer.out) == (2, "")
    assert not (tmp_path / "s").exists()


def test_an_export_into_its_own_store_leaves_the_store_alone(
    cli: Cli, fp16_profile: Path, tmp_path: Path
) -> None:
    cli("export", fp16_profile, "--output", tmp_path / "vidur")
    source = tmp_path / "vidur" / "compute" / "a6000" / "llama-2-7b"
    cli("import", source, "--method", "fp16", "--output", tmp_path / "own")
    kept = tmp_path / "own" / "compute" / "a6000" / "llama-2-7b" / "fp16"
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    answer = cli("export", kept, "--output", tmp_path / "own")
    assert (answer.code, answer.out) == (2, "")
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before


NETWORK = (
    "num_workers,devices_per_node,size,collective,time_stats.all_reduce.median\n2,2,2048,all_reduce,0.01\n"
)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Times of communication as Vidur names their folder."""
    folder = tmp_path / "vidur" / "network" / "a100_dgx"
    folder.mkdir(parents=True)
    (folder / "all_reduce.csv").write_text(NETWORK)
    return folder


def test_times_of_communication_are_stored_for_a_device(cli: Cli, network: Path, tmp_path: Path) -> None:
    answer = cli("import", network, "--device", "a100", "--output", tmp_path / "s", "--format", "json")
    stored = tmp_path / "s" / "network" / "a100" / "all_reduce.csv"
    assert (answer.code, answer.objects) == (0, [{"written": str(stored)}])
    assert stored.read_text() == NETWORK


def test_times_of_communication_are_of_no_method(cli: Cli, network: Path, tmp_path: Path) -> None:
    answer = cli("import", network, "--method", "fp16", "--output", tmp_path / "s")
    assert (answer.code, answer.out) == (2, "")
    assert "leave --model and --method out" in answer.err
    (network / "all_reduce.csv").write_text(NETWORK.replace("0.01", "fast"))
    assert cli("import", network, "--output", tmp_path / "s").code == 3
    assert not (tmp_path / "s").exists()


def test_an_imported_profile_leaves_as_much_unknown_as_before(
    cli: Cli, fp16_profile: Path, tmp_path: Path
) -> None:
    cli("export", fp16_profile, "--output", tmp_path / "vidur")
    source = tmp_path / "vidur" / "compute" / "a6000" / "llama-2-7b"
    assert cli("import", source, "--method", "fp16", "--output", tmp_path / "s").code == 0
    intervals = []
    for number, options in enumerate([(source, "--method", "fp16"), (tmp_path / "s",)]):
        bundle = tmp_path / f"b{number}"
        assert cli("train", "--profile", *options, "--output", bundle).code == 0
        (row,) = cli(
            "predict", "--predictor", bundle, "--bsz", 4, "--prompt-len", 1024, "--method", "fp16",
            "--format", "json",
        ).objects  # fmt: skip
        intervals.append(row["interval"]["tpot_s"])
    assert intervals[0] == intervals[1]

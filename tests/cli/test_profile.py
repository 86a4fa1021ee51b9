"""``kvpred profile``: what it prints and writes, what it refuses, and the way on to a prediction."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="pip install 'kvpred[profile]' brings torch and transformers")

from kvpred.data.journal import FILE
from kvpred.data.store import find_profiles
from tests.tiny import N_SITES, light, write_grid, write_model

Cli = Callable[..., Any]
SMALL = """
rounds = 1
repeats = 2
steps = 2
[prefill]
bsz = [1, 2]
length = [32, 64, 128]
[decode]
bsz = [1, 2, 4]
length = [64, 128, 256]
"""


@pytest.fixture(autouse=True)
def _light() -> Iterator[None]:
    with light():
        yield


@pytest.fixture
def profiled(cli: Cli, tmp_path: Path) -> Cli:
    """Return a runner of ``kvpred profile`` on the tiny model and grid, into a folder of its own."""
    given = {"--method": "fp16", "--model": write_model(tmp_path), "--grid": write_grid(tmp_path)}
    given["--output"] = tmp_path / "profiles"

    def call(*options: object) -> Any:
        named = dict(given)
        flags = []
        for option in options:
            if isinstance(option, tuple):
                named[option[0]] = option[1]
            else:
                flags.append(option)
        return cli("profile", *(word for pair in named.items() for word in pair), *flags)

    return call


def test_json_stands_on_stdout_alone_and_progress_on_stderr(profiled: Cli, tmp_path: Path) -> None:
    answer = profiled(("--method", "h2o"), ("--format", "json"))
    assert answer.code == 0
    fp16, h2o = answer.objects
    assert (fp16["method"], h2o["method"]) == ("fp16", "h2o:heavy=64,recent=448")
    assert (fp16["points"], fp16["status"], fp16["decode_speedup"]) == (N_SITES, "finished", 1)
    assert fp16["folder"] == str(tmp_path / "profiles" / "compute" / "host-cpu" / "tiny" / "fp16")
    lines = answer.err.splitlines()
    assert all(line.startswith("kvpred: ") for line in lines)
    assert "1/8 fp16 prefill 1 x 64, about" in lines[0]
    assert "8/8 h2o " in lines[7]


def test_people_get_a_table_and_spreadsheets_csv(profiled: Cli) -> None:
    table = profiled()
    assert table.code == 0
    assert "fp16" in table.out and "decode_speedup" in table.out
    (row,) = profiled(("--format", "csv")).rows
    assert (row["method"], row["points"], row["status"]) == ("fp16", str(N_SITES), "finished")


def test_a_repeated_call_measures_nothing_again(profiled: Cli, tmp_path: Path) -> None:
    profiled()
    journal = (tmp_path / "profiles" / FILE).read_bytes()
    assert profiled().code == 0
    assert (tmp_path / "profiles" / FILE).read_bytes() == journal


def test_no_resume_measures_again(profiled: Cli, tmp_path: Path) -> None:
    profiled()
    answer = profiled("--no-resume")
    assert answer.code == 0
    assert f"{N_SITES}/{N_SITES} fp16" in answer.err


def test_dry_run_lists_the_points_and_writes_nothing(profiled: Cli, tmp_path: Path) -> None:
    answer = profiled("--dry-run", ("--method", "kivi"), ("--format", "json"))
    assert answer.code == 0
    assert len(answer.objects) == 2 * N_SITES
    for point in answer.objects:
        assert point["fits"] is True and point["done"] is False
        assert point["memory_bytes"] > 0 and point["expected_s"] > 0
    assert answer.err.startswith(f"kvpred: {2 * N_SITES} of {2 * N_SITES} points left, about ")
    assert not (tmp_path / "profiles").exists()


def test_dry_run_tells_what_is_done(profiled: Cli) -> None:
    profiled()
    answer = profiled("--dry-run", ("--method", "h2o"))
    assert answer.code == 0
    assert f"{N_SITES} of {2 * N_SITES} points left" in answer.err


def test_a_budget_without_room_for_a_point_says_so(profiled: Cli) -> None:
    answer = profiled(("--budget", "0.000001s"))
    assert answer.code == 0
    assert "nothing timed: no point fits" in answer.err


@pytest.mark.parametrize(
    ("options", "code", "names"),
    [
        ([("--method", "kivy")], 2, ["'kivy'", "Did you mean kivi?"]),
        ([("--method", "kivi:bits=3")], 2, ["bits=3", "2, 4, 8"]),
        ([("--method", "kivi:bit=2")], 2, ["'bit'", "bits, group_size, residual_length"]),
        ([("--method", "kivi:group_size=48")], 2, ["residual_length=128", "group_size (48)"]),
        ([("--method", "snapkv:budget=8")], 2, ["window=32", "from 1 to 7 (below budget)"]),
        ([("--method", "")], 2, ["no method"]),
        ([("--model", "smolm2-135m")], 2, ["Did you mean smollm2-135m?"]),
        ([("--model", "mistral-7b-v0.1")], 2, ["mistral-7b-v0.1", "window of 4,096 tokens"]),
        ([("--device", "cuda:99")], 2, ["'cuda:99'", "--device cpu works everywhere"]),
        ([("--device", "a6000")], 2, ["'a6000'", "cpu, cuda or cuda:0"]),
        ([("--grid", "smok")], 2, ["'smok'", "smoke, default, full or a TOML file"]),
        ([("--grid", "nowhere.toml")], 3, ["nowhere.toml", "no such file"]),
        ([("--budget", "soon")], 2, ["'soon'", "90s, 10m or 2h"]),
        ([("--budget", "0m")], 2, ["'0m'", "90s, 10m or 2h"]),
        ([("--budget", "-5m")], 2, ["'-5m'", "90s, 10m or 2h"]),
        ([("--budget", "")], 2, ["''", "90s, 10m or 2h"]),
        ([("--layers", 9)], 2, ["layers=9", "from 1 to 3"]),
        ([("--dtype", "int4")], 2, ["'int4'", "bfloat16, float16, float32"]),
        ([("--weights", "nowhere")], 2, ["nowhere", "no such file or folder"]),
        ([("--seed", -1)], 2, ["--seed"]),
    ],
)
def test_a_senseless_request_is_refused_in_one_line(
    profiled: Cli, tmp_path: Path, options: list[tuple[str, object]], code: int, names: list[str]
) -> None:
    answer = profiled(*options)
    assert (answer.code, answer.out) == (code, ""), answer.err
    assert answer.err.startswith("kvpred: ") and answer.err.count("\n") == 1
    assert "defect of kvpred" not in answer.err
    assert [name for name in names if name not in answer.err] == [], answer.err
    assert not (tmp_path / "profiles").exists()


def test_a_bad_grid_file_is_refused_with_field_and_value(profiled: Cli, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[decode]\nbsz = ['two']\nlength = [64]\n")
    answer = profiled(("--grid", path))
    assert (answer.code, answer.out) == (3, "")
    assert [name for name in (str(path), "'decode.bsz.0'", "'two'") if name not in answer.err] == []


def test_a_group_that_does_not_divide_the_heads_is_refused(profiled: Cli, tmp_path: Path) -> None:
    model = write_model(tmp_path / "narrow", head_dim=48)
    answer = profiled(("--method", "kivi"), ("--model", model))
    assert (answer.code, answer.out) == (2, "")
    assert "group_size=32" in answer.err


def test_a_changed_grid_is_refused_with_the_difference(profiled: Cli, tmp_path: Path) -> None:
    profiled()
    write_grid(tmp_path).write_text("repeats = 3\n[decode]\nbsz = [1]\nlength = [32]\n")
    answer = profiled()
    assert (answer.code, answer.out) == (2, "")
    assert "grid.repeats was 2, now 3" in answer.err and "--no-resume" in answer.err


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_a_place_that_cannot_be_written_to_is_a_usage_error(
    profiled: Cli, tmp_path: Path, output: str
) -> None:
    (tmp_path / "file").touch()
    answer = profiled(("--output", tmp_path / output))
    assert (answer.code, answer.out) == (2, "")
    assert f"cannot write {tmp_path / output}" in answer.err


def test_without_torch_the_extra_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from kvpred.cli import run; sys.exit(run(sys.argv[1:]))"
    request = ("profile", "--method", "h2o", "--output", str(tmp_path / "profiles"))
    done = subprocess.run([sys.executable, "-c", code, *request], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "kvpred: torch is not installed: pip install 'kvpred[profile]' brings it.\n"


@pytest.mark.slow
def test_from_a_sweep_to_a_prediction(cli: Cli, tmp_path: Path) -> None:
    """The way through the documentation, on two layers of a real model's shape."""
    grid, profiles, bundle = tmp_path / "small.toml", tmp_path / "profiles", tmp_path / "bundle"
    grid.write_text(SMALL)
    stack = ("--layers", 2, "--dtype", "float32")
    measured = cli("profile", "--method", "h2o", "--grid", grid, *stack, "--output", profiles)
    assert measured.code == 0, measured.err
    assert len(find_profiles(profiles)) == 2

    learnt = cli("train", "--profile", profiles, "--output", bundle)
    assert learnt.code == 0, learnt.err
    asked = ("--predictor", bundle, "--model", "smollm2-135m", "--device", "host-cpu", "--method", "fp16,h2o")
    answer = cli(
        "predict", *asked, "--engine", "transformers", "--bsz", 2, "--prompt-len", 128, "--output-len", 16,
        "--format", "json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    for row in answer.objects:
        assert 0 < row["decode_step_time_s"] < row["e2e_latency_s"]
        assert row["kv_cache_bytes"] > 0
    manifest = json.loads((profiles / "compute/host-cpu/smollm2-135m/fp16/manifest.json").read_text())
    assert (manifest["n_layers"], manifest["status"]) == (2, "finished")

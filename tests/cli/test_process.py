"""The command line as a process: the installed script, pipes that close, full disks, and Ctrl-C."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kvpred.cli.know import BROWSERS

MODULE = (sys.executable, "-m", "kvpred")
SCRIPT = Path(sys.executable).with_name("kvpred")
REQUEST = ("predict", "--bsz", "1", "--prompt-len", "512", "--format", "json")


@pytest.mark.parametrize("program", [MODULE, (str(SCRIPT),)], ids=["module", "script"])
def test_both_ways_to_start_print_json_alone(program: tuple[str, ...]) -> None:
    done = subprocess.run([*program, *REQUEST], capture_output=True, encoding="utf-8", check=True)
    assert len(json.loads(done.stdout)) == 10
    assert done.stderr == ""


def test_an_error_becomes_the_exit_code() -> None:
    request = ("predict", "--bsz", "0", "--prompt-len", "512")
    done = subprocess.run([*MODULE, *request], check=False, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        b"",
        b"kvpred: bsz=0 must be between 1 and 100,000.\n",
    )


@pytest.mark.parametrize("place", [0, 1, len(REQUEST)])
def test_debug_shows_the_traceback_wherever_it_is_given(place: int) -> None:
    asked = [*MODULE, *REQUEST[:place], "--debug", *REQUEST[place:], "--tp", "3"]
    done = subprocess.run(asked, check=False, capture_output=True, encoding="utf-8")
    assert "Traceback" in done.stderr
    assert "UsageError: tp=3" in done.stderr


def test_a_reader_that_stops_early_is_no_traceback() -> None:
    with subprocess.Popen([*MODULE, *REQUEST], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_said_in_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*MODULE, "models"], check=False, stdout=full, stderr=subprocess.PIPE, encoding="utf-8"
        )
    assert done.returncode == 1
    assert done.stderr.startswith("kvpred: the system refused: ")
    assert done.stderr.count("\n") == 1


def test_names_that_the_terminal_cannot_show_are_escaped() -> None:
    done = subprocess.run(
        [*MODULE, *REQUEST, "--model", "modèle"],
        check=False,
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 2
    assert rb"mod\xe8le" in done.stderr


def _interrupted(arguments: list[str], *, when: Callable[[str], bool], place: Path) -> tuple[int, str, str]:
    """Run a command and press Ctrl-C once `when` says so of what it wrote to its log so far."""
    log, printed = place / "log", place / "printed"
    with log.open("w") as err, printed.open("w") as out:
        process = subprocess.Popen([*MODULE, *arguments], stdout=out, stderr=err)
        while process.poll() is None and not when(log.read_text()):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        code = process.wait()
    return code, printed.read_text(), log.read_text()


def test_interrupted_training_leaves_nothing(measured: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    code, out, err = _interrupted(
        ["train", "--runs", str(measured), "--output", str(place / "bundle")],
        when=lambda log: "fitting" in log,
        place=tmp_path,
    )
    assert (code, out) == (130, "")
    assert err.endswith("kvpred: interrupted\n")
    assert list(place.iterdir()) == []


def test_interrupted_training_leaves_the_old_bundle(measured: Path, trained: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "place" / "bundle"
    shutil.copytree(trained, bundle)
    code, _, _ = _interrupted(
        ["train", "--runs", str(measured), "--output", str(bundle)],
        when=lambda log: "fitting" in log,
        place=tmp_path,
    )
    assert code == 130
    assert list(bundle.parent.iterdir()) == [bundle]
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == {
        path.name: path.read_bytes() for path in trained.iterdir()
    }


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["judging", "writing"])
def test_an_interrupted_report_leaves_nothing(trained: Path, tmp_path: Path, phase: str) -> None:
    if phase == "writing" and not any(map(shutil.which, BROWSERS)):
        pytest.skip("without a browser there are no figures to draw, and writing takes no time")
    place = tmp_path / "place"
    place.mkdir()
    code, out, err = _interrupted(
        ["validate", "--predictor", str(trained), "--report", str(place / "report")],
        when=lambda log: "few sites" in log if phase == "judging" else any(place.iterdir()),
        place=tmp_path,
    )
    assert (code, out) == (130, "")
    assert err.endswith("kvpred: interrupted\n")
    assert list(place.iterdir()) == []

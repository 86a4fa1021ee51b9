"""A few kills of the benchmark that kills measurements again and again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(("what", "kills"), [("profile", 3), ("measure", 2)])
def test_a_killed_measurement_loses_no_finished_point_and_no_file(root: Path, what: str, kills: int) -> None:
    script = root / "benchmarks" / "kill_resume.py"
    done = subprocess.run(
        [sys.executable, script, "--kills", str(kills), "--what", what],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == kills
    assert found["points"] == 4 * kills * found["sweeps"]
    trouble = ("points_lost", "points_twice", "corrupt_files", "unfinished_tables", "drafts_left")
    assert {name: found[name] for name in trouble} == dict.fromkeys(trouble, 0)
    assert found["points_redone"] <= found["kills"]

"""The project's own files agree: what is installed, how, and what the container does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import kvpred
from kvpred.cli.know import EXTRAS
from kvpred.predictors.scaling import TRANSFER_LOG_ERROR

ROOT = Path(__file__).parents[1]
NAME = re.compile(r"^[A-Za-z0-9._-]+")
CORE = {"numpy", "typer", "rich", "pydantic"}


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _names(requirements: list[str]) -> set[str]:
    return {match[0].lower() for item in requirements if (match := NAME.match(item))} - {"kvpred"}


def _pins() -> dict[str, str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return dict(line.split("==") for line in lines if line)


def test_the_core_needs_four_packages(project: dict[str, list[str]]) -> None:
    assert _names(project["dependencies"]) == CORE


def test_every_direct_dependency_is_pinned(project: dict[str, dict[str, list[str]]]) -> None:
    extras = [name for items in project["optional-dependencies"].values() for name in _names(items)]
    alone = " ".join(re.findall(r"--no-deps (.+)", (ROOT / "Makefile").read_text())).split()
    assert {*CORE, *extras, *alone} == set(_pins())


def test_all_names_every_extra_but_dev(project: dict[str, dict[str, list[str]]]) -> None:
    extras = project["optional-dependencies"]
    assert extras["all"] == [f"kvpred[{','.join(name for name in extras if name not in ('dev', 'all'))}]"]


def test_doctor_looks_for_every_extra(project: dict[str, dict[str, list[str]]]) -> None:
    extras = project["optional-dependencies"]
    assert list(EXTRAS) == [name for name in extras if name not in ("dev", "all")]
    assert {name: len(packages) for name, packages in EXTRAS.items()} == {
        name: len(extras[name]) for name in EXTRAS
    }


def test_the_container_is_built_by_the_makefiles_steps() -> None:
    steps = subprocess.run(
        ["make", "--dry-run", "--always-make", ".venv/.core"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout.splitlines()
    commands = [line for line in steps if line.startswith(("python3", ".venv"))]
    assert len(commands) == 2
    joined = re.sub(r"\s*\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    assert f"RUN {' && '.join(commands)}\n" in joined


def test_the_container_takes_what_the_ignore_file_lets_through() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = re.findall(r"^COPY --chown=\d+ (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert {name for names in copied for name in names.split()} == allowed


def test_the_newest_entry_of_the_changelog_is_this_version() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == kvpred.__version__


def test_the_licence_is_apache(project: dict[str, str]) -> None:
    assert project["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()


def test_predicting_loads_nothing_beyond_the_core() -> None:
    program = (
        "import sys, kvpred; from kvpred.cli import run; "
        "run(['predict', '--bsz', '1', '--prompt-len', '64', '--format', 'json']); "
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True
    )
    heavy = {"pandas", "sklearn", "lightgbm", "scipy", "plotly", "torch", "transformers"}
    assert heavy & set(loaded.stderr.split()) == set()


def test_the_stated_transfer_error_is_what_the_benchmark_finds(shared_data: Path, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    profiles = shared_data / "vidur" / "compute"
    script = ROOT / "benchmarks" / "transfer_error.py"
    command = [sys.executable, script, "--profiles", profiles, "--json", found]
    printed = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
    assert round(json.loads(found.read_text())["quantile"], 2) == TRANSFER_LOG_ERROR
    shown = next(line for line in printed.splitlines() if "absolute errors" in line)
    assert shown in (ROOT / "docs" / "how-prediction-works.md").read_text()

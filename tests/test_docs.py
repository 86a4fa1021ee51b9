"""The documentation says what the package does: nothing in it drifts, every example runs as printed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer.main

from kvpred.cli import whole_app
from kvpred.data.profiles import SCHEMAS, time_column
from kvpred.predictors import bundle
from kvpred.predictors.predictor import Predictor

ROOT = Path(__file__).parents[1]
COMMANDS = typer.main.get_command(whole_app()).commands  # type: ignore[attr-defined]
EXAMPLE = re.compile(r"^\s*Example: (kvpred .+)$", re.MULTILINE)
ALONE = re.compile(r"\bmark\.alone\b")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = _load(ROOT / "docs" / "generate.py")
PAGES = {page.name: page for page in generate.PAGES}


def _profile_table(name: str) -> str:
    """Return a profile's CSV with two prefill and two decode rows."""
    schema = SCHEMAS[name]
    lines = [",".join(schema.required)]
    for tokens, prefill in ((64, True), (128, True), (1, False), (2, False)):
        row = dict.fromkeys(schema.integers, 32) | dict.fromkeys(schema.booleans, True)
        row |= dict.fromkeys(schema.texts, "sdpa")
        row |= {time_column(operator): 0.1 * tokens for operator in schema.operators}
        row |= {"num_tensor_parallel_workers": 1, "num_tokens": tokens, "is_prefill": prefill}
        row |= {"batch_size": tokens, "prefill_chunk_size": tokens * prefill}
        lines.append(",".join(str(row[column]) for column in schema.required))
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, packaged: Predictor) -> Path:
    """Return a folder with the files that the commands' examples speak of."""
    folder = tmp_path_factory.mktemp("workspace")
    blocks = [
        block
        for name in ("tutorial.md", "adding-a-model.md")
        for block in generate.blocks(PAGES[name].read_text())
    ]
    bodies = {block["file"]: block["body"] for block in blocks if block["file"]}
    (folder / "runs.csv").write_text(bodies["runs.csv"])
    (folder / "config.json").write_text(bodies["qwen2.5-7b/config.json"])
    bundle.save(packaged, folder / "my-bundle")
    said = [{"from": "human", "value": "What floats?"}, {"from": "gpt", "value": "Wood, cork and ice."}]
    found = [{"id": f"Talk{number:03}_0", "conversations": said} for number in range(60)]
    (folder / "conversations.json").write_text(json.dumps(found))
    (folder / "data").mkdir()
    (folder / "data" / "measured").symlink_to(ROOT / "data" / "measured")
    for profile in (
        "profiles/compute/a100/meta-llama/Llama-2-7b-hf",
        "my-profiles/compute/a100/llama-2-7b/fp16",
    ):
        (folder / profile).mkdir(parents=True)
        for name in SCHEMAS:
            (folder / profile / f"{name}.csv").write_text(_profile_table(name))
    return folder


def test_command_reference_is_what_help_prints() -> None:
    assert generate.REFERENCE.read_text() == generate.reference(), "docs/cli.md drifted: run `make docs`"


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_page_shows_what_its_commands_print(name: str) -> None:
    text = PAGES[name].read_text()
    assert text == generate.refreshed(text), f"{name} drifted: run `make docs`"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_that_runs(command: str, workspace: Path) -> None:
    example = EXAMPLE.search(COMMANDS[command].callback.__doc__)
    assert example is not None
    assert f"kvpred {command} " in f"{example[1]} "
    generate.shell(example[1], workspace)


@pytest.mark.parametrize("name", [*PAGES, "cli.md"])
def test_links_lead_to_files(name: str) -> None:
    page = PAGES.get(name, generate.REFERENCE)
    assert [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()] == []


def _make_lines() -> list[str]:
    readme = generate.blocks(PAGES["README.md"].read_text())
    return [line for block in readme if block["language"] == "sh" for line in block["body"].splitlines()]


def test_readme_names_the_two_commands() -> None:
    assert [line.partition("#")[0].strip() for line in _make_lines()] == ["make run", "make test"]


def _make(*arguments: str) -> str:
    """Run make as from a shell of its own, in this very environment."""
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    done = subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in outer},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return done.stdout


@pytest.mark.skipif(
    Path(sys.prefix) != ROOT / ".venv" or not (ROOT / ".venv" / ".core").exists(),
    reason="not in the environment that make sets up",
)
def test_make_run_prints_the_readmes_table() -> None:
    (table,) = (
        block["body"]
        for block in generate.blocks(PAGES["README.md"].read_text())
        if block["body"].startswith("$ kvpred predict --bsz 32 --prompt-len 2048\n")
    )
    printed = "\n".join(line.rstrip() for line in _make("run").splitlines())
    assert table.partition("\n")[2].strip("\n") in printed


def test_make_test_runs_every_test_once() -> None:
    calls = [line for line in _make("--dry-run", "test").splitlines() if line.startswith(".venv/bin/pytest ")]
    beside, alone = (shlex.split(call) for call in calls)
    assert beside[1:4] == ["-m", "not alone", "--numprocesses"]
    assert alone[1:3] == ["-m", "alone"]
    folders = {word for word in alone if word.startswith("tests/")}
    files = {path for path in (ROOT / "tests").rglob("*.py") if ALONE.search(path.read_text())}
    assert {str(path.parent.relative_to(ROOT)) for path in files} == folders

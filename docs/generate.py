"""Write docs/cli.md from every command's --help, and the outputs shown in README.md and docs/*.md anew.

A page is a small workspace: a fenced block that names a file after its language (``toml my-gpu.toml``) is
written to a folder of the page's own, beside ``data/measured``, and each line of a ``console`` block
that begins with ``$`` is run there; what it prints replaces the lines below it. A page that adds files to the
package (``kvpred/...``) gets a copy of it in that folder. The tests fail where this would change a page.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import typer.main

from kvpred.cli import whole_app
from kvpred.cli.app import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "cli.md"
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md") if path != REFERENCE)]
PANELS = ("Start", "Predict", "Measure", "Learn", "Judge", "Know", "Lengths", "Exchange")

_BLOCK = re.compile(r"^```(?P<language>\w+)(?: (?P<file>\S+))?\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_INTRODUCTION = """\
# Command line

Written by `make docs` from each command's `--help`. All commands take `--format table|json|csv`, print the
result on stdout and remarks on stderr, and exit with 0 (done), 2 (usage), 3 (bad input data), 4 (no basis for
an estimate), 5 (does not fit in memory, with `--strict`) or 1 (anything else).
"""


def shell(command: str, folder: Path) -> str:
    """Return what a command prints, in a folder, on a dumb terminal of 100 columns."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    terminal = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=terminal | {"PATH": path, "HOME": str(folder), "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"`{command}` exits with {done.returncode}:\n{done.stdout}")
    lines = "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip("\n")
    return f"{lines}\n" if lines else ""


def commands() -> list[str]:
    """Return every command's name, grouped as in ``kvpred --help``."""
    found = typer.main.get_command(whole_app()).commands  # type: ignore[attr-defined]
    # Not in the order in which this process happened to load their files.
    order = [name for names in COMMANDS.values() for name in names]
    names = sorted(found, key=lambda name: (PANELS.index(found[name].rich_help_panel), order.index(name)))
    return [full for name in names for full in (name, *(f"{name} {sub}" for sub in _within(found[name])))]


def _within(command: Any) -> Iterable[str]:
    """Return the names of a group's own commands; none of a plain command."""
    return getattr(command, "commands", {})


def reference() -> str:
    """Return the text of docs/cli.md."""
    names = ["", *commands()]
    with ThreadPoolExecutor() as pool:
        helps = pool.map(lambda name: shell(f"kvpred {name} --help", ROOT), names)
    sections = (
        f"## `{f'kvpred {name}'.strip()}`\n\n```text\n{text}```\n"
        for name, text in zip(names, helps, strict=True)
    )
    return "\n".join([_INTRODUCTION, *sections])


def blocks(text: str) -> Iterator[re.Match[str]]:
    """Return a page's fenced blocks, with groups ``language``, ``file`` and ``body``."""
    return _BLOCK.finditer(text)


def refreshed(text: str) -> str:
    """Return a page with the outputs that its commands print now."""
    with tempfile.TemporaryDirectory() as folder:
        measured = Path(folder) / "data" / "measured"
        measured.parent.mkdir()
        measured.symlink_to(ROOT / "data" / "measured")
        return _BLOCK.sub(lambda block: _refreshed_block(block, Path(folder)), text)


def _refreshed_block(block: re.Match[str], folder: Path) -> str:
    if block["file"]:
        _write(folder / block["file"], block["body"], folder)
    if block["language"] != "console":
        return block[0]
    lines = [line for line in block["body"].splitlines() if line.startswith("$ ")]
    return "```console\n" + "".join(f"{line}\n{shell(line[2:], folder)}" for line in lines) + "```"


def _write(path: Path, text: str, folder: Path) -> None:
    package = folder / "kvpred"
    if package in path.parents and not package.exists():
        shutil.copytree(ROOT / "kvpred", package, ignore=shutil.ignore_patterns("__pycache__"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Write what has changed."""
    REFERENCE.write_text(reference(), encoding="utf-8")
    for page in PAGES:
        page.write_text(refreshed(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

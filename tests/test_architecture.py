"""The house's rules that a machine can check: who imports whom, and what a prediction must not import."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HEAVY = ("pandas", "sklearn", "torch", "lightgbm", "scipy", "plotly", "transformers", "pydantic")


def test_imports_go_down_the_floors(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    linter = pytest.importorskip("importlinter.cli", reason="pip install 'kvpred[dev]' brings import-linter")
    status = linter.lint_imports(config_filename=str(root / "pyproject.toml"), cache_dir=str(tmp_path))
    assert status == 0, capsys.readouterr().out


def test_every_folder_has_a_floor(root: Path) -> None:
    config = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    layers = config["tool"]["importlinter"]["contracts"][0]["layers"]
    floors = {name.strip(" ()") for layer in layers for name in layer.split("|")}
    folders = {f"kvpred.{init.parent.name}" for init in (root / "kvpred").glob("*/__init__.py")}
    assert folders <= floors


@pytest.mark.parametrize(
    "code",
    [
        "import kvpred; kvpred.predict(method='kivi', bsz=4, prompt_len=2048)",
        "from kvpred.methods import list_methods; list_methods()",
    ],
)
def test_a_prediction_and_the_methods_on_paper_import_nothing_slow(code: str) -> None:
    assert _loaded(code) & set(HEAVY) == set()


def test_the_top_level_imports_not_even_numpy() -> None:
    assert "numpy" not in _loaded("import kvpred")


def test_the_caches_say_what_to_install_where_torch_is_missing(root: Path) -> None:
    # -S: the standard library and this folder alone.
    command = [sys.executable, "-S", "-c", "import kvpred.caches"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "kvpred.errors.MissingExtraError: torch is not installed: pip install 'kvpred[profile]' brings it."
    )


def test_nothing_that_runs_code_when_opened_is_imported(root: Path) -> None:
    unsafe = {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"}
    found = [
        f"{path.relative_to(root)}: {name}"
        for path in (root / "kvpred").rglob("*.py")
        for name in _imported(path)
        if name in unsafe
    ]
    assert found == []


def _loaded(code: str) -> set[str]:
    """Top-level packages that a program has loaded when it ends."""
    code += "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def _imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names

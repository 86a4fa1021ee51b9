"""``kvpred collect-lengths`` as a shell runs it, up to the first token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    said = [{"from": "human", "value": "What floats?"}, {"from": "gpt", "value": "Wood."}]
    path = tmp_path / "conversations.json"
    path.write_text(json.dumps([{"id": f"talk{n}_0", "conversations": said} for n in range(6)]))
    return path


def test_a_dry_run_lists_the_batches_and_writes_nothing(
    cli: Cli, conversations: Path, tmp_path: Path
) -> None:
    done = cli(
        "collect-lengths", "--prompts", conversations, "--method", "h2o,kivi:bits=2", "--bsz", 8,
        "--temperature", "0.9,1,1", "--output", tmp_path / "out", "--dry-run", "--format", "json",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = {(row["method"].partition(":")[0], row["temperature"]) for row in done.objects}
    assert found == {("fp16", 0.9), ("fp16", 1.0), ("h2o", 1.0), ("kivi", 1.0)}
    # Six prompts with two seeds each, in two batches of at most eight answers for each of the four.
    assert len(done.objects) == 8 and sum(row["answers"] for row in done.objects) == 48
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--method", "kivy", "kivy"),
        ("--temperature", "warm", "--temperature"),
        ("--shard", "3/2", "--shard"),
        ("--device", "cudda", "cudda"),
    ],
)
def test_a_senseless_option_is_refused(
    option: str, value: str, says: str, cli: Cli, conversations: Path, tmp_path: Path
) -> None:
    done = cli(
        "collect-lengths", "--prompts", conversations, option, value, "--output", tmp_path, "--dry-run"
    )
    assert done.code == 2
    assert says in done.err


def test_prompts_that_are_all_too_long_are_said_to_be(cli: Cli, conversations: Path, tmp_path: Path) -> None:
    done = cli("collect-lengths", "--prompts", conversations, "--max-chars", 3, "--output", tmp_path / "out")
    assert done.code == 3
    assert "no prompt is left" in done.err


def test_vllms_rule_draws_first_turns_and_says_what_it_leaves_out(cli: Cli, tmp_path: Path) -> None:
    said = [
        {"from": "human", "value": "Tell me, what floats?"},
        {"from": "gpt", "value": "Wood, cork and ice."},
    ]
    late = [{"from": "gpt", "value": "Wood."}, *said]
    path = tmp_path / "conversations.json"
    found = [{"id": f"Talk{n:03}_0", "conversations": late if n == 3 else said} for n in range(6)]
    path.write_text(json.dumps(found))
    done = cli(
        "collect-lengths", "--prompts", path, "--rule", "vllm", "--method", "fp16",
        "--output", tmp_path / "out", "--dry-run", "--format", "json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert sum(row["answers"] for row in done.objects) == 2 * 5
    assert "1 does not begin with the user" in done.err
    odd = cli("collect-lengths", "--prompts", path, "--rule", "all", "--output", tmp_path / "out")
    assert odd.code == 2

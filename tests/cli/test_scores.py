"""``kvpred collect-scores`` as a shell runs it: what it lists, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvpred.data.scores import read_score_runs
from tests.cli.conftest import Cli
from tests.tiny import write_model


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    common = {
        "context": "Karvik lies on the Ossa. " * 40,
        "length": 200,
        "language": "en",
        "all_classes": None,
    }
    records = [
        {"_id": f"q{n}", "dataset": dataset, "input": "Which river?", "answers": ["the Ossa"], **common}
        for dataset in ("hotpotqa", "qasper")
        for n in range(2)
    ]
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def collected(cli: Cli, samples: Path, tmp_path: Path) -> Cli:
    """Return a runner of ``kvpred collect-scores`` on the samples, into a folder of its own."""
    given = ["--samples", samples, "--output", tmp_path / "scores"]
    return lambda *more: cli("collect-scores", *given, *more)


def test_a_dry_run_lists_the_answers_and_makes_none(collected: Cli, tmp_path: Path) -> None:
    done = collected("--engine", "openvino", "--method", "h2o", "--dry-run", "--format", "json")

    assert done.code == 0, done.err
    # Two samples of each of two datasets, under fp16 and h2o.
    assert {(row["method"].partition(":")[0], row["dataset"]): row["answers"] for row in done.objects} == {
        ("fp16", "hotpotqa"): 2, ("h2o", "hotpotqa"): 2, ("fp16", "qasper"): 2, ("h2o", "qasper"): 2,
    }  # fmt: skip
    assert "8 answers left" in done.err
    assert not (tmp_path / "scores").exists()


def test_all_methods_are_those_of_the_engine(collected: Cli) -> None:
    done = collected(
        "--engine", "llamacpp", "--datasets", "qasper", "--limit", 1, "--dry-run", "--format", "csv"
    )

    assert done.code == 0, done.err
    assert [row["method"].partition(":")[0] for row in done.rows] == ["fp16", "kv-int8", "kv-int4"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--engine", "openvyno"), "openvyno"),
        (("--engine", "openvino", "--method", "kivi"), "openvino does not serve kivi"),
        (("--engine", "openvino", "--datasets", "hotpot"), "did you mean hotpotqa"),
        (("--engine", "openvino", "--datasets", "trec"), "has no samples of trec"),
        (("--engine", "openvino", "--chat", "hello"), "write {prompt} once"),
        (("--engine", "openvino", "--max-tokens", "128"), "leaves no room for a prompt"),
        (("--engine", "openvino", "--budget", "soon"), "--budget 'soon'"),
        (("--engine", "openvino", "--option", "threads"), "write KEY=VALUE"),
        (("--engine", "openai"), "name the model that the server serves"),
    ],
)
def test_a_senseless_option_is_refused(collected: Cli, options: tuple[str, ...], says: str) -> None:
    done = collected(*options, "--dry-run")
    assert done.code == 2, done.err
    assert says in done.err
    assert done.out == ""


def test_samples_that_are_none_are_refused(cli: Cli, samples: Path, tmp_path: Path) -> None:
    samples.write_text('{"dataset": "hotpotqa"}\n')
    done = cli("collect-scores", "--samples", samples, "--engine", "openvino", "--output", tmp_path / "out")
    assert done.code == 3
    assert "samples.jsonl, line 1" in done.err


def test_random_weights_are_refused(collected: Cli, tmp_path: Path) -> None:
    done = collected("--engine", "transformers", "--model", write_model(tmp_path))
    assert done.code == 2
    assert "random ones answer nonsense" in done.err


@pytest.mark.slow
def test_a_real_model_is_scored_and_gone_on_with(collected: Cli, smollm2: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino_genai")
    pytest.importorskip("transformers")
    asked = (
        "--engine", "openvino", "--method", "kv-int8", "--weights", smollm2, "--keep-answers",
        "--chat", r"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n",
        "--datasets", "hotpotqa", "--max-tokens", 200, "--format", "json",
    )  # fmt: skip

    done = collected(*asked, "--limit", 1)

    assert done.code == 0, done.err
    (row,) = done.objects
    assert (row["dataset"], row["samples"]) == ("hotpotqa", 1)
    assert 0 <= row["fp16"] <= 1
    # About six tokens a sentence, forty of them, and 200 tokens at most.
    assert "1 of 1 prompts were cut in the middle" in done.err

    more = collected(*asked)
    assert more.code == 0, more.err
    assert more.objects[0]["samples"] == 2
    runs = read_score_runs(tmp_path / "scores")
    assert {tuple(run.scores["hotpotqa"]) for run in runs.values()} == {("q0", "q1")}
    # Greedy answers to the same prompt are the same.
    text = (tmp_path / "scores" / "scores.jsonl").read_text()
    said = [json.loads(line) for line in text.splitlines()]
    answers = [line["answer"] for line in said if line.get("method") == "fp16"]
    assert answers[0] == answers[1] != ""

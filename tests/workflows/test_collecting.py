"""Collecting lengths: prompts drawn by name, every batch on disk before the next, the same when resumed."""

from __future__ import annotations

import json
from dataclasses import astuple, replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kvpred.data.conversations import Conversation, Message
from kvpred.data.journal import Progress
from kvpred.data.lengths import LengthRun, read_lengths
from kvpred.errors import DataError, UsageError
from kvpred.workflows.collecting import CollectRequest, batches, choose_prompts, collect, left_to_collect

WORDS = [f"w{number}" for number in range(60)]
CHAT = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def conversation(number: int) -> Conversation:
    texts = [" ".join(WORDS[(number * 7 + k) % 60] for k in range(3 + number % 5)) for _ in range(3)]
    roles = ("user", "assistant", "user")
    return Conversation(
        f"talk{number}_0",
        tuple(Message(r, t) for r, t in zip(roles, texts, strict=True)),  # type: ignore[arg-type]
    )


CONVERSATIONS = [conversation(number) for number in range(9)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers whose tokeniser knows sixty words and a chat template."""
    folder = tmp_path_factory.mktemp("chatty")
    vocabulary = {word: place for place, word in enumerate(["<end>", "user", "assistant", "?", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="?")
    fast.chat_template = CHAT
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=32, eos_token_id=0, bos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def request_(weights: Path) -> CollectRequest:
    return CollectRequest(
        prompts=choose_prompts(CONVERSATIONS, n_prompts=8, max_chars=1000),
        methods=["fp16", "kivi:bits=2,group_size=32,residual_length=32"],
        temperatures=(1.0, 0.9),
        cap=24,
        bsz=8,
        model=str(weights / "config.json"),
        weights=weights,
        dtype="float32",
        threads=1,
    )


def lengths(runs: list[LengthRun]) -> list[tuple[object, ...]]:
    return [astuple(replace(run, measured_at="")) for run in runs]


def test_every_prompt_is_answered_under_every_method_with_every_seed(
    request_: CollectRequest, tmp_path: Path
) -> None:
    runs = collect(request_, tmp_path)
    assert len(runs) == 8 * 2 * 3
    assert {(run.method, run.temperature) for run in runs} == {("fp16", 1.0), ("fp16", 0.9), ("kivi", 1.0)}
    assert {run.seed for run in runs} == {0, 1}
    assert all(run.output_tokens == 24 for run in runs if run.censored)
    assert any(run.censored for run in runs) and not all(run.censored for run in runs)
    assert {run.cache_ratio for run in runs if run.method == "fp16"} == {1.0}
    assert lengths(read_lengths(tmp_path)) == lengths(runs)
    assert json.loads((tmp_path / "manifest.json").read_text())["state"] == "finished"
    assert not left_to_collect(request_, tmp_path)


def test_nothing_that_was_said_is_written(request_: CollectRequest, tmp_path: Path) -> None:
    collect(request_, tmp_path)
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert not any(message.content in written for one in CONVERSATIONS for message in one.messages)


def test_an_interrupted_collection_goes_on_to_the_same_lengths(
    request_: CollectRequest, tmp_path: Path
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(request_, tmp_path / "torn", progress=interrupt)
    assert len(left_to_collect(request_, tmp_path / "torn")) == len(batches(request_)) - 2
    resumed = collect(request_, tmp_path / "torn")
    assert lengths(resumed) == lengths(collect(request_, tmp_path / "whole"))


def test_shards_together_are_the_whole(request_: CollectRequest) -> None:
    parts = [batch.key for k in (1, 2, 3) for batch in batches(replace(request_, shard=(k, 3)))]
    assert sorted(parts) == sorted(batch.key for batch in batches(request_))


def test_another_request_is_refused(request_: CollectRequest, tmp_path: Path) -> None:
    collect(request_, tmp_path)
    with pytest.raises(UsageError, match="cap was 24, now 30"):
        collect(replace(request_, cap=30), tmp_path)
    other = choose_prompts(CONVERSATIONS, n_prompts=8, max_chars=1000, seed=1)
    with pytest.raises(UsageError, match="prompts_sha256"):
        collect(replace(request_, prompts=other), tmp_path)


def test_prompts_are_drawn_one_of_each_conversation_and_by_name_alone() -> None:
    drawn = choose_prompts(CONVERSATIONS, n_prompts=6, max_chars=1000)
    assert drawn == choose_prompts(CONVERSATIONS[::-1], n_prompts=6, max_chars=1000)
    assert len({asked.id.partition("_")[0] for asked in drawn}) == 6
    assert all(asked.messages[-1].role == "user" for asked in drawn)


def test_long_prompts_are_left_out(request_: CollectRequest, tmp_path: Path) -> None:
    assert not choose_prompts(CONVERSATIONS, n_prompts=6, max_chars=3)
    with pytest.raises(DataError, match="no prompt"):
        collect(replace(request_, prompts=[]), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperatures": (0.0,)}, "temperature 0"),
        ({"cap": 0}, "cap=0"),
        ({"methods": ["kivy"]}, "kivy"),
        ({"shard": (3, 2)}, "shard 3/2"),
        ({"dtype": "int3"}, "int3"),
        ({"cap": 10_000_000}, "context"),
    ],
)
def test_senseless_requests_are_refused(
    change: dict[str, object], message: str, request_: CollectRequest, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        collect(replace(request_, **change), tmp_path)  # type: ignore[arg-type]

"""Prompts of samples: the middle left out to the token, the chat around them, and what cannot be done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from kvpred.data.longbench import Sample
from kvpred.errors import DataError, UsageError
from kvpred.workflows.prompting import OWN, build_prompt, check_chat, get_cutter, remark_on

WORDS = [f"w{n}" for n in range(100)]
TEMPLATE = "{context} {input}"
CHAT = "user {prompt} assistant"


def write_tokenizer(folder: Path, *, first: bool = False) -> Path:
    """Write a tokeniser of words, which puts a token before every text if asked to."""
    vocabulary = {word: place for place, word in enumerate(["?", "<s>", "user", "assistant", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    if first:
        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def sample(n_words: int, dataset: str = "hotpotqa") -> Sample:
    return Sample("0", dataset, "w98 w99", " ".join(WORDS[:n_words]), ("w1",), (), n_words)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("words"))


def test_a_prompt_that_fits_is_left_as_it_is(file: Path) -> None:
    built = build_prompt(sample(8), template=TEMPLATE, cutter=get_cutter(str(file), None), limit=10)
    assert built.text == "w0 w1 w2 w3 w4 w5 w6 w7 w98 w99"
    assert (built.tokens, built.truncated) == (10, False)


def test_the_middle_of_a_longer_one_is_left_out(file: Path) -> None:
    built = build_prompt(sample(9), template=TEMPLATE, cutter=get_cutter(str(file), None), limit=10)
    # Eleven words, limit ten: five from each end. Both halves are decoded for themselves, so that the words
    # at the seam, w4 and w6, become one that the tokeniser does not know: nine tokens.
    assert built.text == "w0 w1 w2 w3 w4w6 w7 w8 w98 w99"
    assert (built.tokens, built.truncated) == (9, True)


def test_the_chat_and_the_tokens_of_every_text_take_of_the_limit(tmp_path: Path) -> None:
    cutter = get_cutter(str(write_tokenizer(tmp_path, first=True)), None)
    built = build_prompt(sample(20), template=TEMPLATE, cutter=cutter, limit=11, chat=CHAT)
    # Eleven less <s>, user and assistant: four words from each end, of which two join at the seam.
    assert built.text == "user w0 w1 w2 w3w18 w19 w98 w99 assistant"
    assert built.tokens == 3 + 7


def test_datasets_that_are_not_asked_in_a_chat_stand_alone(file: Path) -> None:
    cutter = get_cutter(str(file), None)
    alone = build_prompt(sample(4, "triviaqa"), template=TEMPLATE, cutter=cutter, limit=50, chat=CHAT)
    assert alone.text == "w0 w1 w2 w3 w98 w99"
    chatted = build_prompt(sample(4), template=TEMPLATE, cutter=cutter, limit=50, chat=CHAT)
    assert chatted.text == f"user {alone.text} assistant"


@given(n_words=st.integers(1, 90), limit=st.integers(24, 120), name=st.sampled_from(["words", "estimated"]))
def test_no_prompt_is_longer_than_its_limit(file: Path, n_words: int, limit: int, name: str) -> None:
    cutter = get_cutter(str(file) if name == "words" else name, None)
    built = build_prompt(sample(n_words), template=TEMPLATE, cutter=cutter, limit=limit, chat=CHAT)
    assert built.tokens == cutter.count(built.text) <= limit * cutter.share
    assert built.text.startswith("user w") and built.text.endswith(" assistant")


def test_an_estimate_cuts_between_characters_and_says_so() -> None:
    cutter = get_cutter("estimated", None)
    text = " ".join(WORDS)
    cut = cutter.cut(text, cutter.count(text) // 2)
    half = len(cut) // 2
    assert text.startswith(cut[:half]) and text.endswith(cut[half:])
    assert len(cut) == pytest.approx(len(text) / 2, abs=4)
    assert "estimated" in (remark_on("estimated") or "")


def test_tokenizers_that_cut_between_tokens_need_no_remark(file: Path) -> None:
    assert remark_on(OWN) is None
    assert remark_on(str(file)) is None


def test_the_weights_own_tokenizer_is_found_beside_them(file: Path) -> None:
    assert get_cutter(OWN, file.parent).count("w1 w2 w3") == 3


@pytest.mark.slow
def test_a_gguf_files_tokenizer_counts_control_words_as_one(smollm2: Path) -> None:
    pytest.importorskip("transformers")
    cutter = get_cutter(OWN, smollm2)
    assert cutter.count("<|im_start|>user\n<|im_end|>") == 4
    text = "The ferry runs until the ice comes, and a ride costs 12 coins — or an egg. " * 9
    assert cutter.cut(text, cutter.count(text)) == text


def test_what_cannot_be_done_is_said(tmp_path: Path, file: Path) -> None:
    with pytest.raises(UsageError, match="lies with its weights, and there are none"):
        get_cutter(OWN, None)
    with pytest.raises(UsageError, match="neither known"):
        get_cutter("llama-9", None)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"no": "tokeniser"}))
    with pytest.raises(DataError, match="not a tokeniser"):
        get_cutter(OWN, tmp_path)
    with pytest.raises(UsageError, match="leave too little room"):
        build_prompt(sample(9), template=TEMPLATE, cutter=get_cutter(str(file), None), limit=3, chat=CHAT)


@pytest.mark.parametrize("text", ["", "user: ", "{prompt} {prompt}"])
def test_a_chat_needs_one_place_for_the_prompt(text: str) -> None:
    with pytest.raises(UsageError, match=r"write \{prompt\} once"):
        check_chat(text)

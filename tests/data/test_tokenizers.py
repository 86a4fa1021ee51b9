"""Tokens are counted as the real tokenisers do, or estimated close to them; what is missing is named."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.data.tokenizers import estimate_tokens, get_counter
from kvpred.errors import DataError, MissingExtraError, UsageError

WORDS = {
    "version": "1.0",
    "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"tea": 0, "is": 1, "hot": 2, "?": 3}, "unk_token": "?"},
}


def need(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


def test_estimates_need_nothing_installed() -> None:
    count = get_counter("estimated")
    assert (count.name, count(""), count("How long will the answer be?")) == ("estimated", 0, 7)


@given(texts=st.tuples(st.text(), st.text()))
def test_estimates_grow_with_the_text_and_are_never_negative(texts: tuple[str, str]) -> None:
    head, tail = texts
    # The seam may join two words to one, or a sign to a sign.
    assert estimate_tokens(head + "\n" + tail) >= max(0.0, estimate_tokens(head)) - 1e-9


@pytest.mark.parametrize("folder", [True, False])
def test_a_tokenizer_file_or_its_folder_counts_whole_texts(tmp_path: Path, folder: bool) -> None:
    need("tokenizers")
    (tmp_path / "tokenizer.json").write_text(json.dumps(WORDS))
    count = get_counter(str(tmp_path if folder else tmp_path / "tokenizer.json"))
    # The file says that texts are truncated to two tokens.
    assert count("tea is hot tea ?") == 5


@pytest.mark.parametrize("content", [b"", b"{}", b"{", b"\xff\x00", json.dumps(WORDS).encode()[:-30]])
def test_a_damaged_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    need("tokenizers")
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer\.json.*not a tokeniser"):
        get_counter(str(tmp_path))


@pytest.mark.parametrize("name", ["missing/folder", ".", "llama-4", "x" * 5000])
def test_an_unknown_name_is_refused_with_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="llama-3"):
        get_counter(name)


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    (tmp_path / "tokenizer.json").write_text(json.dumps(WORDS))
    with pytest.raises(MissingExtraError, match=r"tokenizers is not installed.*kvpred\[length\]"):
        get_counter(str(tmp_path))


def test_a_missing_package_is_named_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_models", None)
    with pytest.raises(UsageError, match="pip install --no-deps llama-models"):
        get_counter("llama-3")


@pytest.mark.parametrize(
    ("name", "modules", "tokens"),
    [
        # Counted by hand from the pieces: How| long| will| the| answer| be|?, with Llama-2's and Mistral's
        # leading space as part of the first word.
        ("llama-3", ("llama_models", "tiktoken"), 7),
        ("llama-2", ("wordllama", "tokenizers"), 7),
        ("mistral", ("mistral_common", "sentencepiece"), 7),
    ],
)
def test_tokenizers_of_installed_packages_count(name: str, modules: tuple[str, ...], tokens: int) -> None:
    need(*modules)
    count = get_counter(name)
    assert (count.name, count("How long will the answer be?"), count("")) == (name, tokens, 0)
    # Marks of chat templates in a text are text.
    assert count("<|eot_id|></s>") > 2


def pairs(shared_data: Path) -> list[tuple[str, int]]:
    """The texts of the ShareGPT sample with their published Llama-3 counts."""
    rows = [json.loads(row) for row in (shared_data / "sharegpt/pairs.jsonl").read_text().split("\n") if row]
    return [(row[side], row[f"{side}_tokens"]) for row in rows for side in ("prompt", "response")]


def test_llama_3_counts_the_sharegpt_sample_exactly(shared_data: Path) -> None:
    need("llama_models", "tiktoken")
    count = get_counter("llama-3")
    texts = pairs(shared_data)
    assert [count(text) for text, _ in texts] == [tokens for _, tokens in texts]


def test_estimates_are_close_on_the_sharegpt_sample(shared_data: Path) -> None:
    texts = pairs(shared_data)
    estimates = [estimate_tokens(text) for text, _ in texts]
    assert sum(estimates) == pytest.approx(sum(tokens for _, tokens in texts), rel=0.01)
    errors = [abs(e - t) / t for e, (_, t) in zip(estimates, texts, strict=True) if t > 30]
    assert sum(errors) / len(errors) < 0.05


@pytest.mark.parametrize("name", ["estimated", "llama-3", "llama-2", "mistral"])
def test_a_megabyte_of_anything_and_half_a_character_are_counted(name: str) -> None:
    try:
        count = get_counter(name)
    except (UsageError, MissingExtraError) as error:
        pytest.skip(str(error))
    for text in (" " * 1_000_000, "salt and tides " * 66_000, "\ud800"):
        assert count(text) >= 1

"""From a sample to an engine's prompt: template, chat, and the middle left out where it is too long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from kvpred.data.files import is_folder
from kvpred.data.longbench import Sample, fill, get_dataset, truncated_middle
from kvpred.data.tokenizers import ESTIMATED, EXTRA, TokenCounter, get_counter
from kvpred.errors import DataError, MissingExtraError, UsageError
from kvpred.models.weights import load_tokenizer

OWN = "own"
PLACE = "{prompt}"
# Part of a limit that prompts may fill by an estimated count, which is mostly right within a tenth.
_ESTIMATED_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class TokenCutter:
    """Count a text's tokens, and leave out its middle.

    Parameters
    ----------
    count : callable
        Returns the tokens of a text, with those that the tokeniser adds to any.
    cut : callable
        Takes a text and a number of tokens; returns its beginning and end, which have about so many.
    share : float
        Part of a limit that prompts may fill: below 1 where counts are estimated.
    """

    count: Callable[[str], int]
    cut: Callable[[str, int], str]
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class BuiltPrompt:
    """A sample's prompt.

    Parameters
    ----------
    text : str
    tokens : int
        Of the text as it stands, counted after its middle was left out.
    truncated : bool
    """

    text: str
    tokens: int
    truncated: bool


def get_cutter(name: str, weights: Path | None) -> TokenCutter:
    """Return what counts and cuts prompts.

    Parameters
    ----------
    name : str
        ``own`` for the weights' tokeniser, else as in `kvpred.data.tokenizers.get_counter`. Only ``own`` and
        files cut between tokens; the others cut between characters.
    weights : Path or None
        Folder or GGUF file of the model.

    Raises
    ------
    UsageError
        If the name is unknown, or ``own`` has no weights to look into.
    DataError
        If the file is no tokeniser, or the weights have none.
    MissingExtraError
        If the library that reads it is not installed.
    """
    if name != OWN:
        counter = get_counter(name)
        file = _json_of(Path(name))
        return _between_tokens(_read(file)) if file else _between_characters(counter)
    if weights is None:
        raise UsageError(
            "the model's own tokenizer lies with its weights, and there are none here: give --weights, or "
            "name the tokenizer with --tokenizer."
        )
    if file := _json_of(weights):
        return _between_tokens(_read(file))
    own = getattr(load_tokenizer(weights), "backend_tokenizer", None)
    if own is None:
        raise DataError("its tokenizer cannot be read apart: name one with --tokenizer.", path=weights)
    return _between_tokens(own)


def remark_on(name: str) -> str | None:
    """Return what a reader of scores must know of a tokeniser; None if nothing."""
    if name == ESTIMATED:
        return (
            f"tokens were estimated from the text: prompts fill at most {_ESTIMATED_SHARE:.0%} of their "
            "limit, and were cut between characters"
        )
    if name == OWN or _json_of(Path(name)):
        return None
    return f"prompts were counted by the tokenizer {name} and cut between characters"


def check_chat(text: str) -> None:
    """Refuse a chat text without exactly one place for the prompt.

    Raises
    ------
    UsageError
        If it has none, or several.
    """
    if text.count(PLACE) != 1:
        raise UsageError(f"--chat {text!r}: write {PLACE} once, where the prompt is to stand.")


def build_prompt(
    sample: Sample, *, template: str, cutter: TokenCutter, limit: int, chat: str | None = None
) -> BuiltPrompt:
    """Return a sample's prompt, without its middle if it is too long.

    As in LongBench, the text in its template is cut, then put into the chat: both halves are decoded and
    joined. What that makes is counted again, and cut further if it has become longer.

    Parameters
    ----------
    sample : Sample
    template : str
        With ``{context}`` and ``{input}``.
    cutter : TokenCutter
    limit : int
        Most tokens of the prompt, the chat's included.
    chat : str, optional
        Text around the prompt, with ``{prompt}``; only for datasets that are asked in a chat.

    Raises
    ------
    UsageError
        If the chat leaves no room.

    Examples
    --------
    >>> words = TokenCutter(lambda text: len(text.split()), lambda text, n: " ".join(text.split()[:n]))
    >>> sample = Sample("0", "hotpotqa", "And?", "One two three four.", ("Five.",), (), 4)
    >>> build_prompt(sample, template="{context} {input}", cutter=words, limit=3)
    BuiltPrompt(text='One two three', tokens=3, truncated=True)
    """
    around = chat if chat is not None and get_dataset(sample.dataset).chat else PLACE
    before, _, after = around.partition(PLACE)
    asked, limit = fill(template, sample), int(limit * cutter.share)
    prompt = f"{before}{asked}{after}"
    tokens = cutter.count(prompt)
    if tokens <= limit:
        return BuiltPrompt(prompt, tokens, truncated=False)
    room = limit - cutter.count(before + after)
    while room > 1:
        prompt = f"{before}{cutter.cut(asked, room)}{after}"
        tokens = cutter.count(prompt)
        if tokens <= limit:
            return BuiltPrompt(prompt, tokens, truncated=True)
        room -= tokens - limit
    raise UsageError(
        f"the {limit:,} tokens of a prompt of {sample.dataset} leave too little room beside the chat: allow "
        "more with --max-tokens."
    )


def _json_of(path: Path) -> Path | None:
    """Return the ``tokenizer.json`` that a path is or holds."""
    file = path / "tokenizer.json" if is_folder(path) else path
    return file if file.suffix == ".json" and file.is_file() else None


def _read(path: Path) -> Any:
    try:
        library = import_module("tokenizers")
    except ModuleNotFoundError:
        raise MissingExtraError("tokenizers", EXTRA) from None
    try:
        return library.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"not a tokeniser: {error}", path=path) from None


def _between_tokens(tokenizer: Any) -> TokenCutter:
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def cut(text: str, tokens: int) -> str:
        kept = truncated_middle(tokenizer.encode(text, add_special_tokens=False).ids, tokens)
        middle = (len(kept) + 1) // 2
        halves = kept[:middle], kept[middle:]
        return "".join(str(tokenizer.decode(half, skip_special_tokens=False)) for half in halves)

    return TokenCutter(lambda text: len(tokenizer.encode(text).ids), cut)


def _between_characters(counter: TokenCounter) -> TokenCutter:
    def cut(text: str, tokens: int) -> str:
        half = len(text) * tokens // max(counter(text), 1) // 2
        return text[:half] + text[len(text) - half :]

    return TokenCutter(counter, cut, _ESTIMATED_SHARE if counter.name == ESTIMATED else 1.0)

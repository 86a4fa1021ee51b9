"""Read conversations: ShareGPT's JSON, OpenAI-style messages, prompt and answer pairs, plain text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvpred.data.conversations import Conversation, Message, Role
from kvpred.data.files import read_text
from kvpred.errors import DataError

_ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "human": "user", "user": "user", "prompter": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "model": "assistant",
}  # fmt: skip
# Under which name an object holds its messages.
_LISTS = ("messages", "conversations", "conversation")
MAX_MESSAGE_CHARS = 1_000_000
"""Characters of one message: more is no prompt, and takes a model's context many times over."""


@dataclass(frozen=True, slots=True)
class ChatFile:
    """What a file holds.

    Parameters
    ----------
    conversations : tuple of Conversation
    token_counts : mapping of (str, int) to (int, int)
        Where the file counts tokens itself: conversation id and index of the user's message to the tokens of
        that message and of the answer.
    left_out : mapping of str to int
        What was not taken, by reason.
    """

    conversations: tuple[Conversation, ...]
    token_counts: Mapping[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)


def read_conversations(path: Path | str) -> ChatFile:
    """Read the conversations of a file.

    ``.txt`` is one prompt. JSON and JSONL hold conversations in any of these shapes: a list of messages
    ``{"role", "content"}``; an object whose ``messages`` or ``conversations`` is such a list (ShareGPT calls
    the fields ``from`` and ``value``); or pairs ``{"id", "turn", "prompt", "response", ...}``, one line each,
    which are put together to conversations by their ids. `turn` is the place of the prompt among the
    messages; messages in between that no pair tells of are missing from the history.

    Parameters
    ----------
    path : Path or str

    Returns
    -------
    ChatFile
        Conversations without any message are left out, and counted.

    Raises
    ------
    DataError
        If the file is missing, binary, no UTF-8 or no JSON; or a message lacks its role or text. The error
        names the line, or the item's number.
    """
    path = Path(path)
    text = read_text(path)
    if path.suffix.lower() == ".txt":
        return ChatFile((Conversation(path.stem, (_message_of("user", text, _Place(path)),)),))
    items = list(_items(path, text))
    if items and isinstance(items[0][1], dict) and "prompt" in items[0][1]:
        return _from_pairs(items)
    left_out: Counter[str] = Counter()
    found = []
    for number, (place, item) in enumerate(items, start=1):
        conversation = _conversation(item, place, number, path)
        if conversation.messages:
            found.append(conversation)
        else:
            left_out["conversations without messages"] += 1
    _check_ids(found, path)
    return ChatFile(tuple(found), {}, dict(left_out))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where something stands: a line of a JSONL file, or an item of a JSON list."""

    path: Path
    row: int | None = None
    item: str = ""

    def error(self, message: str, *, column: str | None = None, value: object = None) -> DataError:
        where = f"{self.item}: " if self.item else ""
        if not isinstance(value, str | int | float | None):
            value = type(value).__name__  # JSON may be nested too deeply to be shown
        return DataError(f"{where}{message}", path=self.path, row=self.row, column=column, value=value)

    def inside(self, name: str) -> _Place:
        return _Place(self.path, self.row, f"{self.item}, {name}" if self.item else name)


def _items(path: Path, text: str) -> Iterator[tuple[_Place, Any]]:
    """Yield the conversations or pairs of a JSON or JSONL text, with their places."""
    lines = [(row, line) for row, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if path.suffix.lower() == ".jsonl" or (len(lines) > 1 and _is_json(lines[0][1])):
        for row, line in lines:
            yield _Place(path, row), _parsed(line, path, row)
        return
    whole = _parsed(text, path, None)
    if isinstance(whole, list) and not (whole and _is_message(whole[0])):
        for number, item in enumerate(whole, start=1):
            yield _Place(path, item=f"item {number}"), item
    else:
        yield _Place(path), whole


def _parsed(text: str, path: Path, row: int | None) -> Any:
    """Return what a JSON text holds; an error names `row`, or the text's own line."""
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError("not JSON: nested too deeply", path=path, row=row) from None
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg}", path=path, row=row or error.lineno) from None
    except ValueError as error:
        raise DataError(f"not JSON: {error}", path=path, row=row) from None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_message(item: object) -> bool:
    """Whether an item is a message, be it one that lacks something, and no conversation."""
    if not isinstance(item, dict) or {*_LISTS} & item.keys():
        return False
    return bool({"role", "from", "content", "value"} & item.keys())


def _conversation(item: object, place: _Place, number: int, path: Path) -> Conversation:
    messages: object = item
    name: object = f"{path.stem}-{number}"
    if isinstance(item, dict):
        messages = next((item[key] for key in _LISTS if key in item), None)
        name = item.get("id", name)
        if not isinstance(name, str | int):
            raise place.error("expected a text", column="id", value=name)
    if not isinstance(messages, list):
        raise place.error("expected a list of messages, or an object with messages or conversations")
    found = tuple(
        _message(message, place.inside(f"message {order}")) for order, message in enumerate(messages, start=1)
    )
    return Conversation(_without_halves(str(name)), found)


def _message(item: object, place: _Place) -> Message:
    if not isinstance(item, dict):
        raise place.error("expected an object with role and content", value=item)
    role_key = "role" if "role" in item else "from"
    if role_key not in item:
        raise place.error("the role is missing", column="role")
    content = item.get("content", item.get("value"))
    if isinstance(content, list):
        content = _joined_parts(content, place)
    return _message_of(item[role_key], content, place)


def _message_of(role: object, content: object, place: _Place) -> Message:
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise place.error(f"unknown role; known are {', '.join(_ROLES)}", column="role", value=role)
    if not isinstance(content, str):
        raise place.error("expected a text", column="content", value=content)
    if len(content) > MAX_MESSAGE_CHARS:
        raise place.error(
            f"{len(content):,} characters, expected at most {MAX_MESSAGE_CHARS:,}", column="content"
        )
    return Message(_ROLES[role.lower()], _without_halves(content))


def _without_halves(text: str) -> str:
    r"""Replace halves of characters (``\ud83d`` alone, where an emoji was cut): UTF-8 cannot hold them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _joined_parts(parts: Iterable[object], place: _Place) -> str:
    """Return the texts of a message in parts; others, such as images, have no tokens to count."""
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise place.error(
            "expected a part of the type text, and a text in each part of that type", column="content"
        )
    return "\n".join(map(str, texts))


def _from_pairs(items: list[tuple[_Place, Any]]) -> ChatFile:
    """Put pairs together to conversations."""
    turns: dict[str, dict[int, tuple[Message, Message]]] = {}
    counts: dict[tuple[str, int], tuple[int, int]] = {}
    for place, item in items:
        if not isinstance(item, dict):
            raise place.error("expected an object with prompt and response", value=item)
        name, turn = item.get("id"), item.get("turn", 0)
        if not isinstance(name, str):
            raise place.error("expected a text", column="id", value=name)
        name = _without_halves(name)
        if type(turn) is not int or turn < 0:
            raise place.error("expected a whole number", column="turn", value=turn)
        if turn in turns.setdefault(name, {}):
            raise place.error(f"turn {turn} of {name} occurs twice", column="turn")
        asked = _message_of("user", item.get("prompt"), place.inside("prompt"))
        turns[name][turn] = asked, _message_of("assistant", item.get("response"), place.inside("response"))
        if "prompt_tokens" in item or "response_tokens" in item:
            counts[name, turn] = _count(item, "prompt_tokens", place), _count(item, "response_tokens", place)
    conversations, known = [], {}
    for name, of_name in turns.items():
        messages: list[Message] = []
        for turn in sorted(of_name):
            if (name, turn) in counts:
                known[name, len(messages)] = counts[name, turn]
            messages += of_name[turn]
        conversations.append(Conversation(name, tuple(messages), lacks_beginning=min(of_name) > 0))
    return ChatFile(tuple(conversations), known)


def _count(item: dict[str, Any], key: str, place: _Place) -> int:
    value = item.get(key)
    if type(value) is not int or value < 0:
        raise place.error("expected whole numbers of tokens", column=key, value=value)
    return value


def _check_ids(conversations: list[Conversation], path: Path) -> None:
    repeated = [name for name, count in Counter(one.id for one in conversations).items() if count > 1]
    if repeated:
        raise DataError(f"{len(repeated)} ids occur twice", path=path, column="id", value=repeated[0])

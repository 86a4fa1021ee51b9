"""Whatever shape conversations come in, they are read alike; whatever is wrong is named with its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kvpred.data.chat_files import MAX_MESSAGE_CHARS, ChatFile, read_conversations
from kvpred.errors import DataError

Write = Callable[[str | bytes], Path]

ASK, REPLY = (
    {"role": "user", "content": "Why is tea hot?"},
    {"role": "assistant", "content": "It was boiled."},
)
SHAREGPT = [{"from": "human", "value": "Why is tea hot?"}, {"from": "gpt", "value": "It was boiled."}]
PAIR = {"id": "Ab3dEf7_0", "turn": 0, "prompt": "Why is tea hot?", "response": "It was boiled."}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(content: str | bytes, name: str = "chats.json") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


def lines(*items: object) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


def said(file: ChatFile) -> list[list[tuple[str, str]]]:
    return [[(m.role, m.content) for m in conversation.messages] for conversation in file.conversations]


ONE = [("user", "Why is tea hot?"), ("assistant", "It was boiled.")]


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (json.dumps([ASK, REPLY]), 1),
        (json.dumps([[ASK, REPLY], [ASK, REPLY]]), 2),
        (json.dumps({"messages": [ASK, REPLY]}), 1),
        (json.dumps([{"id": "a", "conversations": SHAREGPT}, {"id": "b", "conversations": SHAREGPT}]), 2),
        (json.dumps([{"messages": [ASK, REPLY]}], indent=1), 1),
        (lines([ASK, REPLY]), 1),
        (lines([ASK, REPLY], [ASK, REPLY]), 2),
        (lines({"messages": [ASK, REPLY]}), 1),
        (lines({"messages": [ASK, REPLY]}, {"id": 7, "conversations": SHAREGPT}), 2),
        (lines({"messages": [ASK, REPLY]}).replace("\n", "\r\n\r\n") + lines([ASK, REPLY]), 2),
        (lines(PAIR), 1),
        (json.dumps([PAIR]), 1),
    ],
)
def test_every_shape_gives_the_same_conversation(write: Write, content: str, count: int) -> None:
    assert said(read_conversations(write(content))) == [ONE] * count


@pytest.mark.parametrize("name", ["prompt.txt", "PROMPT.TXT"])
def test_plain_text_is_one_prompt(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"role": is no JSON here')
    assert said(read_conversations(tmp_path / name)) == [[("user", '{"role": is no JSON here')]]


def test_roles_of_all_sides_are_known(write: Write) -> None:
    roles = ("system", "developer", "human", "USER", "gpt", "assistant")
    file = read_conversations(write(json.dumps([{"role": role, "content": ""} for role in roles])))
    assert [role for role, _ in said(file)[0]] == ["system"] * 2 + ["user"] * 2 + ["assistant"] * 2


def test_the_texts_of_a_message_in_parts_are_joined(write: Write) -> None:
    image = {"type": "image_url", "image_url": {"url": "photo.png"}}
    parts = [{"type": "text", "text": "What"}, image, {"type": "text", "text": "is it?"}]
    file = read_conversations(write(json.dumps([{"role": "user", "content": parts}])))
    assert said(file) == [[("user", "What\nis it?")]]


def test_line_separators_inside_a_text_end_no_line(write: Write) -> None:
    odd = [{"role": "user", "content": "one\u2028two\x85three"}]
    text = "".join(json.dumps(odd, ensure_ascii=False) + "\n" for _ in range(2))
    assert said(read_conversations(write(text))) == [[("user", "one\u2028two\x85three")]] * 2


def test_half_an_emoji_is_replaced_and_a_whole_one_kept(write: Write) -> None:
    (conversation,) = said(
        read_conversations(write('[{"role": "user", "content": "\\ud83d \\ud83d\\ude00"}]'))
    )
    assert conversation == [("user", "\ufffd \U0001f600")]


def test_conversations_without_messages_are_counted(write: Write) -> None:
    file = read_conversations(write(json.dumps([{"messages": []}, {"messages": [ASK]}])))
    assert (len(file.conversations), file.left_out) == (1, {"conversations without messages": 1})


def test_conversations_without_ids_are_named_by_file_and_number(write: Write) -> None:
    file = read_conversations(write(lines([ASK], [ASK])))
    assert [conversation.id for conversation in file.conversations] == ["chats-1", "chats-2"]


def test_a_long_prompt_is_read_and_a_longer_one_refused(write: Write) -> None:
    (conversation,) = said(
        read_conversations(write(json.dumps([ASK | {"content": "x" * MAX_MESSAGE_CHARS}])))
    )
    assert len(conversation[0][1]) == MAX_MESSAGE_CHARS
    with pytest.raises(DataError, match="1,000,001 characters"):
        read_conversations(write(json.dumps([ASK | {"content": "x" * (MAX_MESSAGE_CHARS + 1)}])))


def test_pairs_become_conversations_in_the_order_of_their_turns(write: Write) -> None:
    later = PAIR | {
        "turn": 4,
        "prompt": "And cold?",
        "response": "Later.",
        "prompt_tokens": 3,
        "response_tokens": 2,
    }
    other = PAIR | {"id": "Gh1jKl2_0", "turn": 1}
    file = read_conversations(write(lines(later, other, PAIR)))
    assert said(file) == [[*ONE, ("user", "And cold?"), ("assistant", "Later.")], ONE]
    assert file.token_counts == {("Ab3dEf7_0", 2): (3, 2)}
    assert [conversation.starts_late for conversation in file.conversations] == [False, True]


@pytest.mark.parametrize(
    ("content", "message", "row"),
    [
        (b"", "empty", None),
        (b" \n\t\n", "empty", None),
        (b"PK\x03\x04\x00\x00", "binary", None),
        (lines([ASK]).encode() + b'[{"role": "user", "content": "caf\xe9"}]\n', "not UTF-8", 2),
        ("Why is tea hot?", "not JSON", 1),
        (lines([ASK], [ASK]) + '[{"role": "user", "con\n', "not JSON", 3),
        (lines([ASK])[:-4] + "\n" + lines([ASK]), "not JSON", 1),
        ('[\n {"role": "user",\n  "content" "x"}\n]', "not JSON", 3),
        ("[" * 100_000, "nested too deeply", None),
        (lines([ASK]) + "[" * 100_000, "not JSON", 2),
        ("3", "expected a list of messages", None),
        (lines([ASK], {"talk": []}), "expected a list of messages", 2),
        (lines([ASK], ["Why?"]), "message 1: expected an object", 2),
        (lines([ASK], [ASK, {"content": "x"}]), "message 2: the role is missing", 2),
        (lines([{"content": "x"}]), "the role is missing", None),
        (lines([ASK], [ASK | {"role": "judge"}]), "unknown role", 2),
        (lines([ASK], [ASK | {"role": None}]), "unknown role", 2),
        (lines([ASK], [ASK | {"content": None}]), "expected a text", 2),
        (lines([ASK], [{"role": "user"}]), "expected a text", 2),
        (lines([ASK], [ASK | {"content": [{"type": "text"}]}]), "each part", 2),
        (
            json.dumps([{"messages": [ASK]}, {"messages": [ASK, 5]}]),
            "item 2, message 2: expected an object",
            None,
        ),
        (lines({"id": "a", "messages": [ASK]}, {"id": "a", "messages": [ASK]}), "occur twice", None),
        (lines({"id": ["a"], "messages": [ASK]}), "expected a text", None),
        (lines(PAIR, PAIR), "turn 0 of Ab3dEf7_0 occurs twice", 2),
        (lines(PAIR, [ASK]), "expected an object with prompt and response", 2),
        (lines(PAIR, PAIR | {"id": None}), "expected a text", 2),
        (lines(PAIR, PAIR | {"turn": True}), "expected a whole number", 2),
        (lines(PAIR, PAIR | {"turn": -2}), "expected a whole number", 2),
        (lines(PAIR, PAIR | {"turn": 2, "response": None}), "expected a text", 2),
        (lines(PAIR, PAIR | {"turn": 2, "prompt_tokens": 4}), "whole numbers", 2),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    write: Write, content: str | bytes, message: str, row: int | None
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_conversations(write(content))
    assert caught.value.row == row
    assert "chats.json" in str(caught.value)


@pytest.mark.parametrize("name", ["missing.json", "missing.txt"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_conversations(tmp_path / name)


def test_a_blank_prompt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("  \n")
    with pytest.raises(DataError, match="empty"):
        read_conversations(tmp_path / "prompt.txt")


def test_nesting_just_below_the_limit_is_refused_in_our_words(write: Write) -> None:
    for depth in range(700, 1000):
        with pytest.raises(DataError):
            read_conversations(
                write('[{"role": "user", "content": ' + '{"a":' * depth + "1" + "}" * depth + "}]")
            )


fuzz = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["user", "gpt", "Ab3dEf7_2", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*PAIR, *ASK, *SHAREGPT[0], "messages", "prompt_tokens"]), inner, max_size=5
        )
    ),
    max_leaves=12,
)


def read_or_refuse(path: Path) -> None:
    """Any error but ours fails the test."""
    with suppress(DataError):
        assert isinstance(read_conversations(path), ChatFile)


@given(content=st.binary(max_size=200))
@example(content=b"[]")
@example(content=b"9" * 5000)
@example(content=b'[{"role": "user", "content": NaN}]')
@fuzz
def test_arbitrary_bytes_never_crash_the_reader(write: Write, content: bytes) -> None:
    read_or_refuse(write(content))


@given(values=st.lists(json_values, min_size=1, max_size=3), as_lines=st.booleans())
@fuzz
def test_arbitrary_json_never_crashes_the_reader(write: Write, values: list[object], as_lines: bool) -> None:
    read_or_refuse(write(lines(*values) if as_lines else json.dumps(values)))


@given(data=st.data())
@fuzz
def test_damaged_files_never_crash_the_reader(write: Write, data: st.DataObject) -> None:
    content = lines(PAIR, PAIR | {"turn": 2}, {"id": "a", "messages": [ASK, REPLY]}).encode()
    start, length = data.draw(st.integers(0, len(content))), data.draw(st.integers(0, 40))
    read_or_refuse(write(content[:start] + data.draw(st.binary(max_size=20)) + content[start + length :]))

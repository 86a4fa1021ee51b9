"""LongBench's files are read field by field; what is wrong is named with its file, line and field."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kvpred.data.longbench import (
    DATASETS,
    Sample,
    Task,
    fill,
    get_dataset,
    read_longbench,
    read_templates,
    truncated_middle,
)
from kvpred.errors import DataError, UsageError

Write = Callable[..., Path]

LINE: Mapping[str, object] = {
    "input": "Who wrote it?",
    "context": "Passage 1:\nAda wrote it.",
    "answers": ["Ada", "Ada Lovelace"],
    "length": 9,
    "dataset": "hotpotqa",
    "language": "en",
    "all_classes": None,
    "_id": "4f2a",
}
TREC = {**LINE, "dataset": "trec", "answers": ["City"], "all_classes": ["City", "Date"]}
RETRIEVAL = {**LINE, "dataset": "passage_retrieval_en", "answers": ["Paragraph 7"]}


def without(*names: str, of: Mapping[str, object] = LINE) -> dict[str, object]:
    return {name: value for name, value in of.items() if name not in names}


def lines(*items: object) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(content: str | bytes, name: str = "samples.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


# Names, task types, lengths, and where a first line or no chat template is taken: as LongBench publishes.
@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("single-doc-qa", {"qasper", "multifieldqa_en"}),
        ("multi-doc-qa", {"hotpotqa", "2wikimqa"}),
        ("summarization", {"gov_report", "qmsum", "multi_news"}),
        ("few-shot", {"trec", "triviaqa", "samsum"}),
        ("synthetic", {"passage_count", "passage_retrieval_en"}),
        ("code", {"lcc", "repobench-p"}),
    ],
)
def test_each_task_type_has_its_datasets(task: str, names: set[str]) -> None:
    assert {dataset.name for dataset in DATASETS.values() if dataset.task == task} == names


@pytest.mark.parametrize(
    ("tokens", "names"),
    [
        (32, {"hotpotqa", "2wikimqa", "triviaqa", "passage_count", "passage_retrieval_en"}),
        (64, {"multifieldqa_en", "trec", "lcc", "repobench-p"}),
        (128, {"qasper", "samsum"}),
        (512, {"gov_report", "qmsum", "multi_news"}),
    ],
)
def test_answers_are_cut_at_their_datasets_length(tokens: int, names: set[str]) -> None:
    assert {dataset.name for dataset in DATASETS.values() if dataset.max_new_tokens == tokens} == names


@pytest.mark.parametrize(
    ("metric", "names"),
    [
        ("qa-f1", {"qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "triviaqa"}),
        ("rouge-l", {"gov_report", "qmsum", "multi_news", "samsum"}),
        ("classification", {"trec"}),
        ("retrieval", {"passage_retrieval_en"}),
        ("counting", {"passage_count"}),
        ("code", {"lcc", "repobench-p"}),
    ],
)
def test_each_metric_has_its_datasets(metric: str, names: set[str]) -> None:
    assert {dataset.name for dataset in DATASETS.values() if dataset.metric == metric} == names


def test_few_shot_answers_are_one_line_and_take_no_chat_template_nor_does_code() -> None:
    few_shot = {"trec", "triviaqa", "samsum"}
    assert {dataset.name for dataset in DATASETS.values() if dataset.first_line} == few_shot
    assert {dataset.name for dataset in DATASETS.values() if not dataset.chat} == {
        *few_shot,
        "lcc",
        "repobench-p",
    }


def test_the_fourteen_datasets_are_listed_by_name() -> None:
    assert list(DATASETS) == sorted(DATASETS)
    assert len(DATASETS) == 14


@pytest.mark.parametrize("name", DATASETS)
def test_every_prompt_holds_the_context_and_what_is_asked(name: str) -> None:
    sample = Sample("0", name, "<asked>", "<context>", ("",), (), 0)
    prompt = fill(DATASETS[name].prompt, sample)
    assert prompt.count("<context>") == 1
    # Of these three LongBench asks nothing beside the context, and lcc's code is the context.
    asks_nothing = name in {"gov_report", "multi_news", "passage_count", "lcc"}
    assert prompt.count("<asked>") == (0 if asks_nothing else 1)


def test_a_dataset_is_found_by_its_name() -> None:
    assert get_dataset("lcc").task is Task.code


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "hotpot_qa",
            r"'hotpot_qa': unknown dataset; did you mean hotpotqa\? known are 2wikimqa, .*triviaqa",
        ),
        ("Qasper", r"did you mean qasper\?"),
        ("zzz", "'zzz': unknown dataset; known are 2wikimqa"),
        ("narrativeqa", "'narrativeqa': a dataset of LongBench that is not covered; known are 2wikimqa"),
    ],
)
def test_an_unknown_dataset_is_answered_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        get_dataset(name)


def test_a_line_becomes_a_sample(write: Write) -> None:
    assert read_longbench(write(lines(LINE))) == {
        "hotpotqa": [
            Sample(
                id="4f2a",
                dataset="hotpotqa",
                input="Who wrote it?",
                context="Passage 1:\nAda wrote it.",
                answers=("Ada", "Ada Lovelace"),
                classes=(),
                words=9,
            )
        ]
    }


def test_classes_are_read_in_their_order(write: Write) -> None:
    (sample,) = read_longbench(write(lines(TREC)))["trec"]
    assert sample.classes == ("City", "Date")


def test_lines_are_sorted_by_their_own_dataset(write: Write) -> None:
    found = read_longbench(write(lines(LINE, TREC, {**LINE, "_id": "a", "answers": ["x"]})))
    assert [(name, [sample.id for sample in samples]) for name, samples in found.items()] == [
        ("hotpotqa", ["4f2a", "a"]),
        ("trec", ["4f2a"]),
    ]


def test_samples_without_ids_are_numbered_within_their_dataset(write: Write) -> None:
    anonymous = without("_id")
    trec = without("_id", of=TREC)
    found = read_longbench(write(lines(anonymous, trec, anonymous, {**LINE, "_id": 12}, anonymous)))
    assert [sample.id for sample in found["hotpotqa"]] == ["0", "1", "12", "3"]
    assert [sample.id for sample in found["trec"]] == ["0"]


def test_words_are_counted_where_no_length_is_given(write: Write) -> None:
    (sample,) = read_longbench(write(lines(without("length"))))["hotpotqa"]
    # Input "Who wrote it?" 3, context "Passage 1: Ada wrote it." 5, answers 1 and 2.
    assert sample.words == 3 + 5 + 1 + 2


def test_empty_lines_count_but_are_no_samples(write: Write) -> None:
    with pytest.raises(DataError, match="expected a list") as caught:
        read_longbench(write(lines(LINE).replace("\n", "\r\n\r\n") + lines({**LINE, "answers": "Ada"})))
    assert caught.value.row == 3


def test_line_separators_inside_a_text_end_no_line(write: Write) -> None:
    odd = json.dumps({**LINE, "context": "one\u2028two\x85three"}, ensure_ascii=False)
    (sample,) = read_longbench(write(odd))["hotpotqa"]
    assert sample.context == "one\u2028two\x85three"


def test_half_an_emoji_is_replaced(write: Write) -> None:
    (sample,) = read_longbench(write(lines({**LINE, "context": "\ud83d", "_id": "\ud83d"})))["hotpotqa"]
    assert (sample.context, sample.id) == ("\ufffd", "\ufffd")


def test_a_folder_is_read_file_by_file(write: Write, tmp_path: Path) -> None:
    write(lines(TREC), "b.jsonl")
    write(lines(LINE), "a.jsonl")
    write("not read", "notes.txt")
    assert list(read_longbench(tmp_path)) == ["hotpotqa", "trec"]


def test_an_id_that_occurs_in_two_files_is_refused(write: Write, tmp_path: Path) -> None:
    write(lines(without("_id"), LINE), "a.jsonl")
    write(lines(LINE), "b.jsonl")
    with pytest.raises(DataError, match=r"hotpotqa has this id twice, first on line 2 of a\.jsonl") as caught:
        read_longbench(tmp_path)
    assert (caught.value.path, caught.value.row) == (tmp_path / "b.jsonl", 1)
    assert (caught.value.column, caught.value.value) == ("_id", "4f2a")


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \.jsonl files"):
        read_longbench(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04\x00\x00", b'{"input": "caf\xe9"}', None])
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "samples.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"samples\.jsonl.*(empty|binary|not UTF-8|no such file)"):
        read_longbench(path)


@pytest.mark.parametrize(
    ("bad", "message", "column", "value"),
    [
        ('{"input": ', "not JSON: Expecting value", None, None),
        ("[" * 100_000, "not JSON: nested too deeply", None, None),
        ("9" * 5000, "a number too long", None, None),
        ('["Ada"]', "expected a JSON object", None, None),
        (without("input"), "this field is missing", "input", None),
        (without("context"), "this field is missing", "context", None),
        (without("answers"), "this field is missing", "answers", None),
        (without("dataset"), "this field is missing", "dataset", None),
        ({**LINE, "input": None}, "expected a text", "input", None),
        ({**LINE, "context": ["Passage"]}, "expected a text", "context", "list"),
        ({**LINE, "dataset": 3}, "expected a text", "dataset", 3),
        ({**LINE, "dataset": "hotpot_qa"}, r"did you mean hotpotqa\?", "dataset", "hotpot_qa"),
        ({**LINE, "dataset": "multifieldqa_zh"}, "not covered; known are", "dataset", "multifieldqa_zh"),
        ({**LINE, "dataset": "musique"}, "not covered; known are 2wikimqa", "dataset", "musique"),
        ({**LINE, "answers": []}, "at least one text", "answers", "list"),
        ({**LINE, "answers": "Ada"}, "expected a list", "answers", "Ada"),
        ({**LINE, "answers": ["Ada", 7]}, "expected a text", "answers", 7),
        ({**LINE, "all_classes": "City"}, "expected a list", "all_classes", "City"),
        ({**LINE, "all_classes": ["City", 7]}, "expected a text", "all_classes", 7),
        ({**TREC, "all_classes": None}, "trec needs the list of the classes", "all_classes", None),
        ({**TREC, "all_classes": []}, "trec needs the list of the classes", "all_classes", "list"),
        (without("all_classes", of=TREC), "trec needs the list of the classes", "all_classes", None),
        ({**RETRIEVAL, "answers": ["Paragraph 7", "8"]}, "'Paragraph' and a number", "answers", "8"),
        ({**LINE, "length": "9"}, "expected a whole number", "length", "9"),
        ({**LINE, "length": -1}, "expected a whole number", "length", -1),
        ({**LINE, "length": True}, "expected a whole number", "length", True),
        ({**LINE, "_id": ""}, "expected a text or a whole number", "_id", ""),
        ({**LINE, "_id": 1.5}, "expected a text or a whole number", "_id", 1.5),
        ({**LINE, "_id": True}, "expected a text or a whole number", "_id", True),
        ({**LINE, "_id": "first"}, r"twice, first on line 1 of samples\.jsonl", "_id", "first"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    write: Write, bad: str | Mapping[str, object], message: str, column: str | None, value: object
) -> None:
    good = {**LINE, "_id": "first"}
    path = write(lines(good) + (bad if isinstance(bad, str) else json.dumps(bad)))
    with pytest.raises(DataError, match=message) as caught:
        read_longbench(path)
    error = caught.value
    assert (error.path, error.row, error.column, error.value) == (path, 2, column, value)


@pytest.mark.parametrize("classes", [None, []])
def test_no_classes_are_needed_where_answers_are_none(write: Write, classes: object) -> None:
    (sample,) = read_longbench(write(lines({**LINE, "all_classes": classes})))["hotpotqa"]
    assert sample.classes == ()


fuzz = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["trec", "Paragraph 1", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*LINE]), inner, max_size=8),
    max_leaves=12,
)


@given(changes=st.dictionaries(st.sampled_from([*LINE]), values, max_size=3), whole=values)
@example(changes={"dataset": "\ud83d"}, whole=[])
@fuzz
def test_any_json_is_read_or_refused_in_our_words(
    tmp_path: Path, changes: dict[str, object], whole: object
) -> None:
    path = tmp_path / "samples.jsonl"
    for item in ({**LINE, **changes}, whole):
        path.write_text(lines(item))
        for read in (read_longbench, read_templates):
            with suppress(DataError):
                assert isinstance(read(path), dict)


def test_braces_in_a_sample_stand_for_themselves() -> None:
    sample = Sample("0", "lcc", "{context} {0!r}", "int f() { return {}; {input}", ("}",), (), 0)
    assert fill("{context}|{input}|{{}}", sample) == "int f() { return {}; {input}|{context} {0!r}|{}"


def test_templates_of_ones_own_are_read(write: Write) -> None:
    templates = {"qasper": "{context} {{sic}} {input}", "gov_report": "Sum up {context}"}
    # Of LongBench's own file those of datasets that are not covered are left out.
    path = write(json.dumps({**templates, "narrativeqa": "{context}", "vcsum": 3}), "prompts.json")
    assert read_templates(path) == templates


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n"qasper": "{context}",\n}', "line 3: not JSON"),
        ('["{context}"]', "expected a JSON object"),
        ({"qaspr": "{context}"}, r"'qaspr': unknown dataset; did you mean qasper\? known are"),
        ({"qasper": None}, "qasper: expected a text"),
        ({"qasper": "Read it. {input}"}, r"qasper: the field \{context\} is missing"),
        ({"qasper": "{{context}}"}, r"qasper: the field \{context\} is missing"),
        ({"qasper": "{context} {question}"}, r"qasper: unknown field \{question\}; known are"),
        ({"qasper": "{context} {}"}, r"qasper: unknown field \{\}"),
        ({"qasper": "{context} {input.__class__}"}, r"qasper: unknown field \{input\.__class__\}"),
        ({"qasper": "{context} {input!r}"}, "qasper: a field is written"),
        ({"qasper": "{context:>9}"}, "qasper: a field is written"),
        ({"qasper": "{context} }"}, "qasper: .*written twice"),
        ({"qasper": "{context} {"}, "qasper: .*written twice"),
    ],
)
def test_a_wrong_template_is_named_with_its_dataset(write: Write, content: object, message: str) -> None:
    path = write(content if isinstance(content, str) else json.dumps(content), "prompts.json")
    with pytest.raises(DataError, match=rf"prompts\.json.*{message}"):
        read_templates(path)


@pytest.mark.parametrize(
    ("length", "limit", "kept"),
    [
        pytest.param(10, 4, [0, 1, 8, 9], id="two of each end"),
        pytest.param(10, 5, [0, 1, 8, 9], id="an odd limit: int(5 / 2) = 2 of each end"),
        pytest.param(10, 9, [0, 1, 2, 3, 6, 7, 8, 9], id="one token too many costs two: int(9 / 2) = 4"),
        pytest.param(10, 10, [*range(10)], id="as many as the limit: all"),
        pytest.param(3, 10, [0, 1, 2], id="fewer: all"),
        pytest.param(0, 2, [], id="none"),
        pytest.param(4, 2, [0, 3], id="the least limit: one of each end"),
    ],
)
def test_the_middle_of_too_many_tokens_is_left_out(length: int, limit: int, kept: list[int]) -> None:
    assert truncated_middle(range(length), limit) == kept


@pytest.mark.parametrize("limit", [1, 0, -4])
def test_a_limit_that_leaves_nothing_is_refused(limit: int) -> None:
    with pytest.raises(UsageError, match="at least 2"):
        truncated_middle([1, 2, 3], limit)


@given(tokens=st.lists(st.integers(), max_size=40), limit=st.integers(2, 50))
def test_truncated_tokens_are_both_ends_and_never_beyond_the_limit(tokens: list[int], limit: int) -> None:
    kept = truncated_middle(tokens, limit)
    assert len(kept) == (len(tokens) if len(tokens) <= limit else 2 * (limit // 2))
    half = len(kept) // 2
    assert kept[:half] == tokens[:half]
    assert kept[half:] == tokens[len(tokens) - (len(kept) - half) :]

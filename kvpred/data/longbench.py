"""LongBench's English datasets: task types, prompts and lengths, and a reader of its JSONL files.

Source: github.com/THUDM/LongBench (version 1); Bai et al., arXiv:2308.14508.
"""

from __future__ import annotations

import difflib
import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from kvpred.data.files import is_folder, read_text
from kvpred.errors import DataError, UsageError

Metric = Literal["qa-f1", "rouge-l", "classification", "retrieval", "counting", "code"]

PARAGRAPH = re.compile(r"Paragraph (\d+)")
"""What an answer of the metric ``retrieval`` says."""


class Task(StrEnum):
    """LongBench's task types."""

    single_doc_qa = "single-doc-qa"
    multi_doc_qa = "multi-doc-qa"
    summarization = "summarization"
    few_shot = "few-shot"
    synthetic = "synthetic"
    code = "code"


@dataclass(frozen=True, slots=True)
class LongBenchDataset:
    """How a dataset is asked and scored.

    Parameters
    ----------
    name : str
    task : Task
    max_new_tokens : int
        At which an answer is cut.
    metric : str
        By which `kvpred.evaluation.longbench.score` compares answers.
    prompt : str
        Template with the fields ``{context}`` and ``{input}``; kvpred's own wording.
    first_line : bool
        Whether only an answer's first line counts.
    chat : bool
        Whether the prompt goes into a model's chat template.
    """

    name: str
    task: Task
    max_new_tokens: int
    metric: Metric
    prompt: str
    first_line: bool = False
    chat: bool = True


_PASSAGES = (
    "Read these passages.\n\n{context}\n\nWith them in mind, reply to the following in a few words, "
    "without explaining.\n{input}\nReply:"
)
_ALL = (
    LongBenchDataset("2wikimqa", Task.multi_doc_qa, 32, "qa-f1", _PASSAGES),
    LongBenchDataset("gov_report", Task.summarization, 512, "rouge-l", (
        "This is a report by a government.\n\n{context}\n\nSum it up on about one page.\nSummary:")),
    LongBenchDataset("hotpotqa", Task.multi_doc_qa, 32, "qa-f1", _PASSAGES),
    LongBenchDataset("lcc", Task.code, 64, "code", (
        "Continue this source code by one line.\n\n{context}\nWhat comes next:\n"), chat=False),
    LongBenchDataset("multi_news", Task.summarization, 512, "rouge-l", (
        "These articles tell of one event.\n\n{context}\n\nSum them up on about one page.\nSummary:")),
    LongBenchDataset("multifieldqa_en", Task.single_doc_qa, 64, "qa-f1", (
        "{context}\n\nReply to the following from the text above, in one short sentence or less.\n"
        "{input}\nReply:")),
    LongBenchDataset("passage_count", Task.synthetic, 32, "counting", (
        "These paragraphs are numbered, and some repeat others.\n\n{context}\n\nHow many are left once each "
        "repeated one is counted only once? Reply with the number alone.\nNumber:")),
    LongBenchDataset("passage_retrieval_en", Task.synthetic, 32, "retrieval", (
        "These paragraphs are numbered.\n\n{context}\n\nThis is about one of them:\n\n{input}\n\nReply with "
        'the word "Paragraph" and its number.\nReply:')),
    LongBenchDataset("qasper", Task.single_doc_qa, 128, "qa-f1", (
        "This is a scientific paper.\n\n{context}\n\nReply to the following from the paper alone, as briefly "
        'as possible: "yes" or "no" where that is enough, "unanswerable" if the paper does not tell.\n'
        "{input}\nReply:")),
    LongBenchDataset("qmsum", Task.summarization, 512, "rouge-l", (
        "These are the words of a meeting.\n\n{context}\n\nSum up in a few sentences what was said about "
        "the following.\n{input}\nSummary:")),
    LongBenchDataset("repobench-p", Task.code, 64, "code", (
        "Continue the last of these files of one project by one line.\n\n{context}{input}\n"
        "What comes next:\n"), chat=False),
    LongBenchDataset("samsum", Task.few_shot, 128, "rouge-l", (
        "Each of these chats has a summary. Write that of the last.\n\n{context}\n\n{input}"),
        first_line=True, chat=False),
    LongBenchDataset("trec", Task.few_shot, 64, "classification", (
        "Each of these questions has a type. Name that of the last.\n\n{context}\n{input}"),
        first_line=True, chat=False),
    LongBenchDataset("triviaqa", Task.few_shot, 32, "qa-f1", (
        "Each of these questions has a passage and a short reply. Give that of the last.\n\n{context}\n\n"
        "{input}"), first_line=True, chat=False),
)  # fmt: skip
DATASETS: Mapping[str, LongBenchDataset] = MappingProxyType({dataset.name: dataset for dataset in _ALL})
"""The datasets that published scores of compressed caches cover, by name."""

_NOT_COVERED = frozenset({
    "dureader", "lsht", "multifieldqa_zh", "musique", "narrativeqa", "passage_retrieval_zh", "vcsum",
})  # fmt: skip
_FIELDS = frozenset({"context", "input"})


@dataclass(frozen=True, slots=True)
class Sample:
    """One question of a dataset.

    Parameters
    ----------
    id : str
    dataset : str
    input : str
        The question, or what else is asked; empty in some datasets.
    context : str
    answers : tuple of str
        At least one, each of them right.
    classes : tuple of str
        Empty where answers are no classes.
    words : int
        Of input, context and answers.
    """

    id: str
    dataset: str
    input: str
    context: str
    answers: tuple[str, ...]
    classes: tuple[str, ...]
    words: int


def get_dataset(name: str) -> LongBenchDataset:
    """Return a dataset by its name.

    Raises
    ------
    UsageError
        If there is none of that name.

    Examples
    --------
    >>> get_dataset("qasper").max_new_tokens
    128
    """
    if name not in DATASETS:
        raise UsageError(f"{name[:80]!r}: {_unknown(name)}")
    return DATASETS[name]


def _unknown(name: str) -> str:
    known = f"known are {', '.join(DATASETS)}"
    if name in _NOT_COVERED:
        return f"a dataset of LongBench that is not covered; {known}"
    close = difflib.get_close_matches(name, DATASETS, n=1)
    return f"unknown dataset;{f' did you mean {close[0]}?' if close else ''} {known}"


def read_longbench(path: Path | str) -> dict[str, list[Sample]]:
    """Read samples in LongBench's format: a JSON object on each line.

    Its fields are ``input``, ``context``, ``answers``, ``dataset``, for classes ``all_classes``, and optional
    ``_id`` (else the sample's place in its dataset, from 0) and ``length`` (else its words are counted).

    Parameters
    ----------
    path : Path or str
        A file, or a folder whose ``.jsonl`` files are read in the order of their names.

    Returns
    -------
    dict of str to list of Sample
        By dataset, in the order of the lines.

    Raises
    ------
    DataError
        If a file is missing or no JSONL, or a field is missing or wrong; it names file, line and field.
    """
    found: dict[str, list[Sample]] = {}
    places: dict[tuple[str, str], str] = {}
    for line in (line for file in sample_files(path) for line in _lines(file)):
        sample = _sample(line, found)
        place = f"line {line.row} of {line.path.name}"
        first = places.setdefault((sample.dataset, sample.id), place)
        if first != place:
            raise line.error(f"{sample.dataset} has this id twice, first on {first}", "_id", sample.id)
        found.setdefault(sample.dataset, []).append(sample)
    return found


def sample_files(path: Path | str) -> list[Path]:
    """Return the files that `read_longbench` reads, in its order.

    Raises
    ------
    DataError
        If a folder holds none.
    """
    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if is_folder(path) else [path]
    if not files:
        raise DataError("the folder holds no .jsonl files", path=path)
    return files


@dataclass(frozen=True, slots=True)
class _Line:
    """The object on a line of a file."""

    path: Path
    row: int
    fields: Mapping[str, Any]

    def error(self, message: str, column: str, value: object = None) -> DataError:
        value = self.fields.get(column) if value is None else value
        if not isinstance(value, str | int | float | None):
            value = type(value).__name__  # JSON may be nested too deeply to be shown
        return DataError(message, path=self.path, row=self.row, column=column, value=value)

    def get(self, column: str) -> Any:
        if column not in self.fields:
            raise self.error("this field is missing", column)
        return self.fields[column]

    def text(self, column: str) -> str:
        return self._sound(self.get(column), column)

    def texts(self, column: str) -> tuple[str, ...]:
        values = self.get(column)
        if not isinstance(values, list) or not values:
            raise self.error("expected a list of at least one text", column)
        return tuple(self._sound(value, column) for value in values)

    def whole(self, column: str, *, otherwise: int) -> int:
        value = self.fields.get(column, otherwise)
        if type(value) is not int or value < 0:
            raise self.error("expected a whole number", column)
        return value

    def id(self, *, otherwise: int) -> str:
        value = self.fields.get("_id", otherwise)
        if type(value) is int:
            return str(value)
        if not isinstance(value, str) or not value.strip():
            raise self.error("expected a text or a whole number", "_id")
        return self._sound(value, "_id")

    def _sound(self, value: object, column: str) -> str:
        r"""Return a text with halves of characters (``\ud83d`` alone) replaced: UTF-8 cannot hold them."""
        if not isinstance(value, str):
            raise self.error("expected a text", column, value)
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _lines(path: Path) -> Iterator[_Line]:
    for row, text in enumerate(read_text(path).split("\n"), start=1):
        if text.strip():
            yield _Line(path, row, _object(text, path, row))


def _object(text: str, path: Path, row: int | None = None) -> dict[str, Any]:
    """Return the JSON object that a text holds; an error names `row`, or the text's own line."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg}", path=path, row=row or error.lineno) from None
    except (ValueError, RecursionError):
        raise DataError("not JSON: nested too deeply, or a number too long", path=path, row=row) from None
    if not isinstance(value, dict):
        raise DataError("expected a JSON object", path=path, row=row)
    return value


def _sample(line: _Line, before: Mapping[str, Sequence[Sample]]) -> Sample:
    name = line.text("dataset")
    if name not in DATASETS:
        raise line.error(_unknown(name), "dataset")
    asked, context, answers = line.text("input"), line.text("context"), line.texts("answers")
    has_classes = line.fields.get("all_classes") not in (None, [])
    if DATASETS[name].metric == "classification" and not has_classes:
        raise line.error(f"{name} needs the list of the classes that answers are chosen from", "all_classes")
    if DATASETS[name].metric == "retrieval":
        for answer in answers:
            if not PARAGRAPH.search(answer):
                raise line.error("expected the word 'Paragraph' and a number", "answers", answer)
    return Sample(
        id=line.id(otherwise=len(before.get(name, ()))),
        dataset=name,
        input=asked,
        context=context,
        answers=answers,
        classes=line.texts("all_classes") if has_classes else (),
        words=line.whole("length", otherwise=sum(len(text.split()) for text in (asked, context, *answers))),
    )


def read_templates(path: Path | str) -> dict[str, str]:
    """Read prompts of one's own, such as LongBench's: a JSON object of dataset to template.

    Parameters
    ----------
    path : Path or str

    Returns
    -------
    dict of str to str
        For `fill`. LongBench's datasets that are not covered are left out.

    Raises
    ------
    DataError
        If the file is missing or no JSON object, a dataset is unknown, or its template is no text, lacks
        ``{context}`` or has other fields than that and ``{input}``.
    """
    path = Path(path)
    found = {}
    for name, template in _object(read_text(path), path).items():
        if name in _NOT_COVERED:
            continue
        if name not in DATASETS:
            raise DataError(f"{name[:80]!r}: {_unknown(name)}", path=path)
        if fault := _fault(template):
            raise DataError(f"{name}: {fault}", path=path)
        found[name] = template
    return found


def _fault(template: object) -> str:
    """Return what is wrong with a template; nothing if it is right."""
    if not isinstance(template, str):
        return "expected a text"
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        return f"{error}; a brace that stands for itself is written twice"
    fields = {name for _, name, _, _ in parts if name is not None}
    if others := sorted(fields - _FIELDS):
        return f"unknown field {{{others[0][:80]}}}; known are {{context}} and {{input}}"
    if any(spec or conversion for _, _, spec, conversion in parts):
        return "a field is written {context} or {input}, without a format"
    return "" if "context" in fields else "the field {context} is missing"


def fill(template: str, sample: Sample) -> str:
    """Return the prompt of a sample; braces in its texts stand for themselves.

    Examples
    --------
    >>> sample = Sample("0", "lcc", "", "int f() {", ("}",), (), 4)
    >>> fill("Continue: {context}", sample)
    'Continue: int f() {'
    """
    return template.format(context=sample.context, input=sample.input)


def truncated_middle(tokens: Sequence[int], limit: int) -> list[int]:
    """Return tokens without their middle if they are more than `limit`: half of it from each end.

    An odd limit leaves one token less, as LongBench's half is rounded down.

    Examples
    --------
    >>> truncated_middle(range(10), 5)
    [0, 1, 8, 9]
    """
    if limit < 2:
        raise UsageError(f"a limit of {limit} tokens leaves nothing of both ends; it must be at least 2")
    if len(tokens) <= limit:
        return list(tokens)
    half = limit // 2
    return [*tokens[:half], *tokens[-half:]]

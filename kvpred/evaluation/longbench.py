"""Score answers as LongBench does: F1 of words, ROUGE-L, classes, paragraphs, counts, lines of code.

Definitions: github.com/THUDM/LongBench (version 1); Bai et al., arXiv:2308.14508.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from importlib import import_module

from kvpred.data.longbench import PARAGRAPH, Metric, get_dataset
from kvpred.errors import DataError, MissingExtraError

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Lines with one of these are taken for comments or Markdown.
_NO_CODE = ("`", "#", "//")


def score(dataset: str, prediction: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Return the score of a prediction by its dataset's metric: the best over the answers.

    Parameters
    ----------
    dataset : str
        Such as ``qasper``.
    prediction : str
    answers : sequence of str
        Each of them right.
    classes : sequence of str
        Of which the answers are some, for `classification`.

    Returns
    -------
    float
        From 0 to 1; 0 if there are no answers.

    Raises
    ------
    UsageError
        If the dataset is unknown.
    DataError
        If an answer to `retrieval` names no paragraph.
    MissingExtraError
        If rouge is not installed and needed.

    Examples
    --------
    >>> score("hotpotqa", "It is Ada Lovelace.", ["Ada Lovelace", "Lovelace"])
    0.6666666666666666
    """
    known = get_dataset(dataset)
    if known.first_line:
        prediction = prediction.lstrip("\n").partition("\n")[0]
    metric = _METRICS[known.metric]
    return max((metric(prediction, answer, classes) for answer in answers), default=0.0)


def qa_f1(prediction: str, answer: str) -> float:
    """Return the F1 of the words, in lower case and without ASCII punctuation and articles.

    Examples
    --------
    >>> qa_f1("The Nile!", "nile")
    1.0
    """
    said, true = _words(prediction), _words(answer)
    common = (Counter(said) & Counter(true)).total()
    if common == 0:
        return 0.0
    precision, recall = common / len(said), common / len(true)
    return 2 * precision * recall / (precision + recall)


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split()


def rouge_l(prediction: str, answer: str) -> float:
    """Return the F of ROUGE-L as the package rouge 1.0.1 finds it, which LongBench takes.

    That is: texts are split into sentences at each ".", the longest common subsequences of all pairs of
    sentences are united, words that occur again count once, and ``1e-8`` is added to the F's denominator.

    Returns
    -------
    float
        0 where the package raises an error: for a text without sentences (ValueError), and for sentences
        too long for its recursion, about a thousand words without a "." (RecursionError).

    Raises
    ------
    MissingExtraError
        If rouge is not installed.
    """
    try:
        rouge = import_module("rouge")
    except ModuleNotFoundError:
        raise MissingExtraError("rouge", "longbench") from None
    try:
        found = rouge.Rouge(metrics=["rouge-l"]).get_scores([prediction], [answer], avg=True)
    except (ValueError, RecursionError):
        return 0.0
    return float(found["rouge-l"]["f"])


def classification(prediction: str, answer: str, classes: Sequence[str]) -> float:
    """Return 1 over the number of classes that the prediction names, if the answer is among them, else 0.

    Classes that are a part of the answer's own name do not count, but for one that follows a class which
    was left out: LongBench removes from the list that it goes through, and so misses the next.

    Examples
    --------
    >>> classification("a date or a city", "city", ["city", "date", "food"])
    0.5
    """
    named = [name for name in classes if name in prediction]
    place = 0
    while place < len(named):
        if named[place] != answer and named[place] in answer:
            del named[place]
        place += 1
    return 1 / len(named) if answer in named else 0.0


def retrieval(prediction: str, answer: str) -> float:
    """Return the share of the prediction's numbers that are the one after "Paragraph " in the answer.

    Raises
    ------
    DataError
        If the answer names no paragraph.

    Examples
    --------
    >>> retrieval("Paragraph 3 or 4", "Paragraph 3")
    0.5
    """
    match = PARAGRAPH.search(answer)
    if match is None:
        raise DataError("expected the word 'Paragraph' and a number", column="answers", value=answer)
    return counting(prediction, match[1])


def counting(prediction: str, answer: str) -> float:
    """Return the share of the prediction's numbers that are the answer, compared as texts.

    Examples
    --------
    >>> counting("There are 7.", "7")
    1.0
    """
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(answer) / len(numbers) if numbers else 0.0


def code_similarity(prediction: str, answer: str) -> float:
    """Return how similar the prediction's first line of code is to the answer, in whole hundredths.

    That is fuzzywuzzy's ratio as its pure-Python form takes it from `difflib`; it depends on the order of
    the texts, and neglects characters that are frequent in an answer of 200 or more.

    Examples
    --------
    >>> code_similarity("# The sum:\\nreturn a + b", "return a - b")
    0.92
    """
    lines = prediction.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(mark in line for mark in _NO_CODE)), "")
    if line == answer:
        return 1.0
    # Of an empty text the ratio is 0 too.
    return round(100 * SequenceMatcher(None, line, answer).ratio()) / 100


_METRICS: Mapping[Metric, Callable[[str, str, Sequence[str]], float]] = {
    "qa-f1": lambda prediction, answer, _: qa_f1(prediction, answer),
    "rouge-l": lambda prediction, answer, _: rouge_l(prediction, answer),
    "classification": classification,
    "retrieval": lambda prediction, answer, _: retrieval(prediction, answer),
    "counting": lambda prediction, answer, _: counting(prediction, answer),
    "code": lambda prediction, answer, _: code_similarity(prediction, answer),
}

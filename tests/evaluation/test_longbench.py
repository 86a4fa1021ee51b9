"""Scores by hand, each with its derivation: LongBench's definitions with all their edges."""

from __future__ import annotations

import string
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.data.longbench import DATASETS
from kvpred.errors import DataError, MissingExtraError, UsageError
from kvpred.evaluation.longbench import (
    classification,
    code_similarity,
    counting,
    qa_f1,
    retrieval,
    rouge_l,
    score,
)


@pytest.fixture(scope="session")
def rouge() -> None:
    pytest.importorskip("rouge", reason="pip install 'kvpred[longbench]' brings rouge")


def case(derivation: str, *values: object) -> object:
    return pytest.param(*values, id=derivation)


@pytest.mark.parametrize(
    ("prediction", "answer", "f1"),
    [
        case("the same words: 1", "Ada Lovelace", "Ada Lovelace", 1.0),
        case("case, comma, stop and article do not count: 1", "The nile, Egypt.", "Nile Egypt", 1.0),
        case(
            "2 of 3 predicted and 2 of 4 true words: F1 = 2*2/(3+4)",
            "red green blue",
            "red green black white",
            4 / 7,
        ),
        case("1 of 4 predicted, 1 of 1 true: F1 = 2*1/(4+1)", "it is in Paris", "Paris", 2 / 5),
        case("order does not count: 1", "Lovelace Ada", "Ada Lovelace", 1.0),
        case("multisets: 2 of 3 'go' and 2 of 2: F1 = 2*2/(3+2)", "go go go", "go go", 4 / 5),
        case("nothing in common: 0", "yes", "no", 0.0),
        case("an empty prediction has nothing in common: 0", "", "no", 0.0),
        case("both empty: nothing in common, 0", "", "", 0.0),
        case("articles alone leave both empty: 0", "the", "The", 0.0),
        case("signs go first, then articles: 'a-n' is the article 'an', 1 of 1", "a-n owl", "owl", 1.0),
        case("articles go as whole words: 'theory', 'another' stay: 0", "theory another", "ory other", 0.0),
        case("signs leave no space: 'wellknown' against 'well', 'known': 0", "well-known", "well known", 0.0),
        case("the decimal point goes too: '35' is '3.5'", "35", "3.5", 1.0),
        case("the underscore is a sign: 'maxlen' twice", "max_len", "maxlen", 1.0),
        case("signs beyond ASCII stay: '“paris”' is not 'paris'", "“Paris”", "Paris", 0.0),
        case("an article between dashes becomes a space: 'x—', '—y', 2 of 2", "x—the—y", "x— —y", 1.0),
        case("any white space splits, Unicode's too: 2 of 2", "new\u00a0\tyork", "new york", 1.0),
    ],
)
def test_qa_f1_is_that_of_the_words(prediction: str, answer: str, f1: float) -> None:
    assert qa_f1(prediction, answer) == pytest.approx(f1, abs=1e-15)


def f_of(common: int, said: int, true: int) -> float:
    """ROUGE's F of that many common words, of those said and of the true ones, with its added 1e-8."""
    precision, recall = common / said, common / true
    return 2 * precision * recall / (precision + recall + 1e-8)


@pytest.mark.parametrize(
    ("prediction", "answer", "f"),
    [
        case("3 of 3 and 3 of 3: 2*1/(2+1e-8), not 1", "cats sat down", "cats sat down", 2 / (2 + 1e-8)),
        case(
            "'police the gunman', 3 of 4 and 3 of 4",
            "police killed the gunman",
            "police kill the gunman",
            f_of(3, 4, 4),
        ),
        case(
            "reversed but for one: no two words in order, 1 of 4 and 1 of 4",
            "gunman the killed police",
            "police kill the gunman",
            f_of(1, 4, 4),
        ),
        case("'red blue' around a gap, 2 of 2 and 2 of 3", "red blue", "red green blue", f_of(2, 2, 3)),
        case("a word counts once: 'go' 1 of 1 and 1 of 1", "go go go", "go", f_of(1, 1, 1)),
        case("case counts: 0", "Cats", "cats", 0.0),
        case(
            "signs but the stop count: 'cats,' is not 'cats', 1 of 2 each",
            "cats, sat",
            "cats sat",
            f_of(1, 2, 2),
        ),
        case(
            "spaces in a row are one, at the ends none: 2 of 2", "  cats \n sat ", "cats sat", f_of(2, 2, 2)
        ),
        case(
            "stops split: of each sentence 2 words, together 4 of 4, whatever their order",
            "red green. black white",
            "black white. red green",
            f_of(4, 4, 4),
        ),
        case(
            "without a stop the same words are one sentence: 2 in order, 2 of 4",
            "red green black white",
            "black white red green",
            f_of(2, 4, 4),
        ),
        case(
            "a union over sentences: 'red' of one and 'blue' of the other, 2 of 2 and 2 of 3",
            "red. blue",
            "blue green red",
            f_of(2, 2, 3),
        ),
        case(
            "'red' is common to both true sentences but counts once: 1 of 1 and 1 of 3",
            "red",
            "red green. red blue",
            f_of(1, 1, 3),
        ),
        case(
            "the space after the last stop is a sentence of one empty word: 1 of 2",
            "cats. ",
            "cats",
            f_of(1, 2, 1),
        ),
        case("no space after the last stop, no sentence: 1 of 1", "cats.", "cats", f_of(1, 1, 1)),
        case("the decimal point splits: '3' and '5', 2 of 2", "3.5", "3 5", f_of(2, 2, 2)),
        case("an empty prediction has no sentence: ValueError, 0", "", "cats", 0.0),
        case("an empty answer has no sentence: ValueError, 0", "cats", "", 0.0),
        case("stops alone have no sentence: ValueError, 0", "...", "cats", 0.0),
        case("white space alone is an empty word: 0 of 1", " \n", "cats", 0.0),
    ],
)
@pytest.mark.usefixtures("rouge")
def test_rouge_l_is_that_of_the_united_common_subsequences(prediction: str, answer: str, f: float) -> None:
    assert rouge_l(prediction, answer) == pytest.approx(f, abs=1e-15)


@pytest.fixture
def thousand_calls() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.usefixtures("rouge", "thousand_calls")
def test_a_sentence_that_is_too_long_for_rouge_scores_nothing() -> None:
    """The package goes one call deeper for each word; Python stops it, and LongBench counts 0."""
    words = [f"w{n}" for n in range(1000)]
    assert rouge_l(" ".join(words), " ".join(words)) == 0
    assert rouge_l(" ".join(words[:100]), " ".join(words[:100])) == f_of(100, 100, 100)


def test_without_rouge_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge", None)
    with pytest.raises(MissingExtraError, match=r"kvpred\[longbench\]"):
        rouge_l("cats", "cats")


@pytest.mark.parametrize(
    ("prediction", "answer", "classes", "expected"),
    [
        case("the true class alone: 1/1", "It is City.", "City", ["City", "Date"], 1.0),
        case("the true class and another: 1/2", "City, or Date", "City", ["City", "Date"], 1 / 2),
        case("all three named: 1/3", "Date Food City", "City", ["City", "Date", "Food"], 1 / 3),
        case("named twice, listed once: 1/1", "City City", "City", ["City", "Date"], 1.0),
        case("another class alone: 0", "Date", "City", ["City", "Date"], 0.0),
        case("no class: 0, without a nearest match", "Citi", "City", ["City", "Date"], 0.0),
        case("an empty prediction: 0", "", "City", ["City", "Date"], 0.0),
        case("case counts: 0", "city", "City", ["City", "Date"], 0.0),
        case("inside a longer word: 1/1", "Cityscape", "City", ["City", "Date"], 1.0),
        case(
            "'date' is a part of 'birth date' and left out: 1/1",
            "birth date",
            "birth date",
            ["date", "birth date"],
            1.0,
        ),
        case(
            "the longer class stays where the part is true: 1/2",
            "birth date",
            "date",
            ["date", "birth date"],
            1 / 2,
        ),
        case(
            "[a, ab, abc]: a goes, which skips ab; abc stays: 1/2",
            "abc",
            "abc",
            ["a", "ab", "abc"],
            1 / 2,
        ),
        case(
            "[a, abc, ab]: a goes, which skips abc; ab goes: 1/1",
            "abc",
            "abc",
            ["a", "abc", "ab"],
            1.0,
        ),
        case(
            "[abc, a, ab]: abc stays, a goes, which skips ab: 1/2",
            "abc",
            "abc",
            ["abc", "a", "ab"],
            1 / 2,
        ),
        case(
            "[a, b, c, abcd, d]: a goes, b is skipped, c goes, abcd is skipped, d goes; [b, abcd]: 1/2",
            "abcd",
            "abcd",
            ["a", "b", "c", "abcd", "d"],
            1 / 2,
        ),
        case("an answer that is no class: 0", "City", "Town", ["City", "Date"], 0.0),
        case("no classes: 0", "City", "City", [], 0.0),
    ],
)
def test_classification_shares_one_among_the_named_classes(
    prediction: str, answer: str, classes: list[str], expected: float
) -> None:
    assert classification(prediction, answer, classes) == expected


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        case("1 of 1 number: 1", "Paragraph 12", "Paragraph 12", 1.0),
        case("the number alone: 1 of 1", "12", "Paragraph 12", 1.0),
        case("1 of 2 numbers", "12 or 13", "Paragraph 12", 1 / 2),
        case("2 of 3 numbers", "12, 12 and 3", "Paragraph 12", 2 / 3),
        case("no number: 0", "the twelfth", "Paragraph 12", 0.0),
        case("digits of a longer number: '120' is not '12'", "120", "Paragraph 12", 0.0),
        case("compared as text: '012' is not '12'", "Paragraph 012", "Paragraph 12", 0.0),
        case("'12.5' is '12' and '5': 1 of 2", "12.5", "Paragraph 12", 1 / 2),
        case("'１２' in full width is a number, but another text: 1 of 2", "１２ 12", "Paragraph 12", 1 / 2),
        case(
            "of two paragraphs in the answer the first is true: 0 of 1", "4", "Paragraph 3, Paragraph 4", 0.0
        ),
    ],
)
def test_retrieval_is_the_share_of_true_numbers(prediction: str, answer: str, expected: float) -> None:
    assert retrieval(prediction, answer) == expected


def test_an_answer_without_a_paragraph_is_refused() -> None:
    with pytest.raises(DataError, match="column 'answers', value 'the third': expected the word 'Paragraph'"):
        retrieval("3", "the third")


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        case("1 of 1", "There are 17 paragraphs.", "17", 1.0),
        case("1 of 2", "Of 30 paragraphs 17 differ.", "17", 1 / 2),
        case("1 of 3: '1', '700' and '17'", "1,700 or 17", "17", 1 / 3),
        case("no digits: 0", "seventeen", "17", 0.0),
        case("the sign is no digit: '17' of '-17'", "-17", "17", 1.0),
        case("an empty prediction: 0", "", "17", 0.0),
    ],
)
def test_counting_is_the_share_of_true_numbers(prediction: str, answer: str, expected: float) -> None:
    assert counting(prediction, answer) == expected


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        case("the same line: 1", "return x", "return x", 1.0),
        case("7 of 8 and 8 characters: 2*7/16 = 0.875, 87.5 to the even 88", "return y", "return x", 0.88),
        case("5 of 8 and 8: 2*5/16 = 0.625, 62.5 to the even 62", "abcdexyz", "abcdefgh", 0.62),
        case("2 of 3 and 3: 2*2/6 = 0.667, to 67 hundredths", "abx", "aby", 0.67),
        case("spaces count: 'x' of '    x', 2*1/6 = 0.33", "    x", "x", 0.33),
        case("nothing in common: 0", "abc", "xyz", 0.0),
        case("the first line alone: 1", "return x\nreturn y", "return x", 1.0),
        case("leading line ends go: 1", "\n\nreturn x", "return x", 1.0),
        case("a fence is skipped: 1", "```python\nreturn x\n```", "return x", 1.0),
        case("comments of both kinds are skipped: 1", "# one\n// two\nreturn x", "return x", 1.0),
        case("a comment behind code skips its line: 1", "x = 1  # one\nreturn x", "return x", 1.0),
        case("a floor division is taken for a comment: 0", "y = a // b", "y = a // b", 0.0),
        case(
            "a blank line after a comment is a line: '' against 8 characters, 0",
            "# one\n\nreturn x",
            "return x",
            0.0,
        ),
        case("a line of spaces is a line: 0", "  \nreturn", "return", 0.0),
        case("no line of code is an empty one: 0", "# one", "return x", 0.0),
        case("both empty are equal: 1", "# one", "", 1.0),
        case("an empty answer: 0", "return x", "", 0.0),
        # Python's documentation of SequenceMatcher.ratio gives these two.
        case("longest block of 'tide', 'diet': the first, 't', 2*1/8 = 0.25", "tide", "diet", 0.25),
        case("of 'diet', 'tide': 'd' and then 'e', 2*2/8 = 0.5", "diet", "tide", 0.5),
        case(
            "199 answer characters: 199 match, 2*199/(200+199) = 0.997",
            "c" + "ab" * 99 + "a",
            "ab" * 99 + "a",
            1.0,
        ),
        case(
            "200 answer characters: a and b are frequent and begin no match: 0",
            "c" + "ab" * 100,
            "ab" * 100,
            0.0,
        ),
    ],
)
def test_code_similarity_is_the_ratio_of_the_first_line_of_code(
    prediction: str, answer: str, expected: float
) -> None:
    assert code_similarity(prediction, answer) == expected


@pytest.mark.parametrize(
    ("dataset", "prediction", "answers", "expected"),
    [
        case("the best of 2/3 and 1", "hotpotqa", "Ada Lovelace", ["Ada", "Ada Lovelace"], 1.0),
        case("the best is not the last: 1 of 1, then 0", "qasper", "yes", ["yes", "no"], 1.0),
        case("no answers: 0", "qasper", "yes", [], 0.0),
        case("triviaqa's first line: 1 of 1", "triviaqa", "\n\nParis\nQuestion: Where?", ["Paris"], 1.0),
        case("a first line of one space: 0 of 0", "triviaqa", " \nParis", ["Paris"], 0.0),
        case(
            "all lines of other datasets: 1 of 2 words, 1 of 1: 2/3",
            "2wikimqa",
            "Paris\nRome",
            ["Paris"],
            2 / 3,
        ),
        case("all lines: 1 of 2, 1 of 2 words: 1/2", "multifieldqa_en", "red\nblue", ["blue sky"], 1 / 2),
        case("one of two numbers in two lines: 1/2", "passage_count", "17\n18", ["17"], 1 / 2),
        case("the numbers of all lines: 1/2", "passage_retrieval_en", "3\n4", ["Paragraph 3"], 1 / 2),
        case("the first line of code: 1", "lcc", "```\nreturn x", ["return x"], 1.0),
        case("2*7/16 to 0.88", "repobench-p", "return y\nreturn x", ["return x"], 0.88),
    ],
)
def test_a_score_is_the_best_by_the_datasets_metric(
    dataset: str, prediction: str, answers: list[str], expected: float
) -> None:
    assert score(dataset, prediction, answers) == pytest.approx(expected, abs=1e-15)


def test_trec_compares_the_classes_of_the_first_line() -> None:
    classes = ["City", "Date"]
    assert score("trec", "\nCity\nDate", ["City"], classes) == 1
    assert score("trec", "Date\nCity", ["City"], classes) == 0


@pytest.mark.usefixtures("rouge")
def test_samsum_compares_the_first_line_and_summaries_all_lines() -> None:
    assert score("samsum", "\nred\nblue", ["red"]) == f_of(1, 1, 1)
    assert score("qmsum", "\nred\nblue", ["red"]) == f_of(1, 2, 1)
    assert score("gov_report", "red", ["blue", "red green"]) == f_of(1, 1, 2)
    assert score("multi_news", "", ["red"]) == 0


def test_an_unknown_dataset_is_refused() -> None:
    with pytest.raises(UsageError, match=r"did you mean qasper\?"):
        score("qaspr", "yes", ["yes"])


texts = st.text(alphabet=string.ascii_letters[:6] + " .\n#`/_17é", max_size=30)


@pytest.mark.usefixtures("rouge")
@given(
    dataset=st.sampled_from(list(DATASETS)),
    prediction=texts,
    answers=st.lists(texts, max_size=3),
    n=st.integers(1, 99),
)
def test_a_score_lies_between_0_and_1(dataset: str, prediction: str, answers: list[str], n: int) -> None:
    answers = [f"{answer} Paragraph {n}" for answer in answers]
    assert 0 <= score(dataset, prediction, answers, answers) <= 1


words = st.text(string.ascii_letters + string.digits, min_size=1).filter(
    lambda word: word.lower() not in {"a", "an", "the"}
)


@given(before=st.text(max_size=20), word=words, after=st.text(max_size=20))
def test_the_answer_itself_scores_1_wherever_it_holds_a_word(before: str, word: str, after: str) -> None:
    answer = f"{before} {word} {after}"
    assert qa_f1(answer, answer) == 1


@given(answer=st.text(st.characters(exclude_characters="`#/\n"), max_size=40))
def test_a_line_of_code_itself_scores_1(answer: str) -> None:
    assert code_similarity(answer, answer) == 1


@given(said=st.integers(0, 999), true=st.integers(0, 999))
def test_a_single_number_is_right_or_wrong(said: int, true: int) -> None:
    assert retrieval(f"Paragraph {said}", f"Paragraph {true}") == (said == true)
    assert counting(str(said), str(true)) == (said == true)

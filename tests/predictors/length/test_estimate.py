"""The public door: dictionaries in, one estimate each out, clear words for what is malformed."""

from __future__ import annotations

import pytest

import kvpred
from kvpred.errors import NotCoveredError, UsageError
from kvpred.predictors.length.estimate import predict_length
from kvpred.predictors.length.model import LengthModel
from kvpred.predictors.length.shift import LengthShift

ASK = {"role": "user", "content": "Write an essay about tides."}
ANSWER = {"role": "assistant", "content": "word " * 600}
SHIFT = LengthShift("h2o", 1.5, 1.3, 1.7, 0.9, "calibrated", "invented", True, "tiny")


def test_the_packaged_model_answers_in_order() -> None:
    first, again = kvpred.predict_length([[ASK], [ASK, ANSWER, ASK]])
    assert first.low_tokens < first.median_tokens < first.high_tokens
    assert again.median_tokens > first.median_tokens
    assert (first.method, first.basis, first.level) == ("fp16", "calibrated", 0.9)
    assert first.limit_tokens == 749
    assert first.stops_by(800) is None
    assert 0 < first.stops_by(200) < first.stops_by(700) < 1  # type: ignore[operator]


def test_a_wider_level_gives_a_wider_interval(model: LengthModel) -> None:
    narrow, wide = (predict_length([[ASK]], predictor=model, level=level)[0] for level in (0.5, 0.95))
    assert wide.low_tokens < narrow.low_tokens < narrow.high_tokens < wide.high_tokens


def test_a_shift_counts_as_its_own_models_or_as_transferred(model: LengthModel) -> None:
    own = predict_length([[ASK]], predictor=model, method="h2o", shifts=[SHIFT], model="tiny")[0]
    other = predict_length([[ASK]], predictor=model, method="h2o", shifts=[SHIFT])[0]
    assert (own.basis, other.basis) == ("calibrated", "transferred")
    plain = predict_length([[ASK]], predictor=model)[0]
    assert own.mean_tokens == pytest.approx(1.5 * plain.mean_tokens)


def test_a_method_without_a_measured_shift_is_not_covered(model: LengthModel) -> None:
    with pytest.raises(NotCoveredError, match="kivi:bits=2"):
        predict_length([[ASK]], predictor=model, method="kivi:bits=2", shifts=[SHIFT])


def test_no_conversations_have_no_estimates(model: LengthModel) -> None:
    assert predict_length([], predictor=model) == []


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ([], "conversation 1 must be a list of at least one"),
        ("Hello", "must be a list"),
        (ASK, "must be a list"),
        ([ASK, ANSWER], "ends with the role 'assistant'"),
        (["Hello"], "message 1 must be a mapping"),
        ([{"content": "Hello"}], "message 1 has the role None"),
        ([{"role": "oracle", "content": "Hello"}], "role 'oracle'"),
        ([{"role": "user", "content": None}], "content None"),
        ([ASK, {"role": "user"}], "message 2 has the content None"),
    ],
)
def test_malformed_conversations_are_refused(conversation: object, message: str, model: LengthModel) -> None:
    with pytest.raises(UsageError, match=message):
        predict_length([conversation], predictor=model)  # type: ignore[list-item]


@pytest.mark.parametrize("level", [0.0, 0.4, 0.96, float("nan")])
def test_levels_out_of_range_are_refused(level: float, model: LengthModel) -> None:
    with pytest.raises(UsageError, match="level"):
        predict_length([[ASK]], predictor=model, level=level)

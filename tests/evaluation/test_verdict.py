"""The word for a calibration follows from left-out errors, noise, intervals and signs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvpred.evaluation.verdict import (
    LearntMethod,
    LearntStage,
    Verdict,
    judge_calibration,
    method_verdict,
    overall_verdict,
)
from kvpred.predictors.predictor import Predictor

FINE = LearntStage(
    stage="decode",
    method="kv-int8",
    n_sites=4,
    n_runs=20,
    terms=(),
    n_left_out=4,
    accuracy=0.97,
    copy=0.9,
    skill=0.7,
    noise=0.01,
    half_width=0.1,
    inside=4,
    speedups=4,
    right_signs=4,
)


def test_a_stage_without_faults_is_good() -> None:
    assert method_verdict([FINE]) == Verdict("good", "left-out sites are off by 3.0 % on average, or less")


@pytest.mark.parametrize(
    ("change", "word", "reason"),
    [
        ({"accuracy": 0.90}, "usable", "decode of left-out sites is off by 10 %"),
        ({"accuracy": 0.80}, "unreliable", "decode of left-out sites is off by 20 %"),
        ({"half_width": 0.4}, "usable", "intervals of decode reach to 40 %"),
        ({"half_width": 0.7}, "unreliable", "intervals of decode reach to 70 %"),
        ({"noise": 0.08}, "usable", "repeats of decode scatter: the median is off by 8 %"),
        ({"noise": 0.2}, "unreliable", "repeats of decode scatter: the median is off by 20 %"),
        ({"right_signs": 3}, "usable", "right at 3 of 4 left-out sites"),
        ({"right_signs": 2}, "unreliable", "right at 2 of 4 left-out sites"),
        ({"speedups": 1, "right_signs": 0}, "usable", "right at 0 of 1 left-out sites"),
        ({"n_sites": 1}, "unreliable", "1 sites of decode are too few"),
        (
            {"method": "fp16", "n_sites": 5},
            "unreliable",
            "5 sites of decode are too few",
        ),
        ({"accuracy": None, "half_width": None}, "unreliable", "no site of decode can be left out"),
    ],
)
def test_each_fault_has_its_word(change: dict[str, object], word: str, reason: str) -> None:
    verdict = method_verdict([FINE, replace(FINE, **change)])
    assert verdict.word == word
    assert reason in verdict.reason


def test_the_whole_is_as_good_as_its_weakest_method() -> None:
    good = LearntMethod("fp16", (FINE,), Verdict("good", "fine"))
    weak = LearntMethod("kivi:bits=2", (FINE,), Verdict("usable", "noise"))
    assert overall_verdict([good, good]).word == "good"
    assert overall_verdict([good, weak, good]) == Verdict("usable", "kivi: noise")


def test_the_packaged_runs_are_judged_stage_by_stage(packaged: Predictor) -> None:
    methods = judge_calibration(packaged)
    assert methods[0].method == "fp16"
    assert {one.method for one in methods} == set(packaged.methods)
    for one in methods:
        assert [stage.stage for stage in one.stages] == ["prefill", "decode"]
        for stage in one.stages:
            assert stage.n_left_out == stage.n_sites == 19
            assert stage.accuracy is not None
            assert stage.accuracy > 0.95
            assert stage.inside >= 14
            assert {term.name for term in stage.terms} >= {"fixed"}
    h2o = next(one for one in methods if one.method.startswith("h2o"))
    assert h2o.stages[0].right_signs == h2o.stages[0].speedups > 5

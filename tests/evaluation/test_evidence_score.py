"""Predicted directions against published ones, counted by hand."""

from __future__ import annotations

import pytest

from kvpred.data.evidence import read_evidence
from kvpred.evaluation.evidence_score import Score, score_evidence
from kvpred.predictors.predictor import Predictor
from tests.made_up_evidence import make_evidence

B = "https://example.com/b"


def of_group(scores: tuple[Score, ...], group: str) -> Score:
    return next(score for score in scores if score.group == group)


def test_every_source_weighs_the_same(packaged: Predictor) -> None:
    """fp8 is predicted to decode faster: source A is right in 2 of 3 rows, source B in 0 of 1."""
    rows = [make_evidence(ratio_better=ratio) for ratio in (1.25, 1.1, 0.5)]
    rows.append(make_evidence(ratio_better=0.8, source_url=B))
    score = of_group(score_evidence(rows, packaged).scores, "all")
    assert (score.n_rows, score.n_sources) == (4, 2)
    assert score.right == score.always_faster == pytest.approx((2 / 3 + 0) / 2)
    assert score.always_slower == pytest.approx((1 / 3 + 1) / 2)
    # Two sources drawn with replacement: both B in a quarter of the draws, both A in another.
    assert (score.low, score.high) == (pytest.approx(0.0), pytest.approx(2 / 3))


def test_one_source_has_no_interval(packaged: Predictor) -> None:
    score = of_group(score_evidence([make_evidence()], packaged).scores, "stage decode")
    assert score.right == 1.0
    assert (score.low, score.high) == (None, None)


def test_the_same_seed_gives_the_same_interval(packaged: Predictor) -> None:
    rows = read_evidence()
    assert score_evidence(rows, packaged, seed=3).scores == score_evidence(rows, packaged, seed=3).scores


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stage": "memory"}, "memory"),
        ({"ratio_better": 1.03}, "no direction"),
        ({"ratio_better": 1 / 1.03}, "no direction"),
        ({"method": ""}, "no counterpart"),
        ({"engine": "MLX"}, "engine"),
        ({"weights": "4bit"}, "weights"),
        ({"model": "gpt-oss-20b"}, "model"),
        ({"device": "RTX 5090"}, "device"),
        ({"bsz": None}, "not given"),
        ({"stage": "e2e", "output_len": None}, "not given"),
        ({"model": "llama-3.1-70b", "tp": 7}, "no basis"),
    ],
)
def test_rows_without_a_verdict_are_counted_by_reason(
    packaged: Predictor, change: dict[str, object], reason: str
) -> None:
    score = score_evidence([make_evidence(**change)], packaged)
    assert (score.judged, score.scores) == ((), ())
    ((found, count),) = score.left_out.items()
    assert reason in found
    assert count == 1


def test_an_unknown_answer_length_and_an_empty_context_do_not_keep_a_decode_row_out(
    packaged: Predictor,
) -> None:
    score = score_evidence([make_evidence(output_len=None, prompt_len=0)], packaged)
    assert len(score.judged) == 1


def test_said_counts_slower_same_and_faster(packaged: Predictor) -> None:
    rows = [make_evidence(ratio_better=ratio, engine="MLX") for ratio in (0.5, 1.0)]
    rows.append(make_evidence(ratio_better=2.0, source_url=B))
    said = {one.group: one for one in score_evidence(rows, packaged).said}["stage decode"]
    assert (said.slower, said.same, said.faster) == pytest.approx((0.25, 0.25, 0.5))


def test_the_packaged_rows_judge_the_packaged_predictor(packaged: Predictor) -> None:
    """All of it is a roofline, which says faster nearly everywhere; compare the output with the docs."""
    score = score_evidence(read_evidence(), packaged)
    whole = of_group(score.scores, "all")
    assert (whole.n_rows, whole.n_sources) == (26, 4)
    assert len(score.judged) + sum(score.left_out.values()) == 254
    assert {one.basis for one in score.judged} == {"roofline"}
    assert whole.low is not None
    assert whole.high is not None
    assert whole.low <= whole.right <= whole.high

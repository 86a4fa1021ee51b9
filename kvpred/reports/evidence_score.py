"""The score of predicted directions against published measurements, as tables and as one JSON object."""

from __future__ import annotations

from dataclasses import asdict
from math import isclose
from typing import Any

from kvpred.evaluation.evidence_score import NO_DIFFERENCE, EvidenceScore
from kvpred.reports.sheets import Column, Sheet, percent, sheet

_SCORE = (
    Column("group", "Rows"),
    Column("n_rows", "n", str),
    Column("n_sources", "Sources", str),
    Column("right", "Right %", percent),
    Column("low", "from", percent),
    Column("high", "to", percent),
    Column("always_slower", "Guess “slower” %", percent),
    Column("always_faster", "Guess “faster” %", percent),
)
_SAID = (
    Column("group", "Rows"),
    Column("n_rows", "n", str),
    Column("n_sources", "Sources", str),
    Column("slower", "Slower %", percent),
    Column("same", f"Within {NO_DIFFERENCE:.0%} %".replace("% %", "%"), percent),
    Column("faster", "Faster %", percent),
)


def score_sheets(score: EvidenceScore) -> list[Sheet]:
    """Return how often the direction was right, what the measurements say, and why others were not judged."""
    rows = [list(asdict(one).values()) for one in score.scores]
    said = [list(asdict(one).values()) for one in score.said]
    reasons = (Column("reason", "Not judged because"), Column("n_rows", "n", str))
    return [
        sheet("evidence_score", score_finding(score), _SCORE, rows),
        sheet("evidence_said", "What the published rows say themselves", _SAID, said),
        sheet("evidence_not_judged", "Rows without a verdict", reasons, score.left_out.items()),
    ]


def score_finding(score: EvidenceScore) -> str:
    """Say how the prediction did, next to the better of the guesses without any model."""
    whole = next((one for one in score.scores if one.group == "all"), None)
    if whole is None:
        return "No published row has both a direction and a prediction"
    guess, share = max(
        ("slower", whole.always_slower), ("faster", whole.always_faster), key=lambda pair: pair[1]
    )
    verdict = "better than" if whole.right > share else "worse than"
    if isclose(whole.right, share):
        verdict = "no better than"
    return (
        f"The predicted direction is right in {whole.right:.0%} of {whole.n_rows} published rows "
        f"({whole.n_sources} sources), {verdict} saying “always {guess}” ({share:.0%})"
    )


def score_notes(score: EvidenceScore) -> list[str]:
    """Say how to read the score."""
    return [
        f"Every source weighs the same. Intervals: {score.level:.0%}, from resampling sources; where there "
        "are few, they say little.",
        f"Rows within {NO_DIFFERENCE:.0%} of the 16-bit cache have no direction. “Always faster” is also "
        "what fewer bytes to read say.",
    ]


def score_record(score: EvidenceScore) -> dict[str, Any]:
    """Return everything as one object that JSON can hold, every judged row with its prediction."""
    scores, said, reasons = score_sheets(score)
    return {
        "finding": score_finding(score),
        "interval_level": score.level,
        "no_difference": NO_DIFFERENCE,
        "scores": scores.records(),
        "said": said.records(),
        "not_judged": reasons.records(),
        "judged": [
            {"predicted_ratio": one.predicted, "basis": one.basis, "right": one.right, **asdict(one.row)}
            for one in score.judged
        ],
    }

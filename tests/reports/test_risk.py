"""Risks of requests as tables and as records."""

from __future__ import annotations

import json
from dataclasses import replace
from math import nan

import pytest
from rich.console import Console

from kvpred.evaluation.length_shift import Bounded
from kvpred.evaluation.risk import RiskStudy, TaskRisk
from kvpred.evaluation.risk_scores import CalibrationBin
from kvpred.reports.risk import risk_records, risk_sheets
from kvpred.reports.tables import rich_tables

STUDY = RiskStudy(
    run="h2o_Meta-Llama-3-8B-instruct_8192_b1_c1024_w64_k7_maxpool",
    label="h2o_c1024_w64_k7_maxpool",
    known=("task type",),
    threshold=0.1,
    shares=(TaskRisk("code", 2, 400, 60, 0.05, 0.3), TaskRisk("all", 13, 1200, 300, 0.2, 0.31)),
    auc=Bounded(0.46, 0.35, 0.58),
    base_auc=0.41,
    skill=Bounded(-0.012, -0.05, 0.02),
    brier_skill=Bounded(-0.01, -0.04, 0.01),
    bins=(CalibrationBin(600, 0.24, 0.27), CalibrationBin(600, 0.27, 0.23)),
    level=0.9,
    missing=("qmsum",),
)
BETTER = replace(STUDY, label="kivi", skill=Bounded(0.1, 0.02, 0.2))


def test_the_title_states_the_finding() -> None:
    beyond = "Which requests break can be told beforehand better than by the base rate"
    for studies, finding in (
        ([STUDY], "Which requests break cannot be told beforehand better than by the base rate"),
        ([BETTER], beyond),
        ([STUDY, BETTER], f"{beyond} for kivi"),
    ):
        said = "from task type; broken: 10% of the score is lost; 90% intervals over datasets"
        assert risk_sheets(studies)[0].title == f"{finding} ({said})"


def test_tables_hold_what_was_found_and_fit_a_terminal() -> None:
    judged, bins, shares = risk_sheets([STUDY, BETTER])
    first = judged.records()[0]
    assert (first["benign"], first["share"], first["base_auc"]) == (1200, 0.25, 0.41)
    assert (first["auc"], first["auc_low"], first["auc_high"]) == (0.46, 0.35, 0.58)
    assert [row["verdict"] for row in judged.records()] == ["no better", "beats base rate"]
    assert bins.records()[1] == {
        "method": STUDY.label, "requests": 600, "predicted": 0.27, "observed": 0.23
    }  # fmt: skip
    assert [row["task"] for row in shares.records()] == ["code", "all"] * 2
    assert shares.records()[0]["share_high"] == 0.3
    console = Console(width=132, highlight=False)
    with console.capture() as printed:
        console.print(rich_tables([judged, bins, shares]))
    assert "no better" in printed.get()


def test_what_is_not_known_is_left_empty() -> None:
    unknown = replace(STUDY, auc=Bounded(nan, nan, nan))
    assert risk_sheets([unknown])[0].records()[0]["auc"] is None
    assert risk_sheets([unknown])[0].shown()[0][3] == "–"


def test_records_hold_everything_as_json_can() -> None:
    (record,) = json.loads(json.dumps(risk_records([STUDY])))
    assert record["run"] == STUDY.run
    assert record["verdict"] == "no better"
    assert record["log_loss_skill_interval"] == [-0.05, 0.02]
    assert record["missing"] == ["qmsum"]
    assert record["shares"][1] == {
        "task": "all", "datasets": 13, "benign": 1200, "broken": 300, "low": 0.2, "high": 0.31, "share": 0.25
    }  # fmt: skip
    assert record["calibration"][0] == {"requests": 600, "predicted": pytest.approx(0.24), "observed": 0.27}

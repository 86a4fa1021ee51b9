"""The report of published measurements: its page, its tables and its figure."""

from __future__ import annotations

from pathlib import Path

import pytest

import kvpred
from kvpred.data.evidence import read_evidence
from kvpred.evaluation.evidence import Wanted, beside, nearest
from kvpred.evaluation.evidence_score import EvidenceScore, score_evidence
from kvpred.predictors.predictor import Predictor
from kvpred.reports.evidence import Explained, explanation, near_sheet, source_notes
from kvpred.reports.evidence_figures import ratio_figure, write_evidence_report
from kvpred.reports.evidence_score import score_finding
from kvpred.reports.style import method_marker
from tests.made_up_evidence import make_evidence


@pytest.fixture(scope="module")
def score(packaged: Predictor) -> EvidenceScore:
    return score_evidence(read_evidence(), packaged)


def test_the_figure_draws_every_row_of_speed_with_a_length_once(score: EvidenceScore) -> None:
    rows = read_evidence()
    figure = ratio_figure(rows, score)
    drawn = [(x, y) for trace in figure.plot.data for x, y in zip(trace.x, trace.y, strict=True) if x]
    known = [(row.prompt_len, row.ratio_better) for row in rows if row.stage != "memory" and row.prompt_len]
    assert sorted(drawn) == sorted(known)
    assert figure.plot.layout.yaxis.type == "log"
    assert "slower in" in figure.finding


def test_a_method_has_its_colour(score: EvidenceScore) -> None:
    traces = [trace for trace in ratio_figure(read_evidence(), score).plot.data if trace.name == "kv-fp8"]
    assert {trace.marker.color for trace in traces} == {method_marker("kv-fp8")["color"]}


def test_each_source_has_a_number_and_its_address() -> None:
    rows = [make_evidence(), make_evidence(source_url="https://example.com/b", bsz=64), make_evidence(bsz=9)]
    found = nearest(Wanted(method="kv-fp8", bsz=8), rows=rows)
    assert near_sheet(found, Wanted(method="kv-fp8", bsz=8)).rows[0][-1] == 1
    assert source_notes(found) == ["[1] https://example.com/a", "[2] https://example.com/b"]


def test_an_explanation_puts_the_prediction_beside_the_measurement() -> None:
    estimate = kvpred.predict(method="kv-fp8", bsz=8, prompt_len=4096)
    explained = Explained(estimate, "something", tuple(beside(estimate)))
    first = explanation(explained)["evidence"][0]
    assert first["predicted_ratio"] == estimate.speedup_vs_fp16[first["stage"]]
    brief = explanation(explained, brief=True)["evidence"][0]
    assert brief == f"{first['stage']} {first['ratio_better']:.2f}× {first['source_url']}"


@pytest.mark.parametrize(
    ("ratios", "words"),
    [((1.2, 1.3), "no better than saying “always faster” (100%)"), ((0.5, 0.6), "worse than saying")],
)
def test_the_finding_is_honest(packaged: Predictor, ratios: tuple[float, ...], words: str) -> None:
    rows = [make_evidence(ratio_better=ratio) for ratio in ratios]
    assert words in score_finding(score_evidence(rows, packaged))


def test_the_report_has_every_table_as_csv(
    score: EvidenceScore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chrome")
    rows, question = read_evidence(), Wanted(method="kv-fp8")
    written = write_evidence_report(
        rows, score, tmp_path / "report", question=question, found=nearest(question, rows=rows)
    )
    assert {"evidence.csv", "nearest.csv", "evidence_score.csv", "report.html"} <= set(written.files)
    assert len((tmp_path / "report" / "evidence.csv").read_text().splitlines()) == len(rows) + 1

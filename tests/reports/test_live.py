"""A live validation, shown: the same figures in the terminal, the JSON, the CSV files and the page."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import pytest

from kvpred.data.runs import Run
from kvpred.evaluation.live import judge_live, live_verdict
from kvpred.evaluation.live_report import LivePrediction, LiveValidation
from kvpred.reports.live import live_figure, live_notes, live_record, live_sheets, stages_sheet, write_live

PLACES = ((1, 300), (2, 700), (4, 1500), (8, 900), (3, 500), (5, 2000))
FACTORS = {"fp16": 1.0, "kv-int8": 0.8}
PREDICTED_OVER_MEASURED = 1.04


@pytest.fixture
def result() -> LiveValidation:
    """Predictions that are all 4 % too slow, of two methods that differ by 20 %."""
    predictions, runs = [], []
    for (method, factor), (bsz, prompt_len), stage in product(FACTORS.items(), PLACES, ("prefill", "decode")):
        tokens = bsz * prompt_len
        measured_s = factor * (0.01 + 1e-5 * tokens)
        said_s = PREDICTED_OVER_MEASURED * measured_s
        predictions.append(
            LivePrediction(
                method, stage, bsz, prompt_len, 32, said_s, said_s / 1.1, said_s * 1.1, said_s / factor
            )
        )
        done = tokens if stage == "prefill" else bsz
        for repeat, wobble in enumerate((0.99, 1.0, 1.01)):
            time_s = wobble * measured_s
            runs.append(
                Run(
                    model="smollm2-135m", engine="openvino", device="host-cpu", method=method, bsz=bsz,
                    prompt_len=prompt_len, output_len=32, stage=stage, throughput_tok_s=done / time_s,
                    repeat=repeat,
                )
            )  # fmt: skip
    report = judge_live(predictions, runs, level=0.9)
    return LiveValidation(
        name="my-bundle",
        provenance="runs of ours",
        written_at=datetime(2026, 3, 1, tzinfo=UTC),
        digest="ab" * 32,
        seed=7,
        report=report,
        verdict=live_verdict(report),
        drift={"prefill": 0.98, "decode": 1.1},
        steady_accuracy={"prefill": 0.97, "decode": 0.99},
        notes=("2 of 72 runs are marked (drift): 2 are left out.",),
    )


def test_the_verdict_is_that_of_a_calibration_with_such_errors(result: LiveValidation) -> None:
    assert result.verdict.word == "good"
    slower = replace(result.report.cells[0], accuracy=0.5)
    worse = live_verdict(replace(result.report, cells=(slower, *result.report.cells[1:])))
    assert (worse.word, worse.reason.partition(":")[0]) == ("unreliable", "fp16")


def test_sheets_show_stages_methods_and_sites(result: LiveValidation) -> None:
    stages, cells, sites = live_sheets(result)
    assert [row["stage"] for row in stages.records()] == ["prefill", "decode"]
    assert [row["accuracy"] for row in stages.records()] == pytest.approx([0.96, 0.96])
    assert [row["right_signs"] for row in cells.records()] == [0, 6, 0, 6]
    assert [row["error"] for row in sites.records()] == pytest.approx([0.04] * 24)
    assert {row[12] for row in sites.shown()} == {"yes"}


def test_the_record_is_json_and_says_what_the_sheets_say(result: LiveValidation) -> None:
    record = json.loads(json.dumps(live_record(result)))
    assert (record["verdict"], record["digest"], record["seed"]) == ("good", "ab" * 32, 7)
    assert record["stages"][0]["accuracy"] == pytest.approx(
        stages_sheet(result.report).records()[0]["accuracy"]
    )
    assert record["sites"][0]["measured_s"] == pytest.approx(result.report.sites[0].measured_s)


def test_notes_give_the_verdict_the_digest_and_the_marks(result: LiveValidation) -> None:
    notes = " ".join(live_notes(result))
    assert "Verdict: good" in notes
    assert "ab" * 32 in notes
    assert "2 of 72 runs are marked" in notes
    assert "2.0 % less in prefill (accuracy without that 97.0 %) and 10.0 % longer in decode" in notes
    assert "not judged" not in notes


def test_what_is_not_measured_is_noted(result: LiveValidation) -> None:
    lacking = replace(result.report, unmeasured=(result.report.sites[0].predicted,))
    assert "1 predictions are not judged" in " ".join(live_notes(replace(result, report=lacking)))


def test_the_figure_has_a_diagonal_and_every_site_with_its_noise(result: LiveValidation) -> None:
    figure = live_figure(result.report)
    traces = figure.plot.data
    assert len(traces) == 2 * (1 + len(FACTORS))
    assert list(traces[0].x) == list(traces[0].y)
    assert sum(len(trace.x) for trace in traces if trace.mode == "markers") == 24
    noise = result.report.sites[0].error_of_median * result.report.sites[0].measured_s
    assert traces[1].error_x.array[0] == pytest.approx(1e3 * noise)
    assert "prefill 4.0 %, decode 4.0 %" in figure.finding


def test_the_folder_holds_page_and_tables(
    result: LiveValidation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chrome")
    written = write_live(result, tmp_path / "report")
    assert set(written.files) == {"report.html", "stages.csv", "accuracy.csv", "sites.csv"}
    assert "my-bundle: predicted, then measured" in written.page.read_text()

"""Simulated traffic as tables, objects and figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kvpred.predictors.predictor import Predictor
from kvpred.reports.simulation import (
    requests_sheet,
    table_notes,
    traffic_rows,
    traffic_sheets,
    write_traffic_report,
)
from kvpred.reports.simulation_figures import (
    band_figure,
    cdf_figure,
    cdf_sheet,
    in_service_figure,
    in_service_sheet,
)
from kvpred.reports.style import method_label, method_marker
from kvpred.simulation.outcome import TrafficStudy
from kvpred.workflows.simulating import SimulationRequest, study_traffic
from kvpred.workflows.workloads import WorkloadRequest


@pytest.fixture(scope="module")
def study(packaged: Predictor) -> TrafficStudy:
    workload = WorkloadRequest(qps=2.0, n_requests=40, prompt_len=800, output_len=40)
    request = SimulationRequest(workload, ["fp16", "h2o", "kivi:bits=2"], price_per_hour=0.8)
    return study_traffic(request, predictor=packaged)


def test_rows_hold_what_the_tables_show(study: TrafficStudy) -> None:
    rows = traffic_rows(study)
    e2e, ttft, _, load = (sheet.records() for sheet in traffic_sheets(study))
    for index, row in enumerate(rows):
        assert e2e[index]["mean_s"] == row["e2e_s"]["mean"]
        assert ttft[index]["p99_s"] == row["ttft_s"]["p99"]
        assert (e2e[index]["mean_s_low"], e2e[index]["mean_s_high"]) == row["interval"]["e2e_s"]["mean"]
        assert load[index]["usd_per_request"] == row["usd_per_request"]
    assert json.loads(json.dumps(rows, allow_nan=False)) is not None


def test_tables_mark_what_was_not_measured(study: TrafficStudy) -> None:
    e2e, *_ = traffic_sheets(study)
    assert [row["basis"].endswith(" *") for row in e2e.records()] == [False, False, True]
    assert any(note.startswith("* outside the range") for note in table_notes(study))


def test_cumulative_shares_are_quantiles_of_the_requests(study: TrafficStudy) -> None:
    rows = [row for row in cdf_sheet(study).records() if row["metric"] == "e2e"]
    fp16 = study.outcomes[0]
    assert fp16.runs is not None
    own = {row["share"]: row for row in rows if row["method_params"] == "fp16"}
    for share in (0.0, 0.5, 1.0):
        assert own[share]["seconds"] == pytest.approx(np.quantile(fp16.runs.usual.served.e2e_s, share))
        assert own[share]["seconds_low"] < own[share]["seconds"] < own[share]["seconds_high"]
    figure = cdf_figure(study)
    assert figure.finding.startswith("Under ")
    line = next(trace for trace in figure.plot.data if trace.mode == "lines")
    assert line.line.color == method_marker("fp16")["color"]
    assert list(line.x) == [row["seconds"] for row in own.values()]


def test_bands_are_drawn_from_fast_to_slow(study: TrafficStudy) -> None:
    figure = band_figure(study)
    last = study.outcomes[-1]
    assert last.runs is not None
    drawn = figure.plot.data[0]
    ends = (drawn.x[0] - drawn.error_x.arrayminus[0], drawn.x[0] + drawn.error_x.array[0])
    expected = (last.runs.fast.served.e2e_s.mean(), last.runs.slow.served.e2e_s.mean())
    assert ends == pytest.approx(expected)
    assert "kivi:bits=2" in figure.finding


def test_nobody_is_in_the_house_at_the_end(study: TrafficStudy) -> None:
    rows = in_service_sheet(study).records()
    assert all(0 <= row["waiting"] <= row["requests"] <= 40 for row in rows)
    assert rows[-1]["requests"] == 0
    most = max(row["requests"] for row in rows)
    names = {method_label(row["method_params"]) for row in rows if row["requests"] == most}
    assert any(f" {most} under {name}" in in_service_figure(study).finding for name in names)


def test_every_request_stands_in_the_data(study: TrafficStudy) -> None:
    rows = requests_sheet(study).records()
    assert len(rows) == 3 * 40
    assert all(row["queued_s"] <= row["first_token_at_s"] - row["arrived_at_s"] for row in rows)


def test_a_report_of_one_method_and_answers_of_one_token(packaged: Predictor, tmp_path: Path) -> None:
    workload = WorkloadRequest(qps=1.0, n_requests=5, prompt_len=50, output_len=1)
    study = study_traffic(SimulationRequest(workload, ["fp16"]), predictor=packaged)
    written = write_traffic_report(study, tmp_path / "report")
    assert "vllm scheduler, fp16" in written.page.read_text()
    assert traffic_sheets(study)[2].records()[0]["mean_s"] is None
    assert [title.text for title in cdf_figure(study).plot.layout.annotations] == [
        "end to end",
        "time to first token",
    ]

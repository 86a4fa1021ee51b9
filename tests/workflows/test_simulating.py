"""From requests to outcomes: shifts of length, the model's context, and uncertainty."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kvpred.predictors.length.outputs import output_shift
from kvpred.predictors.length.shift import LengthShift, write_shifts
from kvpred.predictors.predictor import Predictor
from kvpred.workflows.server import Server
from kvpred.workflows.simulating import SimulationRequest, save_requests, study_traffic
from kvpred.workflows.workloads import WorkloadRequest

WORKLOAD = WorkloadRequest(qps=1.0, n_requests=20, prompt_len=500, output_len=30)


def test_methods_serve_the_same_requests(packaged: Predictor) -> None:
    said: list[str] = []
    study = study_traffic(
        SimulationRequest(WORKLOAD, ["fp16", "h2o"]), predictor=packaged, progress=said.append
    )
    fp16, h2o = study.outcomes
    assert (fp16.trace.arrived_at_s == h2o.trace.arrived_at_s).all()
    assert said == ["serving 20 requests under fp16", "serving 20 requests under h2o"]
    assert study.baseline is fp16
    shift = output_shift("h2o", "llama-2-7b")
    assert any(f"{shift.multiplier:.2f} times as long as fp16's" in note for note in study.notes)


def test_given_shifts_go_first_and_the_context_ends_answers(packaged: Predictor, tmp_path: Path) -> None:
    made_up = LengthShift("kv-int8", 3.0, 2.5, 3.5, 0.9, "calibrated", "made up", True, "llama-2-7b")
    write_shifts(tmp_path / "shifts.json", [made_up])
    request = SimulationRequest(
        replace(WORKLOAD, prompt_len=4000, n_requests=2), ["kv-int8"], Server(shifts=tmp_path / "shifts.json")
    )
    study = study_traffic(request, predictor=packaged)
    (outcome,) = study.outcomes
    assert outcome.trace.output_tokens.tolist() == [90, 90]
    assert outcome.cut == 0
    longer = replace(request, workload=replace(request.workload, output_len=60))
    (outcome,) = study_traffic(longer, predictor=packaged).outcomes
    assert outcome.trace.output_tokens.tolist() == [96, 96]
    assert outcome.cut == 2


def test_a_wider_level_widens_the_band(packaged: Predictor) -> None:
    widths = []
    for level in (0.5, 0.9):
        (outcome,) = study_traffic(
            SimulationRequest(WORKLOAD, ["fp16"], Server(level=level)), predictor=packaged
        ).outcomes
        assert outcome.runs is not None
        band = outcome.runs.band(lambda one: float(one.served.e2e_s.mean()))
        widths.append(band.high / band.low)
    assert 1 < widths[0] < widths[1]


def test_two_devices_cost_twice_an_hour(packaged: Predictor) -> None:
    request = SimulationRequest(WORKLOAD, ["fp16"], Server(device="a100", tp=2), price_per_hour=1.5)
    assert study_traffic(request, predictor=packaged).usd_per_hour == pytest.approx(3.0)


def test_saving_makes_the_folder(packaged: Predictor, tmp_path: Path) -> None:
    study = study_traffic(SimulationRequest(WORKLOAD, ["fp16"]), predictor=packaged)
    path = save_requests(study, tmp_path / "new" / "folder")
    assert path.read_text().count("\n") == 21

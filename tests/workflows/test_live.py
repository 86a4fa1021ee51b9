"""Predictions come first, stay as they are, and are judged where they were made."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import kvpred
from kvpred.errors import DataError, KvpredError, UsageError
from kvpred.evaluation.unseen import draw_sites
from kvpred.hardware.host import detect_cpu
from kvpred.predictors.bundle import save
from kvpred.workflows.frozen import MEASURED, PREDICTIONS, freeze, predict_sites
from kvpred.workflows.live import LiveRequest, device_here, validate_live
from tests.host_bundle import write_host_bundle, write_weights

# An engine that refuses random weights: predictions are made, nothing is measured.
REFUSING = "llamacpp"


@pytest.fixture
def request_(tmp_path: Path) -> LiveRequest:
    """A request for a bundle of this host and the tiny model."""
    bundle, config = write_host_bundle(tmp_path)
    return LiveRequest(predictor=bundle, model=str(config), n_sites=3, repeats=2, dtype="float32")


@pytest.fixture
def refused(tmp_path: Path) -> LiveRequest:
    """A request whose engine does not start."""
    bundle, config = write_host_bundle(tmp_path, engine=REFUSING)
    return LiveRequest(predictor=bundle, model=str(config), n_sites=3)


def attempt(request: LiveRequest, output: Path) -> str:
    """Validate, fail to measure, and return the text of the predictions."""
    with pytest.raises(KvpredError):
        validate_live(request, output)
    return (output / PREDICTIONS).read_text()


def test_predictions_are_on_disk_though_nothing_can_be_measured(refused: LiveRequest, tmp_path: Path) -> None:
    written = json.loads(attempt(refused, tmp_path / "live"))
    assert len(written["predictions"]) == 3 * 2 * 2
    assert {one["method"].partition(":")[0] for one in written["predictions"]} == {"fp16", "kv-int8"}
    assert written["bundle_digest"] == json.loads((refused.predictor / "bundle.json").read_text())["digest"]


def test_predictions_are_what_predict_says(request_: LiveRequest) -> None:
    predictor = kvpred.load(request_.predictor)
    sites = draw_sites(predictor, n_sites=2)
    method = predictor.methods[-1]
    decode = predict_sites(predictor, {method: sites}, level=0.8)[2:]
    for said, site in zip(decode, sites, strict=True):
        estimate = kvpred.predict(
            method=method, bsz=site.bsz, prompt_len=site.prompt_len, output_len=site.output_len, level=0.8,
            predictor=predictor, model=predictor.place.model, device=predictor.place.device,
            engine=predictor.engine,
        )  # fmt: skip
        assert said.predicted_s == pytest.approx(estimate.decode_step_time_s, rel=1e-8)
        assert (said.low_s, said.high_s) == pytest.approx(estimate.interval["decode_step_time_s"], rel=1e-8)


def test_the_copy_is_fp16s_own_prediction_where_a_method_attends_to_everything(request_: LiveRequest) -> None:
    predictor = kvpred.load(request_.predictor)
    sites = draw_sites(predictor, n_sites=2)
    said = {(p.method, p.stage, p.bsz, p.prompt_len): p for p in predict_sites(
        predictor, dict.fromkeys(predictor.methods, sites), level=0.9
    )}  # fmt: skip
    for (method, *place), one in said.items():
        assert one.copy_s == pytest.approx(said["fp16", *place].predicted_s), method


def test_a_second_call_keeps_the_predictions(refused: LiveRequest, tmp_path: Path) -> None:
    assert attempt(refused, tmp_path / "live") == attempt(refused, tmp_path / "live")


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    found = freeze({"predictions": []}, tmp_path)
    assert found.digest == hashlib.sha256((tmp_path / PREDICTIONS).read_bytes()).hexdigest()


@pytest.mark.parametrize("change", [{"seed": 1}, {"n_sites": 4}, {"level": 0.8}, {"repeats": 9}])
def test_another_request_is_refused(refused: LiveRequest, tmp_path: Path, change: dict[str, object]) -> None:
    before = attempt(refused, tmp_path / "live")
    with pytest.raises(UsageError, match=r"holds other predictions \(another "):
        validate_live(replace(refused, **change), tmp_path / "live")  # type: ignore[arg-type]
    assert (tmp_path / "live" / PREDICTIONS).read_text() == before


def test_another_bundle_is_refused(refused: LiveRequest, tmp_path: Path) -> None:
    attempt(refused, tmp_path / "live")
    predictor = kvpred.load(refused.predictor)
    save(replace(predictor, provenance="tuned afterwards"), refused.predictor)
    with pytest.raises(UsageError, match="another bundle_digest"):
        validate_live(refused, tmp_path / "live")


def test_changed_predictions_are_refused(refused: LiveRequest, tmp_path: Path) -> None:
    written = json.loads(attempt(refused, tmp_path / "live"))
    written["predictions"][0]["predicted_s"] *= 1.01
    (tmp_path / "live" / PREDICTIONS).write_text(json.dumps(written))
    with pytest.raises(UsageError, match="another predictions"):
        validate_live(refused, tmp_path / "live")


@pytest.mark.parametrize("content", ["[", "{}", "[1]", '{"written_at": "yesterday"}'])
def test_a_damaged_file_is_refused(refused: LiveRequest, tmp_path: Path, content: str) -> None:
    (tmp_path / PREDICTIONS).write_text(content)
    with pytest.raises(DataError, match=r"predictions\.json"):
        validate_live(refused, tmp_path)


def test_runs_without_predictions_are_refused(refused: LiveRequest, tmp_path: Path) -> None:
    (tmp_path / "live" / MEASURED).mkdir(parents=True)
    (tmp_path / "live" / MEASURED / "runs.csv").touch()
    with pytest.raises(UsageError, match="holds runs but no predictions"):
        validate_live(refused, tmp_path / "live")


def test_another_host_is_refused(request_: LiveRequest, tmp_path: Path) -> None:
    predictor = kvpred.load(request_.predictor)
    assert device_here(predictor) == "cpu"
    device = replace(detect_cpu(), title="Another CPU", cores=96)
    elsewhere = replace(predictor, place=replace(predictor.place, device=device))
    save(elsewhere, request_.predictor)
    with pytest.raises(UsageError, match=r"speaks of Another CPU \(96 cores\), this host has"):
        validate_live(request_, tmp_path / "live")
    assert not (tmp_path / "live").exists()


def test_a_card_that_is_not_here_is_refused(packaged: object) -> None:
    with pytest.raises(UsageError, match="speaks of NVIDIA RTX A6000, this host has"):
        device_here(packaged)  # type: ignore[arg-type]


def test_a_method_that_was_not_calibrated_is_refused(request_: LiveRequest, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not calibrated on kivi:.*knows fp16, kv-int8"):
        validate_live(replace(request_, methods="kivi"), tmp_path / "live")


def test_an_engine_that_kvpred_does_not_start_is_refused(request_: LiveRequest, tmp_path: Path) -> None:
    save(replace(kvpred.load(request_.predictor), engine="lmdeploy"), request_.predictor)
    with pytest.raises(UsageError, match="not started by kvpred"):
        validate_live(request_, tmp_path / "live")


@pytest.mark.parametrize("level", [0.4, 1.0, float("nan")])
def test_a_level_out_of_range_is_refused(request_: LiveRequest, tmp_path: Path, level: float) -> None:
    with pytest.raises(UsageError, match="level="):
        validate_live(replace(request_, level=level), tmp_path / "live")


def test_another_models_config_is_refused(request_: LiveRequest, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"smollm2-135m is another model than the predictor's tiny"):
        validate_live(replace(request_, model="smollm2-135m"), tmp_path / "live")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[LiveRequest, Path]:
    """A request that was predicted and measured, and its folder."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("measured")
    bundle, config = write_host_bundle(folder)
    request = LiveRequest(
        predictor=bundle, model=str(config), weights=write_weights(config), n_sites=2, repeats=2,
        dtype="float32",
    )  # fmt: skip
    validate_live(request, folder / "live")
    return request, folder / "live"


@pytest.mark.slow
def test_a_second_call_measures_nothing_anew_and_says_the_same(measured: tuple[LiveRequest, Path]) -> None:
    request, output = measured
    before = (output / MEASURED / "runs.csv").read_bytes()
    first, second = validate_live(request, output), validate_live(request, output)
    assert first == second
    assert (output / MEASURED / "runs.csv").read_bytes() == before
    assert first.report.n_runs <= 2 * 2 * 2 * 2
    assert first.report.unmeasured == ()
    assert first.verdict.word == "unreliable"
    assert "2 sites of prefill are too few" in first.verdict.reason


@pytest.mark.slow
def test_predictions_that_are_younger_than_the_runs_are_refused(
    measured: tuple[LiveRequest, Path], tmp_path: Path
) -> None:
    request, output = measured
    shutil.copytree(output, tmp_path / "live")
    path = tmp_path / "live" / PREDICTIONS
    written = json.loads(path.read_text()) | {"written_at": "2999-01-01T00:00:00+00:00"}
    path.write_text(json.dumps(written))
    with pytest.raises(DataError, match="runs are older than the predictions"):
        validate_live(request, tmp_path / "live")

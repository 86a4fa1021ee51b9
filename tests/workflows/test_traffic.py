"""A folder of served requests is simulated and compared; here the server was the simulator itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("vidur", reason="pip install 'kvpred[vidur]' brings the simulator")

import kvpred
from kvpred.data.arrivals import arrivals
from kvpred.data.requests import read_requests, write_requests
from kvpred.data.traces import Trace
from kvpred.engines.traffic import MANIFEST, REQUESTS
from kvpred.errors import DataError, UsageError
from kvpred.methods import get_method
from kvpred.predictors import bundle
from kvpred.simulation.replica import replica_for
from kvpred.simulation.simulate import simulate
from kvpred.workflows.traffic import judge_served

MANIFEST_OF = {
    "engine": "lmdeploy", "model": "llama-2-7b", "device": "a6000", "max_bsz": 16, "max_tokens": 8192,
    "output_cap": 128,
}  # fmt: skip
METHODS = ("fp16", "h2o", "kivi")


def write_folder(folder: Path, *, slower: float = 1.0, scheduler: str = "vllm", **changes: object) -> Path:
    """Write requests that the packaged predictor's own server served, slower than it says."""
    rng = np.random.default_rng(0)
    n = 60
    trace = Trace(
        arrivals("poisson", n, qps=1.0, seed=1),
        rng.integers(10, 1000, size=n),
        rng.integers(2, 128, size=n),
        "made up",
        tuple(map(str, range(n))),
    )
    predictor = bundle.load(kvpred.PACKAGED)
    runs = {}
    for name in METHODS:
        replica = replica_for(
            predictor, get_method(name), predictor.place, "lmdeploy",
            scheduler=scheduler, max_bsz=16, max_batch_tokens=8192, chunk_tokens=8192,
        )  # fmt: skip
        runs["1-qps/1", get_method(name).spec] = simulate(trace, replica, slower=slower).served
    folder.mkdir(exist_ok=True)
    write_requests(folder / REQUESTS, runs)
    (folder / MANIFEST).write_text(json.dumps(MANIFEST_OF | changes))
    return folder


def test_a_server_that_is_the_simulator_is_predicted_exactly(tmp_path: Path) -> None:
    found = judge_served(write_folder(tmp_path / "served"), kvpred.PACKAGED)
    assert found.report.mean_error("e2e_mean_s") == pytest.approx(0, abs=1e-6)
    assert found.report.mean_error("device_s") == pytest.approx(0, abs=1e-6)
    assert found.report.right == found.report.asked
    assert found.notes == ()


def test_a_server_that_is_slower_is_told_so(tmp_path: Path) -> None:
    found = judge_served(write_folder(tmp_path / "served", slower=1.1), kvpred.PACKAGED)
    for cell in found.report.cells:
        error = cell.error["device_s"]
        assert error is not None
        # 1 / 1.1 - 1 at equal batches; slower steps also mean larger ones, which cost less per request.
        assert -0.0910 < error < -0.01
        latency = cell.error["e2e_mean_s"]
        assert latency is not None
        assert latency < -0.0909


def test_an_engine_is_simulated_as_it_schedules(tmp_path: Path) -> None:
    engine = "transformers-paged"
    bundle.save(replace(bundle.load(kvpred.PACKAGED), engine=engine), tmp_path / "bundle")
    folder = write_folder(tmp_path / "served", scheduler="sarathi", engine=engine)
    own = judge_served(folder, tmp_path / "bundle")
    other = judge_served(folder, tmp_path / "bundle", scheduler="vllm")
    assert own.report.mean_error("e2e_mean_s") == pytest.approx(0, abs=1e-6)
    error = other.report.mean_error("e2e_mean_s")
    assert error is not None
    assert error > 1e-3


def test_a_busy_host_and_methods_without_runs_are_noted(tmp_path: Path) -> None:
    marked = [{"method": "fp16", "load": "1-qps", "mark": "busy host"}]
    folder = write_folder(tmp_path / "served", runs=marked)
    text = (folder / REQUESTS).read_text()
    (folder / REQUESTS).write_text(text.replace(get_method("h2o").spec, get_method("h2o:heavy=128").spec))
    found = judge_served(folder, kvpred.PACKAGED)
    assert any("not calibrated on h2o:heavy=128" in note for note in found.notes)
    assert any("busy with other work during fp16 at 1-qps" in note for note in found.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "openvino"}, "served by engine openvino; the predictor is of lmdeploy"),
        ({"device": "a100"}, "served by device a100"),
    ],
)
def test_requests_of_another_server_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        judge_served(write_folder(tmp_path / "served", **changes), kvpred.PACKAGED)


@pytest.mark.parametrize("manifest", ["", "{", "[]", json.dumps(MANIFEST_OF | {"max_bsz": "16"})])
def test_a_manifest_that_says_too_little_is_refused(tmp_path: Path, manifest: str) -> None:
    folder = write_folder(tmp_path / "served")
    (folder / MANIFEST).write_text(manifest)
    with pytest.raises(DataError, match=r"manifest\.json"):
        judge_served(folder, kvpred.PACKAGED)


def test_predicted_lengths_are_those_of_the_requests_own_answers(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm", reason="pip install 'kvpred[train]' brings LightGBM")
    folder = write_folder(tmp_path / "served")
    chats = tmp_path / "chats.json"
    chats.write_text(
        json.dumps(
            [
                {
                    "id": str(number),
                    "conversations": [
                        {"from": "human", "value": f"Tell me {number} facts about rivers."},
                        {"from": "gpt", "value": "A river runs. " * (1 + number % 30)},
                    ],
                }
                for number in range(60)
            ]
        )
    )
    with pytest.raises(DataError, match="no answer 0: not what the requests were drawn from"):
        judge_served(folder, kvpred.PACKAGED, conversations=[chats])
    renamed = {
        key: replace(one, ids=tuple(f"{name}/0" for name in one.ids))
        for key, one in read_requests(folder / REQUESTS).items()
    }
    # A second round serves other requests of the same load, whose tokens count as well.
    renamed |= {(run.replace("/1", "/2"), method): one for (run, method), one in renamed.items()}
    write_requests(folder / REQUESTS, renamed)

    found = judge_served(folder, kvpred.PACKAGED, conversations=[chats])

    assert found.output_tokens == 2 * next(iter(renamed.values())).output_tokens.sum()
    assert found.predicted_tokens is not None
    assert 120 < found.predicted_tokens < 120 * 128

"""Real engines fed over time: every request is answered, and runs are on disk one by one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("openvino_genai", reason="pip install 'kvpred[openvino]' brings OpenVINO GenAI")

from kvpred.data.journal import Progress
from kvpred.data.requests import read_requests
from kvpred.engines.base import Arrival, Target
from kvpred.engines.openvino import OpenVINO
from kvpred.engines.traffic import JOURNAL, MANIFEST, REQUESTS, Traffic, TrafficPlan
from kvpred.engines.transformers import Transformers
from kvpred.engines.transformers_paged import TransformersPaged
from kvpred.errors import DataError, UsageError
from kvpred.methods import get_method
from kvpred.models import get_model
from tests.host_bundle import write_weights
from tests.tiny import write_model

pytestmark = pytest.mark.slow

TEXT = "The river ran over the stones and under the old bridge. "
ARRIVALS = tuple(Arrival(str(i), 0.1 * i, TEXT * (1 + 3 * i), 3 + i) for i in range(4))
AT_ONCE = tuple(replace(one, at_s=0.0) for one in ARRIVALS)


@pytest.fixture(scope="module")
def plan(smollm2: Path) -> TrafficPlan:
    target = Target(get_model("smollm2-135m"), smollm2, max_tokens=2400, max_bsz=2, max_seq_len=1200)
    loads = {"10-qps": [ARRIVALS], "at-once": [AT_ONCE]}
    return TrafficPlan(OpenVINO, target, ("fp16", "kv-int8"), loads, 128, "host-cpu", "a processor")


@pytest.fixture(scope="module")
def folder(plan: TrafficPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traffic")
    Traffic(plan, folder).run()
    return folder


def test_every_request_is_answered_as_long_as_asked(folder: Path) -> None:
    runs = read_requests(folder / REQUESTS)
    assert list(runs) == [
        ("10-qps/1", "fp16"), ("10-qps/1", "kv-int8"), ("at-once/1", "kv-int8"), ("at-once/1", "fp16"),
    ]  # fmt: skip
    for (run, _), served in runs.items():
        assert served.output_tokens.tolist() == [one.output_len for one in ARRIVALS]
        assert served.arrived_at_s.tolist() == pytest.approx([0, 0.1, 0.2, 0.3] if "qps" in run else [0] * 4)
        assert served.ttft_s.min() > 0
        assert 0 < served.busy_share <= 1.001
    # The first request's prompt is one sentence, and each further one has three more.
    per_sentence = (served.prompt_tokens[1:] - served.prompt_tokens[:-1]) / 3
    assert per_sentence == pytest.approx(served.prompt_tokens[0], abs=1.5)


def test_every_round_serves_a_part_and_begins_with_another_method(plan: TrafficPlan) -> None:
    halves = replace(plan, loads={name: [parts[0][:2], parts[0][2:]] for name, parts in plan.loads.items()})
    assert halves.visits() == [
        (0, "10-qps", "fp16"), (0, "10-qps", "kv-int8"), (0, "at-once", "kv-int8"), (0, "at-once", "fp16"),
        (1, "10-qps", "kv-int8"), (1, "10-qps", "fp16"), (1, "at-once", "fp16"), (1, "at-once", "kv-int8"),
    ]  # fmt: skip


def test_the_manifest_says_how_it_was_served_and_holds_no_text(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    assert (manifest["engine"], manifest["max_bsz"], manifest["max_tokens"]) == ("openvino", 2, 2400)
    assert [proof["sound"] for proof in manifest["proofs"]] == [True, True]
    assert len(manifest["runs"]) == 4
    assert not any("river" in path.read_text() for path in folder.iterdir())


def test_what_lies_there_is_not_served_again(plan: TrafficPlan, folder: Path) -> None:
    before = (folder / REQUESTS).read_bytes()
    told: list[Progress] = []
    Traffic(plan, folder).run(progress=told.append)
    assert told == []
    assert (folder / REQUESTS).read_bytes() == before


def test_a_run_that_was_torn_off_is_served_again(plan: TrafficPlan, folder: Path, tmp_path: Path) -> None:
    lines = (folder / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(lines[:-30])
    assert Traffic(plan, tmp_path).todo() == [(0, "at-once", "fp16")]
    runs = Traffic(plan, tmp_path).run()
    assert len(runs) == 4
    assert json.loads((tmp_path / JOURNAL).read_text().splitlines()[-1])["method"] == "fp16"


def test_no_run_starts_that_the_budget_has_no_room_for(plan: TrafficPlan, tmp_path: Path) -> None:
    assert Traffic(replace(plan, methods=("fp16",)), tmp_path).run(budget_s=0.0) == {}
    assert not (tmp_path / REQUESTS).exists()


def test_another_load_is_not_mixed_in(plan: TrafficPlan, folder: Path) -> None:
    other = replace(plan, loads={"10-qps": [ARRIVALS[:3]], "at-once": [AT_ONCE]})
    with pytest.raises(UsageError, match=r"loads\.10-qps was .*4.*, now .*3"):
        Traffic(other, folder)


def test_a_damaged_line_is_named(plan: TrafficPlan, folder: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    row = next(i for i, line in enumerate(lines) if "requests" in line)
    del lines[row]["requests"]["device_s"]
    (tmp_path / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=f"line {row + 1}.*the journal was damaged"):
        Traffic(plan, tmp_path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Target:
    """A tiny model with random weights and a tokeniser of bytes."""
    config = write_model(tmp_path_factory.mktemp("model"))
    model = get_model(str(config))
    return Target(model, write_weights(config), dtype="float32", max_tokens=600, max_bsz=2, max_seq_len=300)


def test_a_paged_manager_is_fed_over_time(tiny: Target) -> None:
    fp16 = get_method("fp16")
    engine = TransformersPaged(tiny, [fp16])
    try:
        served = engine.serve(fp16, ARRIVALS[:2])
    finally:
        engine.close()
    assert served.output_tokens.tolist() == [3, 4]
    assert served.prompt_tokens.tolist() == [len(one.prompt) for one in ARRIVALS[:2]]
    assert (served.first_token_at_s > served.arrived_at_s).all()
    assert (served.completed_at_s >= served.first_token_at_s).all()


def test_an_engine_that_serves_batches_alone_says_so(tiny: Target) -> None:
    fp16 = get_method("fp16")
    engine = Transformers(tiny, [fp16])
    with pytest.raises(UsageError, match="transformers cannot be fed over time"):
        engine.serve(fp16, ARRIVALS)

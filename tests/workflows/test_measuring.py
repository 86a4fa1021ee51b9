"""What a request for measurements is resolved to, and what is refused before anything starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kvpred.data.journal import discard
from kvpred.data.sites import RunSite
from kvpred.engines.runner import FILES, JOURNAL, RUNS
from kvpred.errors import UsageError
from kvpred.workflows.measuring import (
    MeasureRequest,
    left_to_measure,
    methods_of,
    plan_measurement,
    what_and_where,
)
from tests.tiny import write_model

SITE = RunSite(2, 512)
REQUEST = MeasureRequest(engine="transformers", methods={"kv-int8": [SITE], "fp16": [SITE, RunSite(1, 2000)]})


def test_the_target_holds_the_largest_batch_and_the_probe() -> None:
    target = plan_measurement(REQUEST).target

    assert (target.max_bsz, target.max_seq_len, target.max_tokens) == (2, 2032, 2032)
    small = plan_measurement(replace(REQUEST, methods={"fp16": [RunSite(1, 8)]})).target
    assert small.max_seq_len == small.max_tokens == 1040


def test_fp16_comes_first() -> None:
    assert list(plan_measurement(REQUEST).sites) == ["fp16", "kv-int8"]


def test_all_methods_are_the_engines() -> None:
    assert [spec.partition(":")[0] for spec in methods_of("openvino", "all")] == [
        "fp16", "kv-int8", "kv-int4", "h2o", "snapkv",
    ]  # fmt: skip
    assert methods_of("openvino", "kv-int8") == ["fp16", "kv-int8"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "vllm"}, "not started by kvpred.*--engine openai --url"),
        ({"engine": "tensorrt"}, "'tensorrt' is not known"),
        ({"engine": "openvino", "methods": {"kivi": [SITE]}}, "openvino does not serve kivi; it serves fp16"),
        ({"methods": {"kiwi": [SITE]}}, "kiwi"),
        ({"methods": {"fp16": [RunSite(1, 8192)]}}, r"8,192.*do not fit into the 8,192 tokens"),
        ({"methods": {"fp16": [RunSite(0, 64)]}}, "at least 1"),
        ({"methods": {"fp16": []}}, "nothing to measure"),
        ({"model": "smollm3"}, "smollm3"),
        ({"device": "cuda"}, "no CUDA device"),
        ({"dtype": "int3"}, "int3"),
        ({"repeats": 0}, "repeats=0"),
        ({"weights": Path("nowhere.gguf")}, "nowhere.gguf: no such file"),
    ],
)
def test_a_bad_request_is_refused_before_anything_starts(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_measurement(replace(REQUEST, **changes))  # type: ignore[arg-type]


def test_a_servers_model_and_device_must_be_named() -> None:
    assert what_and_where("openvino", model=None, device=None) == ("smollm2-135m", "cpu")
    assert what_and_where("openai", model="llama-2-7b", device="a6000") == ("llama-2-7b", "a6000")
    with pytest.raises(UsageError, match="--device"):
        what_and_where("openai", model="llama-2-7b", device=None)


def test_a_server_elsewhere_is_filed_under_its_own_device() -> None:
    plan = plan_measurement(replace(REQUEST, engine="openai", model="llama-2-7b", device="a6000"))

    assert (plan.device, plan.host) == ("a6000", "NVIDIA RTX A6000")
    assert plan.target.weights is None


def test_what_is_left_is_listed_without_starting_an_engine(tmp_path: Path) -> None:
    request = replace(REQUEST, model=str(write_model(tmp_path)), repeats=3)

    left = left_to_measure(request, tmp_path / "runs")

    assert len(left) == 3 * 3
    assert not (tmp_path / "runs").exists()


def test_only_measurements_are_deleted(tmp_path: Path) -> None:
    (tmp_path / RUNS).write_text("somebody's own")
    discard(tmp_path, FILES)
    assert (tmp_path / RUNS).exists()

    (tmp_path / JOURNAL).write_text("")
    discard(tmp_path, FILES)
    assert list(tmp_path.iterdir()) == []

"""From names on a command line to a sweep, and from a sweep to a line per method."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="pip install 'kvpred[profile]' brings torch and transformers")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kvpred.errors import DataError, UsageError
from kvpred.methods import get_method
from kvpred.workflows.profiling import (
    ProfileRequest,
    discard,
    list_points,
    make_stack,
    plan_profile,
    profile,
    resolve_device,
)
from tests.tiny import CONFIG, N_SITES, light, write_grid, write_model

MakeRequest = Callable[..., ProfileRequest]


@pytest.fixture(autouse=True)
def _light() -> Iterator[None]:
    with light():
        yield


@pytest.fixture
def request_for(tmp_path: Path) -> MakeRequest:
    """Return a maker of requests for the tiny model and grid."""
    model, grid = write_model(tmp_path), write_grid(tmp_path)

    def make(methods: str = "fp16", **changes: object) -> ProfileRequest:
        request = ProfileRequest(methods=methods, model=str(model), device="cpu", grid=str(grid))
        return replace(request, **changes)  # type: ignore[arg-type]

    return make


# Resolving a request:


def test_fp16_comes_first_and_no_method_twice(request_for: MakeRequest) -> None:
    plan = plan_profile(request_for("kivi,h2o,fp16,kivi:bits=4"))
    assert list(plan.methods) == [get_method(name) for name in ("fp16", "kivi", "h2o")]


def test_all_stands_for_every_method_with_a_cache(request_for: MakeRequest) -> None:
    methods = [method.name for method in plan_profile(request_for("all")).methods]
    assert methods[0] == "fp16"
    assert {"h2o", "kivi", "snapkv", "streamingllm", "turboquant", "kv-int8"} <= set(methods)
    assert len(set(methods)) == len(methods)


def test_a_plan_says_what_is_measured_and_where(request_for: MakeRequest) -> None:
    plan = plan_profile(request_for(seed=5, dtype="float16"))
    assert (plan.model.name, plan.n_layers, plan.device, plan.device_name) == ("tiny", 3, "cpu", "host-cpu")
    assert (plan.weights, plan.dtype, plan.seed) == ("random", "float16", 5)
    assert len(plan.grid.sites()) == N_SITES
    assert plan.memory_bytes > 0 and plan.host


def test_only_as_many_layers_as_asked_for(request_for: MakeRequest) -> None:
    assert plan_profile(request_for(n_layers=2)).n_layers == 2


def test_a_model_larger_than_the_memory_is_cut_to_the_layers_that_fit(request_for: MakeRequest) -> None:
    plan = plan_profile(request_for(model="llama-3.1-70b"))
    stack = replace(plan.model, n_layers=plan.n_layers)
    assert stack.weight_bytes() < plan.memory_bytes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": "kivy"}, "Did you mean kivi?"),
        ({"methods": "kivi:bits=3"}, "bits=3"),
        ({"methods": "kivi:group_size=64"}, "group_size=64"),
        ({"methods": "h2o:heavy=-1"}, "heavy=-1"),
        ({"model": "mistral-7b-v0.1"}, "window of 4,096 tokens"),
        ({"model": "smollm2-135"}, "Did you mean smollm2-135m?"),
        ({"grid": "huge"}, "'huge' is not known: use smoke, default, full"),
        ({"device": "tpu"}, "device 'tpu' is not known"),
        ({"device": "cuda:one"}, "device 'cuda:one' is not known"),
        ({"device": "cpu:1"}, "device 'cpu:1' is not known"),
        ({"device": "cuda:99"}, "device 'cuda:99': torch sees"),
        ({"dtype": "int8"}, "dtype 'int8' is not known: use bfloat16, float16, float32"),
        ({"n_layers": 0}, "layers=0 must be from 1 to 3"),
        ({"n_layers": 4}, "layers=4 must be from 1 to 3"),
        ({"weights": Path("nowhere.gguf")}, "nowhere.gguf: no such file"),
    ],
)
def test_a_senseless_request_is_refused_before_anything_is_made(
    request_for: MakeRequest, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        plan_profile(request_for(**changes))
    assert message in str(caught.value)


def test_a_device_is_known_by_torchs_name_and_its_own() -> None:
    name, device = resolve_device(" CPU ")
    assert (name, device.name) == ("cpu", "host-cpu")


# The stack:


def test_random_weights_depend_on_the_seed_alone(request_for: MakeRequest) -> None:
    def weights(seed: int) -> torch.Tensor:
        request = request_for(seed=seed)
        return make_stack(request, plan_profile(request)).model.lm_head.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_a_stack_has_the_layers_and_the_dtype_of_its_plan(request_for: MakeRequest) -> None:
    request = request_for(n_layers=2, dtype="float32")
    stack = make_stack(request, plan_profile(request))
    assert len(stack.model.get_decoder().layers) == stack.n_layers == 2
    assert stack.dtype == torch.float32


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder of real weights of the tiny model."""
    folder = tmp_path / "weights"
    LlamaForCausalLM(LlamaConfig(**CONFIG)).save_pretrained(folder)
    return folder


def test_real_weights_are_loaded_into_the_layers_asked_for(request_for: MakeRequest, weights: Path) -> None:
    request = request_for(weights=weights, n_layers=2)
    plan = plan_profile(request)
    stack = make_stack(request, plan)
    assert plan.weights == "weights"
    saved = LlamaForCausalLM.from_pretrained(weights, dtype=torch.bfloat16)
    for number, layer in enumerate(stack.model.get_decoder().layers):
        assert torch.equal(layer.mlp.up_proj.weight, saved.model.layers[number].mlp.up_proj.weight)
    assert len(stack.empty_cache(get_method("fp16")).layers) == 2


def test_another_models_weights_are_refused(request_for: MakeRequest, weights: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", intermediate_size=256)
    request = request_for(weights=weights, model=str(other))
    with pytest.raises(UsageError, match=r"intermediate_size is 128, but tiny has 256"):
        make_stack(request, plan_profile(request))


def test_a_folder_without_weights_is_refused(request_for: MakeRequest, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    request = request_for(weights=tmp_path / "empty")
    with pytest.raises(DataError, match="empty"):
        make_stack(request, plan_profile(request))


# The whole:


def test_a_profile_is_summed_up_in_a_line_per_method(request_for: MakeRequest, tmp_path: Path) -> None:
    fp16, h2o = profile(request_for("h2o"), tmp_path / "profiles")
    assert (fp16.method, h2o.method) == ("fp16", get_method("h2o").spec)
    for line in (fp16, h2o):
        assert (line.points, line.not_fitting, line.status) == (N_SITES, 0, "finished")
        assert 0 < line.attention_share < 1
        assert line.step_noise >= 0
        assert json.loads((line.folder / "manifest.json").read_text())["method_params"] == line.method
    assert fp16.decode_speedup == 1
    assert h2o.decode_speedup > 0


def test_a_second_call_adds_methods_and_measures_nothing_twice(
    request_for: MakeRequest, tmp_path: Path
) -> None:
    output = tmp_path / "profiles"
    profile(request_for("fp16"), output)
    told: list[str] = []
    lines = profile(request_for("h2o"), output, progress=lambda progress: told.append(progress.text))
    assert [line.method for line in lines] == ["fp16", get_method("h2o").spec]
    assert len(told) == N_SITES and all(text.startswith("h2o ") for text in told)


def test_a_config_may_move_while_a_sweep_goes_on(request_for: MakeRequest, tmp_path: Path) -> None:
    output = tmp_path / "profiles"
    profile(request_for(), output)
    told: list[str] = []
    moved = request_for(model=str(write_model(tmp_path / "elsewhere")))
    profile(moved, output, progress=lambda progress: told.append(progress.text))
    assert told == []


def test_the_points_are_listed_with_what_is_done(request_for: MakeRequest, tmp_path: Path) -> None:
    output = tmp_path / "profiles"
    assert [point.done for point in list_points(request_for("fp16"), output)] == [False] * N_SITES
    assert not output.exists()
    profile(request_for("fp16"), output)
    done = {point.method: point.done for point in list_points(request_for("h2o"), output)}
    assert done == {"fp16": True, get_method("h2o").spec: False}


def test_a_sweep_is_replaced_only_when_asked_to(request_for: MakeRequest, tmp_path: Path) -> None:
    output = tmp_path / "profiles"
    profile(request_for("h2o"), output)
    with pytest.raises(UsageError, match=r"holds another sweep \(seed was 0, now 1\).*--no-resume"):
        profile(request_for("fp16", seed=1), output)
    (line,) = profile(request_for("fp16", seed=1), output, resume=False)
    assert json.loads((line.folder / "manifest.json").read_text())["seed"] == 1
    assert list(line.folder.parent.iterdir()) == [line.folder]


@pytest.mark.parametrize("wrong", [{"methods": "kivi:bits=3"}, {"weights": Path(__file__).parent}])
def test_a_refused_request_replaces_nothing(
    request_for: MakeRequest, tmp_path: Path, wrong: dict[str, object]
) -> None:
    output = tmp_path / "profiles"
    profile(request_for("fp16"), output)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    with pytest.raises((UsageError, DataError)):
        profile(request_for(**wrong), output, resume=False)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_only_a_sweeps_profiles_are_discarded(tmp_path: Path) -> None:
    (tmp_path / "compute" / "a6000").mkdir(parents=True)
    discard(tmp_path)
    assert (tmp_path / "compute" / "a6000").is_dir()

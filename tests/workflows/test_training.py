"""Training from files: what was measured and what was asked must agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kvpred
from kvpred.data.runs import Run
from kvpred.data.store import write_profile
from kvpred.errors import DataError, NotCoveredError, UsageError
from kvpred.hardware.host import detect_cpu
from kvpred.methods import get_method
from kvpred.predictors.profiled import ProfiledStep
from kvpred.workflows.training import Measurements, check_bundle_folder, place_of, train
from tests import in_place

HEADER = "model,method,engine,device,bsz,prompt_len,stage,throughput_tok_s"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Runs of fp16 that follow a law without noise."""
    rows = [HEADER]
    for bsz in (1, 2, 4, 8):
        for prompt in (256, 1024, 4096):
            tokens = bsz * prompt
            prefill_s, decode_s = 0.05 + 1.7e-4 * tokens, 0.034 + 8e-7 * tokens
            rows.append(f"llama-2-7b,fp16,lmdeploy,a6000,{bsz},{prompt},prefill,{tokens / prefill_s}")
            rows.append(f"llama-2-7b,fp16,lmdeploy,a6000,{bsz},{prompt},decode,{bsz / decode_s}")
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(rows))
    return path


def test_the_predictor_knows_where_it_comes_from(runs: Path) -> None:
    told: list[str] = []
    predictor = train(Measurements(runs=[runs]), progress=told.append)
    assert (predictor.place.model.name, predictor.place.device.name) == ("llama-2-7b", "a6000")
    assert predictor.engine == "lmdeploy"
    assert predictor.provenance == ("24 runs under lmdeploy of llama-2-7b on NVIDIA RTX A6000 (runs.csv)")
    assert told == ["24 runs at 24 sites; fitting and holding sites out"]


@pytest.mark.parametrize("written", ["LMDeploy", "lmdeploy"])
def test_an_engine_has_one_name_however_it_is_spelt(runs: Path, written: str) -> None:
    runs.write_text(runs.read_text().replace("lmdeploy", written))
    for engine in (None, "LMDEPLOY"):
        predictor = train(Measurements(runs=[runs], engine=engine))
        assert predictor.engine == "lmdeploy"
        assert kvpred.predict(method="fp16", bsz=4, prompt_len=1024, predictor=predictor).in_domain


def test_runs_of_an_engine_of_ones_own_are_learnt_from(runs: Path) -> None:
    runs.write_text(runs.read_text().replace("lmdeploy", "House"))
    predictor = train(Measurements(runs=[runs]))
    found = kvpred.predict(method="fp16", bsz=4, prompt_len=1024, engine="house", predictor=predictor)
    assert (found.engine, found.basis, found.in_domain) == ("house", "calibrated", True)


def test_a_misspelt_engine_is_the_files_fault(runs: Path) -> None:
    runs.write_text(runs.read_text().replace("lmdeploy", "lmdeplo"))
    with pytest.raises(DataError, match=r"runs\.csv: Engine 'lmdeplo' is not known\. Did you mean lmdeploy"):
        train(Measurements(runs=[runs]))


def test_a_device_file_may_be_read_by_another_path(runs: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("box.toml", "copy.toml")]
    for file in files:
        file.write_text(
            'name = "box"\nmemory_bytes = 48_000_000_000\n'
            "memory_bandwidth_bytes_s = 7e11\npeak_flops_16bit = 1e14"
        )
    runs.write_text(runs.read_text().replace("a6000", "box"))
    predictor = train(Measurements(runs=[runs], device=str(files[0])))
    found = kvpred.predict(method="fp16", bsz=4, prompt_len=1024, device=str(files[1]), predictor=predictor)
    assert (found.basis, found.in_domain) == ("calibrated", True)


def test_another_hosts_processor_keeps_its_name() -> None:
    run = Run(
        model="llama-2-7b", engine="openvino", device="host-cpu", method="fp16", bsz=1, prompt_len=256,
        stage="decode", throughput_tok_s=9.0, host="a processor of 1999",
    )  # fmt: skip
    here = detect_cpu()

    assert place_of(run).device.title == "a processor of 1999"
    assert place_of(run.model_copy(update={"host": here.title})).device == here
    assert place_of(run.model_copy(update={"host": None})).device == here


def test_the_provenance_may_be_said(runs: Path) -> None:
    predictor = train(Measurements(runs=[runs]), provenance="our own server, in May")
    assert predictor.provenance == "our own server, in May"


def test_unknown_options_are_refused_before_any_file_is_read() -> None:
    with pytest.raises(UsageError, match="b200"):
        train(Measurements(runs=[Path("nowhere.csv")], device="b200"))


def test_too_few_sites_are_the_files_fault(runs: Path) -> None:
    runs.write_text("\n".join(runs.read_text().splitlines()[:3]))
    with pytest.raises(DataError, match=r"runs\.csv: fp16 has 1 sites of prefill; at least 3"):
        train(Measurements(runs=[runs]))


def test_nothing_to_learn_from() -> None:
    with pytest.raises(UsageError, match="--runs, --profile or both"):
        train(Measurements())


@pytest.mark.parametrize("names", [(), ("bundle.json",), ("bundle.json", "sites.csv", "operators")])
def test_a_bundle_may_replace_a_bundle(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).touch()
    check_bundle_folder(tmp_path)


def test_a_bundle_may_not_replace_other_files(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"holds other files \(notes\.txt\)"):
        check_bundle_folder(tmp_path)


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    """A root of fp16 and kivi, timed in place."""
    return in_place.write_root(tmp_path / "swept", methods=("fp16", "kivi"))


def test_a_sweep_in_place_is_runs_and_profile_in_one(swept: Path) -> None:
    predictor = train(Measurements(profiles=[swept]))
    assert (predictor.basis, predictor.engine) == ("calibrated", "transformers")
    assert (predictor.place.model.name, predictor.place.device.name) == ("smollm2-135m", "host-cpu")
    assert predictor.methods == ["fp16", get_method("kivi").spec]


def test_a_new_methods_profile_joins_those_that_are_there(swept: Path, tmp_path: Path) -> None:
    before = train(Measurements(profiles=[swept]))
    added = in_place.write_root(tmp_path / "added", methods=("h2o",))
    after = train(Measurements(profiles=[swept, added]))
    assert after.methods == sorted([*before.methods, get_method("h2o").spec])
    at = {"bsz": 4, "length": 1024}
    for method in before.methods:
        times = [p.stages["decode"].fits.fits[method].times(**at) for p in (before, after)]
        assert times[0] == pytest.approx(times[1])


def test_a_root_and_a_folder_in_it_are_read_once(swept: Path) -> None:
    folder = swept / "compute" / "host-cpu" / "smollm2-135m" / "fp16"
    assert len(train(Measurements(profiles=[swept, folder, swept])).methods) == 2


@pytest.mark.parametrize("written", ["lmdeploy", "LMDeploy"])
def test_steps_are_no_runs_of_another_engine(swept: Path, written: str) -> None:
    predictor = train(Measurements(profiles=[swept], engine=written))
    assert (predictor.basis, predictor.engine) == ("profiled", "lmdeploy")


def test_too_few_steps_are_the_profiles_fault(tmp_path: Path) -> None:
    write_profile(tmp_path, in_place.make_profile(decode=[]))
    with pytest.raises(DataError, match="no fp16 sites of both stages"):
        train(Measurements(profiles=[tmp_path]))


def _with_engine(folder: Path, engine: str, *, method: str = "fp16") -> Path:
    """Write a profile without whole steps, timed under an engine, under a root."""
    profile = in_place.make_profile(method)
    assert profile.manifest is not None
    manifest = profile.manifest.model_copy(update={"engine": engine})
    write_profile(folder, replace(profile, manifest=manifest, steps={}))
    return folder


def test_a_profile_without_steps_is_of_its_manifests_engine(tmp_path: Path) -> None:
    root = _with_engine(tmp_path, "vLLM")
    assert train(Measurements(profiles=[root])).engine == "vllm"
    assert train(Measurements(profiles=[root], engine="sglang")).engine == "sglang"


def test_profiles_of_several_engines_are_of_none(tmp_path: Path) -> None:
    root = _with_engine(_with_engine(tmp_path, "vllm"), "sglang", method="kivi")
    with pytest.raises(DataError, match="of sglang and vllm: give those of one, or say --engine"):
        train(Measurements(profiles=[root]))


def test_a_manifests_engine_that_cannot_be_is_its_files_fault(tmp_path: Path) -> None:
    root = _with_engine(tmp_path, "two\nlines")
    with pytest.raises(DataError, match="engine") as caught:
        train(Measurements(profiles=[root]))
    assert (Path(str(caught.value.path)).name, caught.value.column) == ("manifest.json", "engine")


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("attention", "n_embd"),
        ("attention", "n_q_head"),
        ("attention", "n_kv_head"),
        ("mlp", "n_head"),
        ("mlp", "n_expanded_embd"),
    ],
)
def test_a_profile_of_another_model_is_refused(tmp_path: Path, table: str, column: str) -> None:
    profile = in_place.make_profile()
    profile.tables()[table][column][-1] = 77
    folder = write_profile(tmp_path, profile)
    with pytest.raises(DataError, match="of another model: smollm2-135m has") as caught:
        train(Measurements(profiles=[tmp_path]))
    error = caught.value
    assert (error.path, error.column, error.value) == (folder / f"{table}.csv", column, 77)


def test_a_profile_may_count_another_vocabulary(tmp_path: Path) -> None:
    profile = in_place.make_profile()
    profile.mlp["vocab_size"][:] = 32_768
    write_profile(tmp_path, profile)
    assert train(Measurements(profiles=[tmp_path])).place.model.name == "smollm2-135m"


def test_a_profile_without_linear_layers_is_not_covered(tmp_path: Path) -> None:
    write_profile(tmp_path, replace(in_place.make_profile(), mlp={}, steps={}))
    with pytest.raises(NotCoveredError, match=r"no linear layers \(mlp\.csv\) at tp=1: profile them"):
        train(Measurements(profiles=[tmp_path]))


def test_all_reduces_measured_under_the_profiles_root_are_used(tmp_path: Path) -> None:
    """A data sheet of host-cpu states no link, so that nothing else can say how long they take."""
    profile = in_place.make_profile()
    for table in (profile.attention, profile.mlp):
        table["num_tensor_parallel_workers"][:] = 3
    write_profile(tmp_path, replace(profile, steps={}))
    with pytest.raises(NotCoveredError, match="host-cpu states none"):
        train(Measurements(profiles=[tmp_path], tp=3))
    network = tmp_path / "network" / "host-cpu"
    network.mkdir(parents=True)
    rows = [f"3,3,{size},all_reduce,{0.5 + 1e-6 * size}" for size in (1024, 8192, 65536, 1_048_576)]
    header = "num_workers,devices_per_node,size,collective,time_stats.all_reduce.median"
    (network / "all_reduce.csv").write_text("\n".join([header, *rows]))
    step = train(Measurements(profiles=[tmp_path], tp=3)).profiles["fp16"]
    assert isinstance(step, ProfiledStep)
    # Two for each of 30 layers, of 4 tokens of 576 16-bit channels.
    expected_s = 60 * (0.5 + 1e-6 * 4 * 2 * 576) / 1e3
    assert step.all_reduce_s(np.array([4.0])) == pytest.approx(expected_s, rel=1e-3)

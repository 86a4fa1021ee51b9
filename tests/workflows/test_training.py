"""Training from files: what was measured and what was asked must agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvpred.data.runs import Run
from kvpred.data.store import write_profile
from kvpred.errors import DataError, UsageError
from kvpred.hardware.host import detect_cpu
from kvpred.methods import get_method
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


def test_steps_are_no_runs_of_another_engine(swept: Path) -> None:
    predictor = train(Measurements(profiles=[swept], engine="lmdeploy"))
    assert (predictor.basis, predictor.engine) == ("profiled", "lmdeploy")


def test_too_few_steps_are_the_profiles_fault(tmp_path: Path) -> None:
    write_profile(tmp_path, in_place.make_profile(decode=[]))
    with pytest.raises(DataError, match="no fp16 sites of both stages"):
        train(Measurements(profiles=[tmp_path]))

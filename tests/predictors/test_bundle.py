from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvpred
from kvpred.data.sites import SITE_COLUMNS
from kvpred.errors import DataError, UsageError
from kvpred.predictors.bundle import save
from kvpred.predictors.greybox import Array, StageFit, StageForm
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.sealed import SCHEMA_VERSION

REQUEST = {"bsz": np.array([1, 3, 8, 64]), "prompt_len": np.array([100, 1024, 4000, 30_000])}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the packaged bundle, to damage."""
    return Path(shutil.copytree(kvpred.PACKAGED, tmp_path / "bundle"))


def changed(bundle: Path, **fields: object) -> Path:
    """The bundle with index fields changed by somebody who knows how to restore the digest."""
    path = bundle / "bundle.json"
    index = json.loads(path.read_text()) | fields
    del index["digest"]
    text = json.dumps(index, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps(index | {"digest": hashlib.sha256(text.encode()).hexdigest()}))
    return bundle


def refuse(bundle: Path, *parts: str) -> None:
    with pytest.raises(DataError) as error:
        kvpred.load(bundle)
    assert error.value.exit_code == 3
    for part in parts:
        assert part in str(error.value)


def test_what_is_loaded_predicts_what_was_saved(made_up: Predictor, tmp_path: Path) -> None:
    save(made_up, tmp_path / "made")
    again = kvpred.load(tmp_path / "made")
    for method in (*made_up.methods, "snapkv"):
        for device in ("a6000", "h100"):
            before, after = (
                kvpred.predict(method=method, device=device, predictor=predictor, **REQUEST).as_dict()
                for predictor in (made_up, again)
            )
            assert before == after


def test_what_is_loaded_is_what_was_saved(made_up: Predictor, tmp_path: Path) -> None:
    save(made_up, tmp_path / "made")
    again = kvpred.load(tmp_path / "made")
    assert (again.place, again.engine, again.provenance) == (
        made_up.place,
        made_up.engine,
        made_up.provenance,
    )
    assert again.accuracy == made_up.accuracy
    for name in SITE_COLUMNS:
        np.testing.assert_array_equal(getattr(again.sites, name), getattr(made_up.sites, name))


@pytest.mark.parametrize(
    ("form", "coef"),
    [
        (StageForm("decode", crowded=True), np.array([0.0066, 2.5e-4, 9.5e-7, 8.5e-7])),
        (StageForm("decode", batched=True), np.array([0.056, 2e-4, 1.7e-5, 0.012])),
        (StageForm("prefill", joint=True), np.array([0.08, 7.9e-4, 5.1e-7])),
    ],
)
def test_an_unusual_form_is_kept(made_up: Predictor, tmp_path: Path, form: StageForm, coef: Array) -> None:
    stage = made_up.stages[form.stage]
    fits = {name: StageFit(form, coef, np.eye(len(coef))) for name in stage.fits.fits}
    unusual = replace(stage, fits=replace(stage.fits, form=form, fits=fits))
    save(replace(made_up, stages={**made_up.stages, form.stage: unusual}), tmp_path / "made")
    again = kvpred.load(tmp_path / "made").stages[form.stage].fits
    assert again.form == form
    assert again.fits["fp16"].coef.tolist() == coef.tolist()


def test_a_bundle_states_its_basis_and_one_without_is_read_too(made_up: Predictor, tmp_path: Path) -> None:
    save(made_up, tmp_path / "made")
    path = tmp_path / "made" / "bundle.json"
    index = json.loads(path.read_text())
    assert index.pop("basis") == "calibrated"
    path.write_text(json.dumps(index))
    assert kvpred.load(changed(tmp_path / "made")).basis == "calibrated"


def test_an_engine_that_was_saved_in_another_spelling_is_the_same(bundle: Path) -> None:
    found = kvpred.predict(
        method="fp16", bsz=1, prompt_len=1024, predictor=kvpred.load(changed(bundle, engine="LMDeploy"))
    )
    assert found.basis == "calibrated"


def test_saving_twice_gives_the_same_bytes(made_up: Predictor, tmp_path: Path) -> None:
    save(made_up, tmp_path / "made")
    save(kvpred.load(tmp_path / "made"), tmp_path / "again")
    for name in ("bundle.json", "sites.csv"):
        assert (tmp_path / "made" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_bundle_is_text_alone() -> None:
    files = [path for path in kvpred.PACKAGED.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".csv", ".txt"}
    for path in files:
        path.read_text(encoding="utf-8")


def test_saving_over_a_bundle_replaces_it(made_up: Predictor, bundle: Path) -> None:
    (bundle / "left_over.txt").write_text("of the old one")
    save(made_up, bundle)
    assert kvpred.load(bundle).provenance == "made up, for tests"
    assert sorted(path.name for path in bundle.iterdir()) == ["bundle.json", "sites.csv"]


def test_a_failed_save_leaves_the_old_bundle_alone(
    made_up: Predictor, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (bundle / "bundle.json").read_bytes()
    monkeypatch.setattr(Path, "rename", _full_disk)
    with pytest.raises(UsageError, match="cannot write"):
        save(made_up, bundle)
    assert (bundle / "bundle.json").read_bytes() == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    assert kvpred.load(bundle).methods


def _full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_bundle_cannot_be_saved_into_a_file(made_up: Predictor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        save(made_up, tmp_path / "file" / "bundle")


@pytest.mark.parametrize("name", ["bundle.json", "sites.csv"])
@given(st.data())
@settings(max_examples=40)
def test_a_changed_byte_is_noticed(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    bundle = tmp_path_factory.mktemp("changed") / "bundle"
    shutil.copytree(kvpred.PACKAGED, bundle)
    path = bundle / name
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    content[place] = other
    path.write_bytes(content)
    try:
        found = kvpred.load(bundle)
    except DataError as error:
        assert name in str(error)
    else:
        # Only the index's white space may differ.
        assert json.loads(content) == json.loads((kvpred.PACKAGED / name).read_bytes())
        assert found.methods


@pytest.mark.parametrize("name", ["bundle.json", "sites.csv"])
@pytest.mark.parametrize("kept", [0, 1, 0.3, 0.99])
def test_a_truncated_file_is_refused_by_name(bundle: Path, name: str, kept: float) -> None:
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[: kept if kept in (0, 1) else int(kept * len(content))])
    refuse(bundle, name)


def test_a_missing_index_is_named_with_what_makes_one(bundle: Path) -> None:
    (bundle / "bundle.json").unlink()
    refuse(bundle, str(bundle), "no bundle.json in it", "kvpred train")


def test_a_missing_table_is_named(bundle: Path) -> None:
    (bundle / "sites.csv").unlink()
    refuse(bundle, "sites.csv", "lacks this file")


@pytest.mark.parametrize("text", ["hello", "{", "[" * 100_000, "9" * 10_000, '{"schema_version": 1}\n{}'])
def test_what_is_not_json_is_refused(bundle: Path, text: str) -> None:
    (bundle / "bundle.json").write_text(text)
    refuse(bundle, "bundle.json")


@pytest.mark.parametrize("content", [b"\xff\xfe{\x00}\x00", b"\x00\x01\x02", b"\xe9t\xe9", b"  \n"])
def test_what_is_not_text_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / "bundle.json").write_bytes(content)
    refuse(bundle, "bundle.json")


@pytest.mark.parametrize("text", ["[]", "3", "null", '"text"', "{}", '{"schema_version": "1"}'])
def test_other_json_is_no_bundle(bundle: Path, text: str) -> None:
    (bundle / "bundle.json").write_text(text)
    refuse(bundle, "bundle.json", "not a predictor bundle")


def test_a_newer_schema_says_what_to_do(bundle: Path) -> None:
    refuse(
        changed(bundle, schema_version=SCHEMA_VERSION + 1),
        "bundle.json",
        f"schema version {SCHEMA_VERSION + 1}",
        f"reads up to {SCHEMA_VERSION}",
        "upgrade kvpred",
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"stages": {}},
        {"stages": {"prefill": {}}},
        {"stages": None},
        {"model": {"name": "llama"}},
        {"device": 3},
        {"tp": "many"},
        {"files": None},
        {"files": {"sites.csv": 5}},
    ],
    ids=str,
)
def test_a_well_signed_but_senseless_index_is_refused(bundle: Path, fields: dict[str, object]) -> None:
    refuse(changed(bundle, **fields), "bundle")


def test_files_outside_the_bundle_are_never_read(bundle: Path) -> None:
    secret = bundle.parent / "secret.csv"
    secret.write_text("1")
    digest = hashlib.sha256(b"1").hexdigest()
    refuse(changed(bundle, files={"../secret.csv": digest}), "outside itself", "../secret.csv")


@pytest.mark.parametrize("name", ["nowhere", "x" * 5000, "nul\0byte", ""])
def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    refuse(tmp_path / name, "no predictor bundle")


def test_a_file_is_no_bundle(bundle: Path) -> None:
    refuse(bundle / "bundle.json", "no predictor bundle")

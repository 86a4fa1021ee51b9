"""From folders of profiles to what they show, and what is said about them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kvpred.data.store import export_vidur, write_profile
from kvpred.errors import DataError, NotCoveredError
from kvpred.workflows.profile_views import view_profiles
from tests.in_place import MODEL, make_profile, write_root

MEASURED = {"bytes_s": 1.2e10, "flops_s": 1.5e11}


def _note(notes: tuple[str, ...], start: str) -> str:
    (found,) = (note for note in notes if note.startswith(start))
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_root(tmp_path_factory.mktemp("profiles"), methods=("fp16", "h2o", "kivi"))


def test_methods_are_compared_with_fp16_first(root: Path) -> None:
    views = view_profiles(root)
    methods = list(dict.fromkeys(time.method for time in views.attention))
    assert methods[0] == "fp16"
    assert len(methods) == 3
    assert {(summary.method, summary.stage) for summary in views.summaries} == {
        (method, stage) for method in methods for stage in ("prefill", "decode")
    }


def test_summary_counts_sites_beyond_noise(root: Path) -> None:
    rows = {(s.method.partition(":")[0], s.stage): s for s in view_profiles(root).summaries}
    assert rows["fp16", "decode"].faster is None
    slow = rows["kivi", "decode"]
    assert slow.slower is not None and slow.faster == 0 and slow.slower > slow.sites / 2
    assert slow.hooks == pytest.approx(0.01)
    assert slow.explained == pytest.approx(0.96, abs=0.02)


def test_a_roofline_measured_on_the_device_comes_before_the_data_sheet(tmp_path: Path) -> None:
    profile = make_profile()
    assert profile.manifest is not None
    write_profile(
        tmp_path, replace(profile, manifest=profile.manifest.model_copy(update={"roofline": MEASURED}))
    )
    views = view_profiles(tmp_path)
    assert "12 GB/s and 0.15 TFLOP/s, measured there" in _note(views.notes, "Roofline")
    assert all(time.roofline_ms for time in views.attention)


def test_without_any_rate_the_roofline_is_left_out_and_said_so(root: Path) -> None:
    views = view_profiles(root)
    assert "host-cpu" in _note(views.notes, "No roofline")
    assert {time.roofline_ms for time in views.attention} == {None}


def test_vidurs_plain_folder_works_as_far_as_it_goes(tmp_path: Path) -> None:
    export_vidur(
        tmp_path, replace(make_profile(), device="a6000", manifest=None), model="HuggingFaceTB/SmolLM2-135M"
    )
    views = view_profiles(tmp_path)
    assert (views.steps, views.crossings) == ((), ())
    assert views.compositions
    assert views.title == f"Operators of {MODEL} on a6000"
    assert "768 GB/s" in _note(views.notes, "Roofline")
    assert "speed-ups" in _note(views.notes, "No steps.csv")
    assert "fp16" in _note(views.notes, "Named without a method: SmolLM2-135M")


def test_folders_that_end_in_a_method_are_that_method(tmp_path: Path) -> None:
    for method in ("fp16", "h2o"):
        folder = write_profile(tmp_path / method, make_profile(method))
        (folder / "manifest.json").unlink()
        folder.rename(tmp_path / f"smollm2-135m-{method}")
    with pytest.raises(DataError, match="--device, --model"):
        view_profiles(tmp_path)
    views = view_profiles(tmp_path, device="host-cpu", model=MODEL)
    assert {time.method for time in views.attention} == {"fp16", "h2o:heavy=64,recent=448"}


def test_shared_operators_are_fp16s_where_a_method_has_none(tmp_path: Path) -> None:
    write_profile(tmp_path, make_profile())
    write_profile(tmp_path, replace(make_profile("h2o"), mlp={}))
    assert len({part.method for part in view_profiles(tmp_path).compositions}) == 2


def test_methods_measured_otherwise_are_named(tmp_path: Path) -> None:
    write_profile(tmp_path, make_profile())
    write_profile(tmp_path, make_profile("h2o", n_layers=4))
    views = view_profiles(tmp_path)
    assert views.crossings == ()
    assert "other layers than fp16" in _note(views.notes, "h2o")


def test_unfinished_and_unfitting_sweeps_say_so(tmp_path: Path) -> None:
    profile = make_profile()
    assert profile.manifest is not None
    manifest = profile.manifest.model_copy(update={"status": "partial", "not_fitting": 3})
    write_profile(tmp_path, replace(profile, manifest=manifest))
    notes = view_profiles(tmp_path).notes
    assert _note(notes, "The sweep is not finished")
    assert _note(notes, "fp16: 3 points")


def test_profiles_of_two_models_are_refused(root: Path, tmp_path: Path) -> None:
    write_root(tmp_path, methods=("fp16",))
    other = make_profile()
    assert other.manifest is not None
    manifest = other.manifest.model_copy(update={"model": "llama-2-7b"})
    write_profile(tmp_path, replace(other, model="llama-2-7b", manifest=manifest))
    with pytest.raises(DataError, match="llama-2-7b on host-cpu, smollm2-135m on host-cpu"):
        view_profiles(tmp_path)


def test_two_profiles_of_one_method_are_refused(tmp_path: Path) -> None:
    for half in ("a", "b"):
        write_root(tmp_path / half, methods=("fp16",))
    with pytest.raises(DataError, match="several profiles of fp16"):
        view_profiles(tmp_path)


def test_a_folder_without_profiles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no profile here"):
        view_profiles(tmp_path)


def test_a_degree_that_nobody_profiled_is_not_covered(root: Path) -> None:
    with pytest.raises(NotCoveredError, match="tp=4"):
        view_profiles(root, tp=4)

"""Where results are written: nothing of the user's is replaced, nothing is half-written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


def _everything(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def _a_thesis(place: Path, bundle: Path) -> None:
    place.mkdir()
    (place / "thesis.txt").write_text("years of work")


def _a_bundle_with_notes(place: Path, bundle: Path) -> None:
    place.mkdir()
    for path in (*bundle.iterdir(), Path(__file__)):
        (place / path.name).write_bytes(path.read_bytes())


def _a_file(place: Path, bundle: Path) -> None:
    place.write_text("years of work")


def _a_link_to_a_bundle(place: Path, bundle: Path) -> None:
    place.symlink_to(bundle)


def _a_link_to_itself(place: Path, bundle: Path) -> None:
    place.symlink_to(place.name)


OCCUPANTS = (_a_thesis, _a_bundle_with_notes, _a_file, _a_link_to_a_bundle, _a_link_to_itself)


@pytest.mark.parametrize("occupy", OCCUPANTS)
def test_training_replaces_nothing_but_a_bundle(
    cli: Cli, measured: Path, trained: Path, tmp_path: Path, occupy: Callable[[Path, Path], None]
) -> None:
    place = tmp_path / "place"
    occupy(place, trained)
    before = _everything(tmp_path)
    answer = cli("train", "--runs", measured, "--output", place)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.count("\n") == 1
    assert str(place) in answer.err
    assert _everything(tmp_path) == before


@pytest.mark.parametrize("occupy", [_a_thesis, _a_file, _a_link_to_itself])
def test_a_profile_replaces_nothing_but_a_profile(
    cli: Cli, fp16_profile: Path, tmp_path: Path, occupy: Callable[[Path, Path], None]
) -> None:
    place = tmp_path / "compute" / "a6000" / "llama-2-7b"
    place.parent.mkdir(parents=True)
    occupy(place, tmp_path)
    before = _everything(tmp_path)
    answer = cli("export", fp16_profile, "--output", tmp_path)
    assert (answer.code, answer.out) == (2, "")
    assert _everything(tmp_path) == before


@pytest.mark.parametrize("occupy", [_a_thesis, _a_file])
def test_a_report_replaces_nothing_but_a_report(
    cli: Cli, trained: Path, measured: Path, tmp_path: Path, occupy: Callable[[Path, Path], None]
) -> None:
    place = tmp_path / "place"
    occupy(place, trained)
    before = _everything(tmp_path)
    answer = cli("validate", "--predictor", trained, "--runs", measured, "--report", place)
    assert (answer.code, answer.out) == (2, "")
    assert _everything(tmp_path) == before


@pytest.mark.parametrize("place", ["file/bundle", ".", ""])
def test_a_place_that_cannot_hold_a_folder_is_refused(
    cli: Cli, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("years of work")
    before = _everything(tmp_path)
    answer = cli("train", "--profile", store, "--output", place)
    assert (answer.code, answer.out) == (2, "")
    assert _everything(tmp_path) == before


def test_missing_folders_are_made(cli: Cli, store: Path, tmp_path: Path) -> None:
    assert cli("train", "--profile", store, "--output", tmp_path / "new" / "deep" / "bundle").code == 0
    assert cli("predictors", tmp_path / "new" / "deep" / "bundle").code == 0

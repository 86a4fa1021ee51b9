"""Measured shifts: found for exactly their parameters, and read back as they were written."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from kvpred.errors import DataError, NotCoveredError, UsageError
from kvpred.predictors.length.shift import LengthShift, read_shifts, shift_for, write_shifts

KIVI = LengthShift(
    method_params="kivi:bits=2,group_size=32,residual_length=128",
    multiplier=1.2,
    low=1.1,
    high=1.3,
    level=0.9,
    basis="calibrated",
    provenance="made up",
    beyond_noise=True,
    model="tiny",
)


def test_parameters_left_out_are_the_usual_ones() -> None:
    assert shift_for("kivi:bits=2", [KIVI], model="tiny") == KIVI


def test_another_models_shift_is_transferred() -> None:
    assert shift_for("kivi:bits=2", [KIVI], model="llama-2-7b").basis == "transferred"
    assert shift_for("kivi:bits=2", [KIVI]).basis == "transferred"


def test_fp16_does_not_shift() -> None:
    found = shift_for("fp16", [])
    assert (found.multiplier, found.low, found.high, found.beyond_noise) == (1.0, 1.0, 1.0, False)


def test_other_parameters_are_not_guessed() -> None:
    with pytest.raises(NotCoveredError, match=r"kivi:bits=4.* only for kivi:bits=2"):
        shift_for("kivi", [replace(KIVI, method_params="gear:bits=4"), KIVI])


def test_unmeasured_method_names_the_measured_ones() -> None:
    with pytest.raises(NotCoveredError, match=r"h2o.* only for kivi:bits=2"):
        shift_for("h2o", [KIVI])
    with pytest.raises(NotCoveredError, match="no method at all"):
        shift_for("h2o", [])


def test_unknown_method_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="Did you mean kivi"):
        shift_for("kiwi", [KIVI])


def test_written_shifts_read_back(tmp_path: Path) -> None:
    path = tmp_path / "shifts.json"
    shifts = [KIVI, replace(KIVI, method_params="h2o", beyond_noise=False)]
    write_shifts(path, shifts)
    assert read_shifts(path) == shifts


BAD = {
    "multiplier": (2.0, "column '0.multiplier', value '2.0'.*interval"),
    "low": (-1.0, "0.multiplier"),
    "level": (0.0, "0.level"),
    "basis": ("hearsay", "0.basis.*calibrated"),
    "method_params": ("kiwi", "0.method_params.*not known"),
    "provenance": (7, "0.provenance"),
    "beyond_noise": ("perhaps", "0.beyond_noise"),
}


@pytest.mark.parametrize("field", BAD)
def test_what_cannot_be_is_refused_with_its_place(tmp_path: Path, field: str) -> None:
    value, message = BAD[field]
    path = tmp_path / "shifts.json"
    path.write_text(json.dumps([asdict(KIVI) | {field: value}]))
    with pytest.raises(DataError, match=message):
        read_shifts(path)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "Invalid JSON"), ("{}", "valid array"), ("[{}]", "0.method_p")]
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "shifts.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_shifts(path)

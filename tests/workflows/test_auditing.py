"""Auditing whatever lies at the given paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvpred.errors import DataError
from kvpred.workflows.auditing import audit

PUBLISHED = "model,method,bsz,prompt_len,stage,thr"


def test_the_published_profiles_are_found_to_be_copies(shared_data: Path) -> None:
    found = audit([shared_data / "a6000" / "profile"], device="a6000")
    copies = {item.subject: item.message for item in found if item.check == "scaled-copy"}
    assert {subject.split()[1] for subject in copies} == {"h2o", "kivi"}


def test_the_published_runs_are_found_to_be_one_models(shared_data: Path) -> None:
    found = audit([shared_data / "a6000" / "throughput"], device="a6000", engine="lmdeploy")
    assert {"bandwidth-exceeded", "no-gqa-effect"} <= {item.check for item in found}


def test_a_label_that_is_no_model_is_noted_and_the_others_are_audited(tmp_path: Path) -> None:
    rows = [f"{label},None-16,1,{n},prefill,{n}e9" for label in ("Llama-2-7b-hf", "house") for n in (64, 128)]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([PUBLISHED, *rows]))
    found = {item.check: item.subject for item in audit([path], device="a6000", engine="lmdeploy")}
    assert found["unknown-model"] == "house"
    assert found["faster-than-hardware"] == "Llama-2-7b-hf"


def test_profiles_and_runs_of_two_devices_are_not_mixed(tmp_path: Path) -> None:
    header = "model,method,engine,device,bsz,prompt_len,stage,throughput_tok_s"
    path = tmp_path / "runs.csv"
    rows = [f"llama-2-7b,fp16,lmdeploy,{device},1,64,decode,30" for device in ("a6000", "h100")]
    path.write_text("\n".join([header, *rows]))
    with pytest.raises(DataError, match=r"runs\.csv: the runs name 2 devices \(a6000, h100\)"):
        audit([path])

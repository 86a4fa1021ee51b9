"""Runs of known methods; what is wrong with a file is blamed on the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvpred.errors import DataError, UsageError
from kvpred.workflows.reading import blamed_on, read_measured_runs

HEADER = "model,method,engine,device,bsz,prompt_len,stage,throughput_tok_s"


def _table(folder: Path, method: str) -> Path:
    path = folder / "runs.csv"
    path.write_text(f'{HEADER}\nllama-2-7b,"{method}",lmdeploy,a6000,4,512,decode,100\n')
    return path


def test_runs_of_known_methods_are_read(tmp_path: Path) -> None:
    (run,) = read_measured_runs([_table(tmp_path, "kivi:bits=2,group_size=32")])
    assert (run.method, run.method_params) == ("kivi", "kivi:bits=2,group_size=32")


@pytest.mark.parametrize("method", ["kivi:bits=3", "kivi:colour=2", "h2o:heavy=-1", "kivy"])
def test_an_unknown_method_or_parameter_is_the_files_fault(tmp_path: Path, method: str) -> None:
    path = _table(tmp_path, method)
    with pytest.raises(DataError) as caught:
        read_measured_runs([path])
    assert (str(caught.value.path), caught.value.column, caught.value.value) == (str(path), "method", method)


def test_an_error_without_a_place_gets_one() -> None:
    with (
        pytest.raises(DataError, match=r"^a\.csv, b\.csv: too few sites$"),
        blamed_on([Path("a.csv"), Path("b.csv")]),
    ):
        raise UsageError("too few sites")


def test_an_error_with_a_place_keeps_it() -> None:
    with pytest.raises(DataError) as caught, blamed_on([Path("a.csv")]):
        raise DataError("empty", path="other.csv", row=3)
    assert (caught.value.path, caught.value.row) == ("other.csv", 3)


def test_a_models_other_spellings_contradict_no_argument(tmp_path: Path) -> None:
    path = _table(tmp_path, "fp16")
    path.write_text(path.read_text().replace("llama-2-7b", "meta-llama/Llama-2-7b-hf"))
    assert read_measured_runs([path], model="llama-2-7b")[0].model == "llama-2-7b"


def test_another_model_does(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contradicts --model llama-3-8b"):
        read_measured_runs([_table(tmp_path, "fp16")], model="llama-3-8b")


def test_an_engines_other_spellings_contradict_no_argument(tmp_path: Path) -> None:
    path = _table(tmp_path, "fp16")
    path.write_text(path.read_text().replace("lmdeploy", "LMDeploy"))
    assert read_measured_runs([path])[0].engine == "lmdeploy"
    assert read_measured_runs([path], engine="LmDeploy")[0].engine == "lmdeploy"


def test_two_spellings_of_one_name_are_one(tmp_path: Path) -> None:
    path = _table(tmp_path, "fp16")
    row = path.read_text().splitlines()[1]
    other = row.replace("llama-2-7b", "meta-llama/Llama-2-7b-hf").replace("a6000", "A6000")
    path.write_text(path.read_text() + other + "\n")
    runs = read_measured_runs([path])
    assert [(run.model, run.device) for run in runs] == [("llama-2-7b", "a6000")] * 2


def test_a_model_from_a_file_keeps_its_path_though_it_is_named_as_another(tmp_path: Path) -> None:
    folder = tmp_path / "llama-2-7b"
    folder.mkdir()
    config = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
        "num_hidden_layers": 2, "vocab_size": 100, "max_position_embeddings": 512,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    assert read_measured_runs([_table(tmp_path, "fp16")], model=str(folder))[0].model == str(folder)

from pathlib import Path

import pytest

from kvpred.errors import UsageError
from kvpred.models import get_model, list_models


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("llama-2-7b", "llama-2-7b"),
        ("LLaMA-2-7B", "llama-2-7b"),
        ("meta-llama/Llama-2-7b-hf", "llama-2-7b"),
        ("Llama-2-7b-hf", "llama-2-7b"),
        ("meta-llama-Llama-2-7b-hf", "llama-2-7b"),
        ("meta-llama-Meta-Llama-3-8B", "llama-3-8b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("mistralai-Mistral-7B-v0.1", "mistral-7b-v0.1"),
        (" qwen3_8b ", "qwen3-8b"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m"),
    ],
)
def test_a_model_is_found_under_its_names(spelling: str, name: str) -> None:
    assert get_model(spelling).name == name


def test_every_model_names_its_source() -> None:
    assert all(model.source.startswith("https://huggingface.co/") for model in list_models())


def test_mistral_notes_its_sliding_window() -> None:
    assert {m.name: m.sliding_window for m in list_models() if m.sliding_window} == {"mistral-7b-v0.1": 4096}


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'llama-2-7bb' is not known\. Did you mean llama-2-7b\?"):
        get_model("llama-2-7bb")


@pytest.mark.parametrize("name", ["gpt-4", "x" * 5000, "a\0b"])
def test_what_is_neither_name_nor_path_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"is not known.*Known models: llama-2-7b, .*config\.json"):
        get_model(name)


def test_a_folder_in_the_way_does_not_hide_a_catalogue_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "llama-2-7b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert get_model("llama-2-7b").n_layers == 32

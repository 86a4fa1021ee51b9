from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kvpred.errors import DataError, UsageError
from kvpred.models import ModelSpec, get_model
from kvpred.models.hf import parse_config
from kvpred.models.weights import load_model, load_tokenizer, random_model

TINY = replace(
    get_model("smollm2-135m"),
    name="tiny",
    n_layers=3,
    hidden_size=48,
    n_q_heads=4,
    n_kv_heads=2,
    head_dim=16,
    intermediate_size=64,
    vocab_size=100,
)
UNTIED = replace(TINY, tie_embeddings=False)
SHAPES = {
    "tied": TINY,
    "untied": UNTIED,
    "biased": replace(UNTIED, qkv_bias=True, o_bias=True, mlp_bias=True),
    "qwen2": replace(TINY, qkv_bias=True),
    "qwen3": replace(UNTIED, qk_norm=True),
}
TOKENS = torch.arange(1, 21).view(2, 10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved model of random weights."""
    random_model(TINY, dtype=torch.float32, seed=3).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("spec", SHAPES.values(), ids=SHAPES)
def test_a_random_model_has_the_specs_shape_and_parameters(spec: ModelSpec) -> None:
    model = random_model(spec, dtype=torch.bfloat16)
    found = parse_config(model.config.to_dict(), Path("config.json"))
    assert replace(found, name=spec.name, hf_id=spec.hf_id, source=spec.source) == spec
    assert sum(weights.numel() for weights in model.parameters()) == spec.n_params
    assert {weights.dtype for weights in model.parameters()} == {torch.bfloat16}
    assert not model.training


@pytest.mark.parametrize("spec", SHAPES.values(), ids=SHAPES)
def test_a_random_model_gives_finite_logits_that_depend_on_order(spec: ModelSpec) -> None:
    model = random_model(spec, dtype=torch.bfloat16)
    logits, shuffled = model(TOKENS).logits, model(TOKENS.flip(1)).logits
    assert logits.isfinite().all()
    assert logits.float().std() > 0
    assert not torch.allclose(logits[:, -1], shuffled[:, 0])


def test_a_random_model_rotates_positions_as_any_other() -> None:
    model = random_model(TINY, dtype=torch.bfloat16)
    expected = model.config.rope_parameters["rope_theta"] ** -(torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, expected)


def test_a_random_model_may_have_fewer_layers() -> None:
    model = random_model(TINY, n_layers=1, dtype=torch.float32)
    assert len(model.model.layers) == model.config.num_hidden_layers == 1


def test_the_seed_decides_the_weights_and_leaves_other_randomness_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (random_model(TINY, dtype=torch.float32, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first(TOKENS).logits, again(TOKENS).logits)
    assert not torch.allclose(first(TOKENS).logits, other(TOKENS).logits)


def test_a_random_model_attends_beyond_the_specs_window() -> None:
    spec = replace(
        get_model("mistral-7b-v0.1"), n_layers=1, hidden_size=64, intermediate_size=64, vocab_size=99
    )
    model = random_model(spec, dtype=torch.bfloat16)
    assert parse_config(model.config.to_dict(), Path("config.json")).sliding_window is None


def test_shapes_that_transformers_lacks_are_refused() -> None:
    with pytest.raises(UsageError, match="transformers has no model with the biases and norms of tiny"):
        random_model(replace(TINY, qk_norm=True, mlp_bias=True), dtype=torch.float32)


def test_a_saved_model_loads_as_it_was(folder: Path) -> None:
    model = load_model(folder, dtype=torch.float32)
    assert torch.equal(model(TOKENS).logits, random_model(TINY, dtype=torch.float32, seed=3)(TOKENS).logits)
    assert not model.training
    assert {weights.dtype for weights in load_model(folder, dtype=torch.float16).parameters()} == {
        torch.float16
    }


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds neither a config\.json nor a GGUF file"):
        load_model(tmp_path, dtype=torch.float32)
    with pytest.raises(DataError, match=r"nowhere: does not exist\."):
        load_model(tmp_path / "nowhere", dtype=torch.float32)
    (tmp_path / "weights.bin").touch()
    with pytest.raises(DataError, match="is neither a folder nor a GGUF file"):
        load_model(tmp_path / "weights.bin", dtype=torch.float32)


def test_pickled_weights_are_not_opened(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"has a config\.json but no safetensors"):
        load_model(folder, dtype=torch.float32)


def test_several_gguf_files_are_listed(tmp_path: Path) -> None:
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"holds several GGUF files, name one: a\.gguf, b\.gguf"):
        load_model(tmp_path, dtype=torch.float32)


def test_what_is_no_gguf_file_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"no weights here")
    with pytest.raises(DataError, match=r"broken\.gguf: cannot be loaded"):
        load_model(tmp_path / "broken.gguf", dtype=torch.float32)


def test_truncated_weights_are_refused_with_their_place(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot be loaded"):
        load_model(folder, dtype=torch.float32)


def test_missing_tensors_are_not_drawn_at_random(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        DataError, match=r"lacks 1 of the model's tensors, such as model\.layers\.1\.mlp\.up_proj"
    ):
        load_model(folder, dtype=torch.float32)


def test_tensors_of_another_shape_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 32}))
    with pytest.raises(DataError, match="cannot be loaded"):
        load_model(folder, dtype=torch.float32)


def test_architectures_that_are_not_understood_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    with pytest.raises(UsageError, match="a hybrid or state-space model"):
        load_model(folder, dtype=torch.float32)


def test_code_that_comes_with_a_model_is_not_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": auto_map}))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    assert type(load_model(folder, dtype=torch.float32)).__name__ == "LlamaForCausalLM"


def test_a_folder_without_tokenizer_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="holds no tokenizer that can be loaded"):
        load_tokenizer(folder)


@pytest.mark.slow
def test_a_gguf_file_gives_the_model_and_its_tokenizer(smollm2: Path) -> None:
    (gguf,) = smollm2.glob("*.gguf")
    model, tokenizer = load_model(gguf, dtype=torch.bfloat16), load_tokenizer(gguf)
    spec = get_model("smollm2-135m")
    found = parse_config(model.config.to_dict(), Path(model.config.name_or_path))
    assert found.name == gguf.stem
    assert replace(found, name=spec.name, hf_id=spec.hf_id, source=spec.source) == spec
    inputs = tokenizer(["The capital of France is", "Monday, Tuesday,"], return_tensors="pt", padding=True)
    done = model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert tokenizer.batch_decode(done[:, -1:]) == [" Paris", " Wednesday"]

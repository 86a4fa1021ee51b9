"""Vidur 0.0.26 itself, nothing in it replaced, trains on a profile that kvpred wrote and predicts from it."""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvpred.data.profiles import SCHEMAS, Columns, Manifest, Profile, time_column
from kvpred.data.store import export_vidur, read_profile, write_profile

pytest.importorskip("vidur", reason="pip install 'kvpred[vidur]' brings Vidur")

LAYERS, HIDDEN, EXPANDED = 32, 4096, 11008
BATCHES = (1, 2, 4, 8)
LENGTHS = tuple(range(128, 2049, 128))
SHAPE = {
    "n_embd": HIDDEN,
    "n_expanded_embd": EXPANDED,
    "n_head": 32,
    "n_q_head": 32,
    "n_kv_head": 32,
    "vocab_size": 32000,
    "block_size": 1,
    "max_model_len": 4096,
    "num_tensor_parallel_workers": 1,
    "use_gated_mlp": True,
    "attention_backend": "kvpred",
}


def columns(name: str, rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Return a table of LLaMA-2-7B's shape; what a row does not time takes 5 microseconds."""
    rest = SHAPE | {time_column(operator): 0.005 for operator in SCHEMAS[name].operators}
    return {column: np.array([(rest | row)[column] for row in rows]) for column in SCHEMAS[name].required}


def decode_ms(bsz: int, kv_len: int) -> float:
    """Read the cache at 700 GB/s."""
    return 0.01 + bsz * kv_len * 2 * HIDDEN * 2 / 700e6


def prefill_ms(chunk: int) -> float:
    """Multiply queries and keys, weights and values, half of them masked, at 80 TFLOP/s."""
    return 0.02 + 2 * chunk**2 * HIDDEN / 80e9


def linear_ms(weights: int, num_tokens: int) -> float:
    """Read the weights at 700 GB/s and multiply at 100 TFLOP/s."""
    return weights * 2 / 700e6 + 2 * weights * num_tokens / 100e9


def attention() -> Columns:
    prefill, decode = time_column("attn_prefill"), time_column("attn_decode")
    prompts = [
        {"batch_size": bsz, "prefill_chunk_size": chunk, "kv_cache_size": 0, "is_prefill": True}
        | {prefill: bsz * prefill_ms(chunk), decode: np.nan}
        for bsz in (1, 2, 4)
        for chunk in LENGTHS
    ]
    steps = [
        {"batch_size": bsz, "prefill_chunk_size": 0, "kv_cache_size": kv_len, "is_prefill": False}
        | {prefill: np.nan, decode: decode_ms(bsz, kv_len)}
        for bsz in BATCHES
        for kv_len in LENGTHS
    ]
    return columns("attention", prompts + steps)


def mlp() -> Columns:
    weights = {
        "attn_pre_proj": 3 * HIDDEN**2,
        "attn_post_proj": HIDDEN**2,
        "mlp_up_proj": 2 * HIDDEN * EXPANDED,
        "mlp_down_proj": HIDDEN * EXPANDED,
    }
    rows = [
        {"num_tokens": tokens}
        | {time_column(operator): linear_ms(size, tokens) for operator, size in weights.items()}
        for tokens in (*BATCHES, *LENGTHS)
    ]
    return columns("mlp", rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A profile of LLaMA-2-7B, as kvpred writes it."""
    about = {"model": "llama-2-7b", "device": "a6000"}
    manifest = Manifest(**about, method="fp16", method_params="fp16", n_layers=LAYERS)
    profile = Profile(**about, method="fp16", attention=attention(), mlp=mlp(), manifest=manifest)
    return write_profile(tmp_path / "profiles", profile)


def hub_dataset(cache: Path, name: str, config: Mapping[str, str], *, tables: Sequence[Path] = ()) -> None:
    """Lay a data set where huggingface_hub keeps what it has downloaded: there Vidur looks for profiles."""
    place, commit = cache / f"datasets--{name.replace('/', '--')}", "0" * 40
    snapshot = place / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    (snapshot / "config.json").write_text(json.dumps(config))
    for table in tables:
        (snapshot / f"{table.name}.xz").write_bytes(lzma.compress(table.read_bytes()))


def name_model(name: str, profile: Profile) -> None:
    """Make the profile's model known to Vidur, which finds all subclasses of its configurations."""
    from vidur.config.model_config import Llama2ModelConfig

    first = {column: values[0].item() for column, values in (profile.mlp | profile.attention).items()}

    @dataclass
    class Profiled(Llama2ModelConfig):
        num_layers: int = profile.manifest.n_layers
        num_q_heads: int = first["n_q_head"]
        num_kv_heads: int = first["n_kv_head"]
        embedding_dim: int = first["n_embd"]
        mlp_hidden_dim: int = first["n_expanded_embd"]
        use_gated_mlp: bool = first["use_gated_mlp"]
        vocab_size: int = first["vocab_size"]
        max_model_len: int = first["max_model_len"]

        @staticmethod
        def get_name() -> str:
            return name


def vidur_predictor(folder: Path, *, cache: Path) -> Any:
    """Let Vidur train its default predictor, with few trees, on the profile in a folder."""
    from vidur.config import CacheConfig, RandomForrestExecutionTimePredictorConfig, ReplicaConfig
    from vidur.execution_time_predictor import ExecutionTimePredictorRegistry

    profile, model = read_profile(folder), str(folder)  # A name that no other profile's model has.
    name_model(model, profile)
    # A card of Vidur's own list: the times come from the profile alone.
    about = {"model": model, "device_sku": "a100"}
    tables = sorted(export_vidur(cache / "exported", profile).glob("*.csv"))
    hub_dataset(cache / "profiling_data" / "compute", "own/compute", about, tables=tables)
    hub_dataset(cache / "profiling_data" / "network", "own/network", {"sku": "a100_dgx"})
    config = RandomForrestExecutionTimePredictorConfig(
        model_profiling_dataset="own/compute",
        network_profiling_dataset="own/network",
        cache_dir=str(cache),
        prediction_max_batch_size=int(profile.attention["batch_size"].max()),
        prediction_max_tokens_per_request=4096,
        prediction_max_prefill_chunk_size=2048,
        attention_decode_batching_overhead_fraction=0.0,  # Whole batches were timed.
        num_estimators=[20],
        max_depth=[16],
        min_samples_split=[2],
        k_fold_cv_splits=2,
        num_training_job_threads=1,
    )
    replica = ReplicaConfig(
        model_name=model,
        device="a100",
        network_device="a100_dgx",
        tensor_parallel_size=1,
        num_pipeline_stages=1,
    )
    blocks = CacheConfig(block_size=int(profile.attention["block_size"][0]))
    return ExecutionTimePredictorRegistry.get(config.get_type(), config, replica, blocks)


def execution_time(predictor: Any, *, bsz: int, new_tokens: int, kv_len: int) -> Any:
    """Return what Vidur predicts for a batch of equal requests."""
    from vidur.entities import Batch, Request
    from vidur.types import ReplicaId

    requests = [Request(0.0, kv_len + new_tokens, 1) for _ in range(bsz)]
    return predictor.get_execution_time(Batch(ReplicaId(0), requests, [new_tokens] * bsz, [kv_len] * bsz), 0)


def layer_ms(num_tokens: int, attention_ms: float) -> float:
    """Sum a layer's operators: rope, activation, two norms and the addition take 5 microseconds each."""
    return linear_ms(4 * HIDDEN**2 + 3 * HIDDEN * EXPANDED, num_tokens) + attention_ms + 5 * 0.005


def test_vidur_loads_a_profile_and_predicts_what_it_says(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    np.random.seed(0)  # Vidur's forests take no seed.
    predictor = vidur_predictor(folder, cache=tmp_path / "vidur")
    step = execution_time(predictor, bsz=4, new_tokens=1, kv_len=1024)
    prompt = execution_time(predictor, bsz=1, new_tokens=1024, kv_len=0)
    assert step.attention_decode_execution_time == pytest.approx(decode_ms(4, 1024), rel=0.15)
    assert prompt.attention_prefill_execution_time == pytest.approx(prefill_ms(1024), rel=0.15)
    assert step.total_time * 1e3 == pytest.approx(LAYERS * layer_ms(4, decode_ms(4, 1024)), rel=0.15)
    assert prompt.total_time * 1e3 == pytest.approx(LAYERS * layer_ms(1024, prefill_ms(1024)), rel=0.15)


def test_vidur_loads_a_profile_that_was_measured(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    np.random.seed(0)
    sweep = root / "data" / "measured" / "smollm2-135m_epyc-2-cores"
    measured = sweep / "compute" / "host-cpu" / "smollm2-135m" / "fp16"
    predictor = vidur_predictor(measured, cache=tmp_path / "vidur")
    short = execution_time(predictor, bsz=1, new_tokens=1, kv_len=256)
    long = execution_time(predictor, bsz=4, new_tokens=1, kv_len=4096)
    attention = read_profile(measured).attention
    row = (attention["batch_size"] == 4) & (attention["kv_cache_size"] == 4096)
    assert long.attention_decode_execution_time == pytest.approx(
        float(attention[time_column("attn_decode")][row][0]), rel=0.5
    )
    assert 0 < short.total_time < long.total_time

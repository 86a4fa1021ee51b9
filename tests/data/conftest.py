"""Small tables of runs and a small profile, made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kvpred.data.profiles import SCHEMAS, STEPS_SCHEMA, Columns, Profile, time_column


@pytest.fixture
def runs_csv(tmp_path: Path) -> Path:
    path = tmp_path / "runs.csv"
    path.write_text(
        "model,method,engine,device,bsz,prompt_len,stage,throughput_tok_s\n"
        "llama-2-7b,fp16,lmdeploy,a6000,4,512,prefill,5000\n"
        "llama-2-7b,kivi:bits=4,lmdeploy,a6000,4,512,decode,100\n"
    )
    return path


@pytest.fixture
def published_csv(tmp_path: Path) -> Path:
    path = tmp_path / "published.csv"
    path.write_text(
        "model,method,bsz,prompt_len,stage,thr\n"
        "Llama-7b,None-16,1,256,prefill,4000\n"
        "Llama-13b,KIVI-4,1,321,decoding,25\n"
    )
    return path


def _attention() -> Columns:
    rows = 4
    columns: Columns = {name: np.full(rows, 32) for name in SCHEMAS["attention"].integers}
    columns |= {
        "num_tensor_parallel_workers": np.ones(rows, dtype=np.int64),
        "batch_size": np.array([1, 1, 1, 2]),
        "prefill_chunk_size": np.array([64, 128, 0, 0]),
        "kv_cache_size": np.array([0, 0, 256, 256]),
        "is_prefill": np.array([True, True, False, False]),
        "attention_backend": np.array(["sdpa"] * rows),
    }
    columns |= {time_column(op): np.array([0.1, 0.2, 0.3, 0.4]) for op in SCHEMAS["attention"].operators}
    columns[time_column("attn_prefill")] = np.array([0.5, 0.9, np.nan, np.nan])
    columns[time_column("attn_decode")] = np.array([np.nan, np.nan, 0.25, 0.5])
    return columns


def _mlp() -> Columns:
    rows = 3
    columns: Columns = {name: np.full(rows, 32) for name in SCHEMAS["mlp"].integers}
    columns |= {
        "num_tensor_parallel_workers": np.ones(rows, dtype=np.int64),
        "num_tokens": np.array([1, 64, 128]),
        "use_gated_mlp": np.array([True] * rows),
    }
    return columns | {time_column(op): np.array([0.125, 1 / 3, 0.75]) for op in SCHEMAS["mlp"].operators}


@pytest.fixture
def small_steps() -> Columns:
    """Two whole steps of four layers: a prompt and a decode step."""
    columns: Columns = {name: np.full(2, 4) for name in STEPS_SCHEMA.integers}
    columns |= {
        "prefill_chunk_size": np.array([64, 0]),
        "kv_cache_size": np.array([0, 256]),
        "is_prefill": np.array([True, False]),
    }
    return columns | {time_column(op): np.array([1 / 3, 0.5]) for op in STEPS_SCHEMA.operators}


@pytest.fixture
def small_profile() -> Profile:
    return Profile(model="org/tiny", device="a6000", method="kivi:bits=4", attention=_attention(), mlp=_mlp())

"""The published fp16 profile where it is at hand, and a small profile that follows known laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kvpred.data.profiles import Columns, Profile, time_column
from kvpred.data.store import read_profile

DECODE_SITES = np.array([(bsz, kv_len) for bsz in (1, 2, 4, 8, 16, 32) for kv_len in range(128, 2049, 128)])


def decode_law(bsz: np.ndarray, kv_len: np.ndarray) -> np.ndarray:
    """A launch of 10 µs, 1 µs per query, and 16 KiB of KV per token at 640 GB/s (25.6 ns)."""
    return 0.010 + 0.001 * bsz + 25.6e-6 * bsz * kv_len


@pytest.fixture(scope="session")
def fp16_profile(shared_data: Path) -> Profile:
    return read_profile(
        shared_data / "a6000" / "profile" / "meta-llama" / "Llama-2-7b-fp16",
        device="a6000",
        model="llama-2-7b",
        method="fp16",
    )


@pytest.fixture(scope="session")
def small_profile() -> Profile:
    """Decode by `decode_law`, a single prefill row, an operator of 0 ms, and an MLP of 1 µs per token."""
    bsz, kv_len = DECODE_SITES.T
    n_decode = len(bsz)
    decode_ms = decode_law(bsz, kv_len)
    attention: Columns = {
        "num_tensor_parallel_workers": np.full(n_decode + 1, 1),
        "batch_size": np.append(bsz, 1),
        "prefill_chunk_size": np.append(np.zeros(n_decode, dtype=int), 512),
        "kv_cache_size": np.append(kv_len, 64),
        "is_prefill": np.append(np.zeros(n_decode, dtype=bool), True),
        time_column("attn_input_reshape"): np.zeros(n_decode + 1),
        time_column("attn_decode"): np.append(decode_ms, np.nan),
        time_column("attn_prefill"): np.append(np.full(n_decode, np.nan), 0.5),
    }
    tokens = np.arange(64, 2049, 64)
    mlp: Columns = {
        "num_tensor_parallel_workers": np.full(len(tokens), 1),
        "num_tokens": tokens,
        time_column("mlp_act"): 0.001 * tokens,
    }
    return Profile(model="a-model", device="a-device", method="fp16", attention=attention, mlp=mlp)

"""The commands as a shell runs them, and small measurements of a made-up server to feed them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvpred.cli import run
from kvpred.data.profiles import SCHEMAS, Columns, Profile, time_column
from kvpred.data.store import write_profile

HEADER = "model,method,engine,device,bsz,prompt_len,stage,throughput_tok_s,repeat"
BATCHES, PROMPTS = (1, 2, 4, 8), (256, 1024, 2048, 4096)
# Relative times of the made-up server's methods.
FACTORS = {"fp16": 1.0, "kivi": 0.95, "h2o": 1.1}
NOISE = 0.02


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Standard output as JSON, which must be all that it is."""
        found = json.loads(self.out)
        assert isinstance(found, list)
        return found

    @property
    def rows(self) -> list[dict[str, str]]:
        """Standard output as CSV."""
        return list(csv.DictReader(io.StringIO(self.out)))


Cli = Callable[..., Outcome]
RunsText = Callable[..., str]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return a runner of the command line that tells the exit code and both streams."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def runs_text() -> RunsText:
    """Return a maker of a tidy table: launches, tokens and pairs of tokens take time, with noise."""

    def make(
        *,
        sites: Mapping[str, set[tuple[int, int]]] | None = None,
        factors: Mapping[str, float] = FACTORS,
        batches: tuple[int, ...] = BATCHES,
        seed: int = 0,
    ) -> str:
        rng = np.random.default_rng(seed)
        rows = [HEADER]
        for method, stage, bsz, prompt, repeat in product(
            factors, ("prefill", "decode"), batches, PROMPTS, (0, 1)
        ):
            if (bsz, prompt) not in (sites or {}).get(method, {(bsz, prompt)}):
                continue
            attended = min(prompt, 512) if method == "h2o" else prompt
            tokens = bsz * prompt if stage == "prefill" else bsz
            time_s = (
                0.05 + 1.7e-4 * tokens + 1.3e-8 * tokens * prompt
                if stage == "prefill"
                else 0.034 + 2e-4 * bsz + 8.3e-7 * bsz * attended
            )
            time_s *= factors[method] * np.exp(rng.normal(scale=NOISE))
            rows.append(
                f"llama-2-7b,{method},lmdeploy,a6000,{bsz},{prompt},{stage},{tokens / time_s:.6g},{repeat}"
            )
        return "\n".join(rows) + "\n"

    return make


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory, runs_text: RunsText) -> Path:
    """A table of runs of three methods."""
    path = tmp_path_factory.mktemp("measured") / "runs.csv"
    path.write_text(runs_text())
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, measured: Path) -> Path:
    """The bundle that ``kvpred train`` makes of the runs."""
    folder = tmp_path_factory.mktemp("trained") / "bundle"
    assert run(["train", "--runs", str(measured), "--output", str(folder)]) == 0
    return folder


def _attention(rng: np.random.Generator, factor: float) -> Columns:
    prefill = [(1, chunk, 0) for chunk in (64, 256, 512, 1024, 2048, 4096)]
    decode = [(bsz, 0, cached) for bsz in BATCHES for cached in (256, 1024, 2048, 4096)]
    bsz, chunk, cached = np.array(prefill + decode).T
    columns: Columns = {name: np.full(len(bsz), 32) for name in SCHEMAS["attention"].integers}
    columns |= {
        "n_embd": np.full(len(bsz), 4096),
        "num_tensor_parallel_workers": np.ones(len(bsz), dtype=np.int64),
        "batch_size": bsz,
        "prefill_chunk_size": chunk,
        "kv_cache_size": cached,
        "is_prefill": chunk > 0,
        "attention_backend": np.full(len(bsz), "sdpa"),
    }
    laws = dict.fromkeys(SCHEMAS["attention"].operators, 0.01 + 2e-5 * np.maximum(chunk, bsz))
    laws["attn_prefill"] = factor * (0.03 + 2e-5 * chunk + 4e-7 * chunk**2)
    laws["attn_decode"] = factor * (0.03 + 2.7e-5 * bsz * cached)
    times = {name: law * np.exp(rng.normal(scale=NOISE, size=len(bsz))) for name, law in laws.items()}
    times["attn_prefill"][chunk == 0] = np.nan
    times["attn_decode"][chunk > 0] = np.nan
    return columns | {time_column(name): values for name, values in times.items()}


def _mlp(rng: np.random.Generator) -> Columns:
    tokens = np.array([1, 2, 4, 8, 64, 256, 1024, 4096])
    columns: Columns = {name: np.full(len(tokens), 32) for name in SCHEMAS["mlp"].integers}
    columns |= {
        "n_embd": np.full(len(tokens), 4096),
        "n_expanded_embd": np.full(len(tokens), 11008),
        "num_tensor_parallel_workers": np.ones(len(tokens), dtype=np.int64),
        "num_tokens": tokens,
        "use_gated_mlp": np.full(len(tokens), True),
    }
    for name in SCHEMAS["mlp"].operators:
        law = 0.4 + 1.5e-3 * tokens if "proj" in name else 0.01 + 2e-5 * tokens
        columns[time_column(name)] = law * np.exp(rng.normal(scale=NOISE, size=len(tokens)))
    return columns


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile store with fp16 and kivi, each measured for itself."""
    root = tmp_path_factory.mktemp("store")
    for seed, (method, factor) in enumerate({"fp16": 1.0, "kivi:bits=4": 1.2}.items()):
        rng = np.random.default_rng(seed)
        attention, mlp = _attention(rng, factor), _mlp(rng)
        write_profile(
            root, Profile(model="llama-2-7b", device="a6000", method=method, attention=attention, mlp=mlp)
        )
    return root


@pytest.fixture(scope="session")
def doctored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile store whose kivi attention is fp16's times a constant."""
    root = tmp_path_factory.mktemp("doctored")
    rng = np.random.default_rng(0)
    attention, mlp = _attention(rng, 1.0), _mlp(rng)
    slower = {name: 1.1 * values if "attn_" in name else values for name, values in attention.items()}
    for method, table in {"fp16": attention, "kivi:bits=4": slower}.items():
        write_profile(
            root, Profile(model="llama-2-7b", device="a6000", method=method, attention=table, mlp=mlp)
        )
    return root


@pytest.fixture(scope="session")
def fp16_profile(store: Path) -> Path:
    """Where the store keeps fp16's profile."""
    return store / "compute" / "a6000" / "llama-2-7b" / "fp16"

"""A tiny model of Llama's shape, and a grid of four points."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvpred.models.hf import parse_config
from kvpred.profiling.grid import Grid, StageGrid

CONFIG = {
    "model_type": "llama", "num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 128, "vocab_size": 256,
    "max_position_embeddings": 8192,
}  # fmt: skip
TINY = parse_config(CONFIG, Path("tiny/config.json"))
GRID = Grid(
    prefill=StageGrid(bsz=[1], length=[16, 64]),
    decode=StageGrid(bsz=[1, 2], length=[32]),
    rounds=1,
    repeats=2,
    steps=2,
)
N_SITES = 4


def write_model(folder: Path, **changes: object) -> Path:
    """Write the model's ``config.json``, and return its path."""
    path = folder / "tiny" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(CONFIG | changes))
    return path


def write_grid(folder: Path) -> Path:
    """Write the grid as a TOML file, and return its path."""
    path = folder / "grid.toml"
    stages = "[prefill]\nbsz = [1]\nlength = [16, 64]\n[decode]\nbsz = [1, 2]\nlength = [32]\n"
    path.write_text(f"rounds = 1\nrepeats = 2\nsteps = 2\n{stages}")
    return path


@contextmanager
def light() -> Iterator[None]:
    """Watch the machine with a tiny reference.

    The real one reads more than any processor's cache holds, which takes longer than all else here.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvpred.profiling.reference.READ_BYTES", 2**20)
        patch.setattr("kvpred.profiling.reference.GEMM_SIZE", 64)
        yield

"""Tiny stacks with real layers, and sweeps of them that take moments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="pip install 'kvpred[profile]' brings torch and transformers")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kvpred.data.profiles import Profile
from kvpred.data.store import find_profiles, read_profile
from kvpred.methods import get_method
from kvpred.profiling.stack import Stack
from kvpred.profiling.sweep import SweepPlan
from tests.tiny import CONFIG, GRID, TINY, light


@pytest.fixture(autouse=True)
def _light() -> Iterator[None]:
    with light():
        yield


@pytest.fixture(scope="session")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM._from_config(LlamaConfig(**CONFIG), dtype=torch.bfloat16).eval()


@pytest.fixture
def stack(model: LlamaForCausalLM) -> Stack:
    return Stack(model, TINY, TINY.n_layers, torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., SweepPlan]:
    """Return a maker of plans for the tiny model."""

    def make(*methods: str, **changes: object) -> SweepPlan:
        fields = {"grid": GRID, "memory_bytes": 2**34, "n_layers": TINY.n_layers} | changes
        return SweepPlan(
            model=TINY,
            methods=[get_method(name) for name in methods or ("fp16",)],
            device="cpu",
            device_name="host-cpu",
            host="this very processor",
            **fields,  # type: ignore[arg-type]
        )

    return make


@pytest.fixture
def profiles() -> Callable[[Path], dict[str, Profile]]:
    """Return a reader of all profiles under a root, by method."""

    def read(root: Path) -> dict[str, Profile]:
        found = (read_profile(key.path) for key in find_profiles(root))
        return {profile.method: profile for profile in found}

    return read


@pytest.fixture
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield

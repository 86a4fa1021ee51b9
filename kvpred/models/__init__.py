"""What is served: the architecture of an LLM, from the catalogue or from a Hugging Face ``config.json``."""

from __future__ import annotations

from pathlib import Path

from kvpred.errors import unknown_name
from kvpred.models.catalogue import CATALOGUE, SPELLINGS, normalise
from kvpred.models.spec import WEIGHT_BITS, ModelSpec

__all__ = ["WEIGHT_BITS", "ModelSpec", "get_model", "list_models"]


def list_models() -> list[ModelSpec]:
    """List the models of the catalogue."""
    return list(CATALOGUE.values())


def get_model(name_or_path: str | Path) -> ModelSpec:
    """Find a model by its name, its hub id, or the path of its ``config.json``.

    Parameters
    ----------
    name_or_path : str or Path
        A catalogue name such as ``llama-2-7b`` or a hub id such as ``meta-llama/Llama-2-7b-hf`` (upper and
        lower case alike), else the path of a ``config.json`` or of a folder that holds one.

    Returns
    -------
    ModelSpec
        The model's architecture.

    Raises
    ------
    UsageError
        If the name is unknown, or the file describes an architecture that kvpred does not model.
    DataError
        If the file is broken.

    Examples
    --------
    >>> get_model("meta-llama/Llama-2-7b-hf").n_layers
    32
    """
    spelling = normalise(str(name_or_path))
    if isinstance(name_or_path, str) and spelling in SPELLINGS:
        return CATALOGUE[SPELLINGS[spelling]]
    path = Path(name_or_path)
    if path.suffix == ".json" or _exists(path):
        from kvpred.models.hf import read_config  # pydantic: only where a file is read

        return read_config(path)
    raise unknown_name(
        "model",
        name_or_path,
        CATALOGUE,
        spellings=SPELLINGS,
        otherwise="; for any other give the path of its Hugging Face config.json",
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long for a path: then it is none
        return False

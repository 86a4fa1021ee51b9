"""What a bundle covers, in one row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvpred.methods import get_method
from kvpred.predictors.bundle import load
from kvpred.predictors.crossval import SPLITS
from kvpred.predictors.length.bundle import KIND as LENGTHS
from kvpred.predictors.sealed import kind_of, opened


def summarise(folder: Path) -> dict[str, Any]:
    """Describe a bundle: what was measured, on which range, how accurate on what was held out.

    Raises
    ------
    DataError
        As `kvpred.load`.
    """
    if kind_of(folder) == LENGTHS:
        return opened(folder, LENGTHS, _lengths)
    return _throughput(folder)


def _throughput(folder: Path) -> dict[str, Any]:
    predictor = load(folder)
    sites = predictor.sites
    accuracy = {
        split.replace(" ", "_"): round(float(np.mean(list(predictor.accuracy[split].values()))), 4)
        for split in SPLITS
        if split in predictor.accuracy
    }
    return {
        "name": folder.name,
        "path": str(folder),
        "kind": "throughput",
        "model": predictor.place.model.name,
        "device": predictor.place.device.name,
        "engine": predictor.engine,
        "tp": predictor.place.tp,
        "methods": [get_method(spec).name for spec in predictor.methods],
        "method_params": predictor.methods,
        "basis": predictor.basis,
        "sites": len(sites),
        "runs": int(sites.count.sum()),
        "bsz_range": _range(sites.bsz),
        "prompt_len_range": _range(sites.prompt_len),
        "accuracy": accuracy,
        "accuracy_held_out_lengths": accuracy.get("lengths"),
        "provenance": predictor.provenance,
    }


def _lengths(folder: Path, index: dict[str, Any]) -> dict[str, Any]:
    """Describe a bundle of lengths by its index, without the libraries that predicting needs."""
    unknown = ("model", "device", "engine", "tp", "sites", "runs", "bsz_range")
    return {
        "name": folder.name,
        "path": str(folder),
        "kind": LENGTHS,
        **dict.fromkeys(unknown),
        "prompt_len_range": index.get("domain", {}).get("prompt_tokens"),
        "methods": [get_method(index["method_params"]).name],
        "method_params": [index["method_params"]],
        "basis": index.get("basis"),
        "predictor": index["predictor"],
        "answers": index["facts"].get("answers"),
        "conversations": len(index["groups"]),
        "accuracy": index.get("accuracy", {}),
        "accuracy_held_out_lengths": None,
        "provenance": index["provenance"],
    }


def _range(values: NDArray[np.int64]) -> list[int] | None:
    return [int(values.min()), int(values.max())] if len(values) else None

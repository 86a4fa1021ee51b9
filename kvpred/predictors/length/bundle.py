"""Length models as bundles: JSON, LightGBM's text, safetensors and CSV."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from kvpred.data.files import replaced_folder
from kvpred.data.length_predictions import LengthPredictions, read_predictions, write_predictions
from kvpred.predictors.length.base import LEVELS, LengthDistributions, LengthPredictor
from kvpred.predictors.length.model import LengthModel, OutOfFold
from kvpred.predictors.length.recalibration import Recalibration
from kvpred.predictors.sealed import INDEX, opened, seal

KIND = "length"
_PREDICTOR, _OUT_OF_FOLD = "predictor", "out_of_fold.csv"
FILES = (INDEX, _PREDICTOR, _OUT_OF_FOLD)
# Every model is learnt from answers served with the method that it states.
_BASIS = "calibrated"
# Facts that a bundle states of its own: what held-out answers showed, and the ranges learnt from.
_STATED = ("accuracy", "domain")
# Where each kind of predictor lives: the torch ones are imported only when one is opened.
_CLASSES = {
    "lightgbm": ("fast", "FastPredictor"),
    "longformer": ("longformer", "LongformerPredictor"),
    "stacked": ("stacked", "StackedPredictor"),
}


def save(model: LengthModel, folder: Path | str) -> None:
    """Write a model as a bundle, in one step; `load` returns one that predicts the same.

    Parameters
    ----------
    model : LengthModel
    folder : Path or str
        Replaced as a whole if it is a bundle already.
    """
    with replaced_folder(folder) as draft:
        (draft / _PREDICTOR).mkdir()
        model.predictor.save(draft / _PREDICTOR)
        held_out = model.out_of_fold
        found = LengthPredictions(
            held_out.pieces,
            held_out.indices,
            held_out.folds,
            held_out.predicted.quantiles,
            held_out.predicted.mean,
        )
        write_predictions(draft / _OUT_OF_FOLD, found, levels=LEVELS.tolist())
        facts = dict(model.facts)
        stated = {name: facts.pop(name) for name in _STATED if name in facts}
        index = {
            "predictor": model.name,
            "method_params": model.method_params,
            "provenance": model.provenance,
            "basis": _BASIS,
            **stated,
            "facts": facts,
            "read_at": model.recalibration.read_at.tolist(),
            "mean_factor": model.recalibration.mean_factor,
            "groups": sorted(model.groups),
        }
        seal(draft, index, kind=KIND)


def load(folder: Path | str) -> LengthModel:
    """Open a bundle.

    Raises
    ------
    DataError
        If it is no bundle, of a newer schema, truncated or changed after it was written.
    UsageError
        If it is a bundle of something else.
    MissingExtraError
        If a library that the predictor needs is not installed.
    """
    return opened(folder, KIND, _from_index)


def _from_index(root: Path, index: dict[str, Any]) -> LengthModel:
    module, name = _CLASSES[index["predictor"]]
    kind: type[LengthPredictor] = getattr(import_module(f"kvpred.predictors.length.{module}"), name)
    predictor = kind.load(root / _PREDICTOR)
    held_out = read_predictions(root / _OUT_OF_FOLD, levels=LEVELS.tolist())
    return LengthModel(
        predictor=predictor,
        recalibration=Recalibration(np.array(index["read_at"]), float(index["mean_factor"])),
        out_of_fold=OutOfFold(
            pieces=held_out.pieces,
            indices=held_out.indices,
            folds=held_out.folds,
            predicted=LengthDistributions(held_out.quantiles, held_out.mean, predictor.limit_),
        ),
        groups=frozenset(index["groups"]),
        provenance=str(index["provenance"]),
        method_params=str(index["method_params"]),
        facts=index["facts"] | {name: index[name] for name in _STATED if name in index},
    )

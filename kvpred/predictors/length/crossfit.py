"""Train a model of lengths, and judge it on conversations that it has not seen, on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kvpred.data.conversations import Turn
from kvpred.data.journal import Progress
from kvpred.methods import BASELINE
from kvpred.predictors.length.base import LEVELS, LengthDistributions, LengthPredictor, check_enough, fold_of
from kvpred.predictors.length.model import LengthModel, OutOfFold, group_keys
from kvpred.predictors.length.recalibration import Recalibration

DEFAULT_FOLDS = 5


def cross_fit(
    make: Callable[[str], LengthPredictor],
    turns: Sequence[Turn],
    *,
    n_folds: int = DEFAULT_FOLDS,
    method_params: str = BASELINE,
    provenance: str,
    facts: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> LengthModel:
    """Train once for each fold of conversations, and once on all of them.

    Parameters
    ----------
    make : callable
        Returns a fresh predictor for a part named ``fold0``, ``fold1`` … or ``all``.
    turns : sequence of Turn
    n_folds : int
        The fold of a conversation depends on its name alone, so that every model is judged on the same folds.
    method_params, provenance, facts
        See `LengthModel`.
    progress : callable, optional
        Told before each training.

    Raises
    ------
    DataError
        If there are too few conversations, in all or in a fold's training set.
    """
    check_enough(turns)
    folds = np.array([fold_of(turn.group, n_folds) for turn in turns])
    quantiles, mean = np.empty((len(turns), len(LEVELS))), np.empty(len(turns))
    for fold in range(n_folds):
        own = np.flatnonzero(folds == fold).tolist()
        learnt = [turns[row] for row in np.flatnonzero(folds != fold).tolist()]
        fitted = make(f"fold{fold}").fit(learnt, progress=_part(progress, f"fold {fold + 1} of {n_folds}"))
        found = fitted.predict_held_out([turns[row] for row in own])
        quantiles[own], mean[own] = found.quantiles, found.mean
    final = make("all").fit(turns, progress=_part(progress, "all conversations"))
    predicted = LengthDistributions(quantiles, mean, final.limit_)
    return LengthModel(
        predictor=final,
        recalibration=Recalibration.fit(predicted, turns),
        out_of_fold=OutOfFold(
            tuple(turn.piece for turn in turns), np.array([turn.index for turn in turns]), folds, predicted
        ),
        groups=group_keys(turn.group for turn in turns),
        provenance=provenance,
        method_params=method_params,
        facts=facts or {},
    )


def _part(progress: Callable[[Progress], None] | None, name: str) -> Callable[[Progress], None] | None:
    """Name the part in all that a training tells of itself."""
    if progress is None:
        return None
    progress(Progress(0, 1, float("nan"), name))
    return lambda told: progress(Progress(told.done, told.total, told.remaining_s, f"{name}: {told.text}"))

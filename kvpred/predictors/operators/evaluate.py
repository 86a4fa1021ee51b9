"""How well regressors predict operators that they did not see: whole batch sizes, whole lengths, beyond."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvpred.data.profiles import Profile
from kvpred.predictors.operators.base import make_regressor
from kvpred.predictors.operators.features import FloatArray
from kvpred.predictors.operators.folds import varying_axes, whole_value_folds
from kvpred.predictors.operators.tables import OperatorTable, operator_tables

VIDUR_RESOLUTION_MS = 1e-3
"""Step of the times in Vidur's published profiles: whole microseconds."""

RANDOM_ROWS = "random rows"
HELD_OUT = "held-out"
BEYOND = "beyond"

Mask = NDArray[np.bool_]
Fold = tuple[Mask, Mask]
"""Which rows to train on, and which to test on."""


@dataclass(frozen=True, slots=True)
class HeldOutError:
    """Relative errors ``|predicted - measured| / measured`` of rows that a regressor did not see.

    Parameters
    ----------
    operator, regressor : str
    split : str
        ``random rows`` (repeats and neighbours leak: for comparison only), ``held-out <input>`` (every row
        of some of its values) or ``beyond <input>`` (trained up to half its largest value, tested above).
    n_rows : int
        Rows predicted.
    median, mean : float
        Of the relative errors.
    median_rounding, mean_rounding : float
        The same of a perfect prediction, whose only error is the rounding of the measured times.
    """

    operator: str
    regressor: str
    split: str
    n_rows: int
    median: float
    mean: float
    median_rounding: float
    mean_rounding: float


def evaluate_operators(
    profile: Profile,
    *,
    regressors: Sequence[str] = ("physics", "lightgbm", "hybrid", "auto"),
    tp: int = 1,
    n_folds: int = 5,
    seed: int = 0,
    resolution_ms: float = VIDUR_RESOLUTION_MS,
    n_jobs: int = 2,
) -> list[HeldOutError]:
    """Measure the held-out error of each operator, regressor and split.

    Operators that always take 0 ms have no relative error and are left out, as are rows of 0 ms.

    Parameters
    ----------
    profile : Profile
    regressors : sequence of str
    tp : int
        Tensor-parallel degree.
    n_folds : int
    seed : int
        Deals rows and values out to folds.
    resolution_ms : float
        Step to which the profile's times are rounded.
    n_jobs : int
        Operators evaluated at a time.

    Returns
    -------
    list of HeldOutError
        Ordered by operator, split and regressor.
    """

    def evaluate(table: OperatorTable) -> list[HeldOutError]:
        return [
            score_predictions(
                table.operator,
                regressor,
                split,
                measured_ms=table.time_ms[np.concatenate([np.flatnonzero(test) for _, test in folds])],
                predicted_ms=np.concatenate([_predict(table, regressor, *fold) for fold in folds]),
                resolution_ms=resolution_ms,
            )
            for split, folds in splits(table, n_folds=n_folds, seed=seed)
            for regressor in regressors
        ]

    timed = [table for table in operator_tables(profile, tp=tp) if table.time_ms.any()]
    with ThreadPoolExecutor(n_jobs) as threads:
        return [error for errors in threads.map(evaluate, timed) for error in errors]


def splits(table: OperatorTable, *, n_folds: int = 5, seed: int = 0) -> Iterator[tuple[str, list[Fold]]]:
    """Yield the name of each split of a table and its folds; a single row cannot be split."""
    rows = np.arange(len(table.time_ms), dtype=np.float64)
    if len(rows) > 1:
        yield RANDOM_ROWS, [(~test, test) for test in whole_value_folds(rows, n_folds, seed=seed)]
    for axis in varying_axes(table.inputs):
        name, values = table.family.inputs[axis], table.inputs[:, axis]
        held_out = whole_value_folds(values, n_folds, seed=seed)
        yield f"{HELD_OUT} {name}", [(~test, test) for test in held_out]
        beyond = values > values.max() / 2
        if not beyond.all():
            yield f"{BEYOND} {name}", [(~beyond, beyond)]


def score_predictions(
    operator: str,
    regressor: str,
    split: str,
    *,
    measured_ms: FloatArray,
    predicted_ms: FloatArray,
    resolution_ms: float = VIDUR_RESOLUTION_MS,
) -> HeldOutError:
    """Summarise the relative errors of the rows with a positive time.

    A time rounded to a step is off by a quarter of the step on average.
    """
    timed = measured_ms > 0
    errors = np.abs(predicted_ms[timed] / measured_ms[timed] - 1)
    rounding = resolution_ms / 4 / measured_ms[timed]
    return HeldOutError(
        operator=operator,
        regressor=regressor,
        split=split,
        n_rows=int(timed.sum()),
        median=float(np.median(errors)),
        mean=float(errors.mean()),
        median_rounding=float(np.median(rounding)),
        mean_rounding=float(rounding.mean()),
    )


def _predict(table: OperatorTable, regressor: str, train: Mask, test: Mask) -> FloatArray:
    model = make_regressor(regressor, family=table.family.name)
    return model.fit(table.inputs[train], table.time_ms[train]).predict(table.inputs[test])

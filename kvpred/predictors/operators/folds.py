"""Held-out folds that keep whole batch sizes and whole lengths together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kvpred.predictors.operators.features import FloatArray


def whole_value_folds(values: FloatArray, n_folds: int, *, seed: int = 0) -> Iterator[NDArray[np.bool_]]:
    """Yield test masks, each holding out every row of some values; together they hold out each row once.

    Parameters
    ----------
    values : array, shape (n,)
        One input, such as the batch size.
    n_folds : int
        Number of folds, if there are as many values.
    seed : int
        Of the shuffle that deals the values out.
    """
    distinct, index = np.unique(values, return_inverse=True)
    n_folds = min(n_folds, len(distinct))
    fold = np.random.default_rng(seed).permutation(len(distinct)) % n_folds
    for number in range(n_folds):
        yield fold[index] == number


def varying_axes(inputs: FloatArray) -> list[int]:
    """Return the columns that have more than one value: what whole values can be held out of."""
    return [axis for axis in range(inputs.shape[1]) if np.ptp(inputs[:, axis]) > 0]

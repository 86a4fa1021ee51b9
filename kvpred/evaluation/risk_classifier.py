"""The probability that a method breaks a request, learnt from other datasets: by task type and sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kvpred.data.longbench import get_dataset
from kvpred.data.risk import FEATURES_FILE, SIZES, Sizes
from kvpred.errors import DataError
from kvpred.evaluation.negatives import Negatives
from kvpred.evaluation.risk_scores import Bools, Floats, log_loss

# scikit-learn's C: the first leaves little but the base rate, the last shrinks hardly anything.
STRENGTHS = (0.001, 0.01, 0.1, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """Benign requests: what is known of them beforehand, and what became of them.

    Parameters
    ----------
    dataset, task : array of str, shape (n,)
    sizes : array, shape (n, n_sizes)
        Logarithms; no column if no size is known.
    broken : array of bool, shape (n,)
    """

    dataset: NDArray[np.str_]
    task: NDArray[np.str_]
    sizes: Floats
    broken: Bools

    def where(self, kept: Bools) -> Requests:
        """Return some of them."""
        return Requests(self.dataset[kept], self.task[kept], self.sizes[kept], self.broken[kept])


def requests_of(negatives: Negatives, sizes: Sizes | None = None) -> Requests:
    """Return the benign requests, the negative ones as broken.

    Parameters
    ----------
    negatives : Negatives
    sizes : mapping, optional
        See `kvpred.data.risk.read_sizes`.

    Raises
    ------
    DataError
        If there are sizes, but not of a benign request.
    """
    found = [(one.dataset, key) for one in negatives.datasets for key in one.benign]
    broken = {(one.dataset, key) for one in negatives.datasets for key in one.negative}
    known = np.zeros((len(found), 0))
    if sizes is not None:
        for dataset, key in found:
            if key not in sizes.get(dataset, {}):
                raise DataError(f"{FEATURES_FILE} has no sizes of request {key!r} of {dataset}")
        rows = [sizes[dataset][key] for dataset, key in found]
        known = np.log1p(np.array(rows, dtype=np.float64).reshape(len(found), len(SIZES)))
    return Requests(
        np.array([dataset for dataset, _ in found], dtype=np.str_),
        np.array([get_dataset(dataset).task.value for dataset, _ in found], dtype=np.str_),
        known,
        np.array([one in broken for one in found], dtype=np.bool_),
    )


def held_out(requests: Requests, predict: Callable[[Requests, Requests], Floats]) -> Floats:
    """Return each request's probability as `predict` learns it from the other datasets, shape (n,)."""
    found = np.empty(len(requests.broken))
    for dataset in np.unique(requests.dataset):
        own = requests.dataset == dataset
        found[own] = predict(requests.where(~own), requests.where(own))
    return found


def base_rate(known: Requests, asked: Requests) -> Floats:
    """Predict the known requests' share of broken ones; where none or all are, what Jeffreys' rule adds."""
    n, lost = len(known.broken), int(known.broken.sum())
    rate = lost / n if 0 < lost < n else (lost + 0.5) / (n + 1)
    return np.full(len(asked.broken), rate)


def classify(known: Requests, asked: Requests, *, strength: float | None = None) -> Floats:
    """Predict by a logistic regression on the task type and standardised sizes, with an L2 penalty.

    Parameters
    ----------
    known, asked : Requests
        To learn from, and to predict.
    strength : float, optional
        scikit-learn's C. Without, that of `STRENGTHS` which predicts the known datasets best, each from
        the other known ones.

    Raises
    ------
    MissingExtraError
        If scikit-learn is not installed.
    """
    from kvpred.predictors.operators.base import import_extra

    regression = import_extra("sklearn.linear_model").LogisticRegression
    if known.broken.all() or not known.broken.any():
        return base_rate(known, asked)
    if strength is None:
        strength = _best_strength(known)
    tasks = np.unique(known.task)
    centre, scale = known.sizes.mean(axis=0), known.sizes.std(axis=0)
    scale[scale == 0] = 1
    inputs, asked_inputs = (
        np.hstack([one.task[:, None] == tasks, (one.sizes - centre) / scale]) for one in (known, asked)
    )
    model = regression(C=strength, solver="newton-cholesky").fit(inputs, known.broken)
    return np.asarray(model.predict_proba(asked_inputs)[:, 1])


def _best_strength(known: Requests) -> float:
    if len(np.unique(known.dataset)) == 1:
        return STRENGTHS[0]
    losses = {
        strength: log_loss(held_out(known, partial(classify, strength=strength)), known.broken).sum()
        for strength in STRENGTHS
    }
    return min(losses, key=losses.__getitem__)

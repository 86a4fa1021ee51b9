"""How good probabilities of breaking requests are: losses, AUC, skill, calibration; and shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BINS = 5

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Requests of similar predictions.

    Parameters
    ----------
    requests : int
    predicted, observed : float
        Mean probability, and the share that was broken.
    """

    requests: int
    predicted: float
    observed: float


def log_loss(probability: Floats, broken: Bools) -> Floats:
    """Return each prediction's log loss, shape (n,)."""
    return np.asarray(-np.log(np.where(broken, probability, 1 - probability)))


def brier(probability: Floats, broken: Bools) -> Floats:
    """Return each prediction's squared error, shape (n,)."""
    return np.asarray((probability - broken) ** 2)


def auc(probability: Floats, broken: Bools, number: Ints, weights: Floats) -> Floats:
    """Return the area under the ROC curve, ties counting half, with each dataset taken so many times.

    Parameters
    ----------
    probability : array, shape (n,)
    broken : array of bool, shape (n,)
    number : array of int, shape (n,)
        Of each request's dataset, from 0.
    weights : array, shape (n_draws, n_datasets)
        How often a dataset is taken.

    Returns
    -------
    array, shape (n_draws,)
        NaN where nothing is broken, or all.

    Examples
    --------
    >>> probability, broken = np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, False, True, False])
    >>> float(auc(probability, broken, np.array([0, 0, 1, 1]), np.ones((1, 2)))[0])
    0.875
    """
    datasets = range(weights.shape[1])
    lost = [probability[(number == one) & broken] for one in datasets]
    kept = [np.sort(probability[(number == one) & ~broken]) for one in datasets]
    pairs = np.array([[_ordered(high, low) for low in kept] for high in lost])
    hits = np.einsum("di,ij,dj->d", weights, pairs, weights)
    return _ratio(hits, (weights @ list(map(len, lost))) * (weights @ list(map(len, kept))))


def _ordered(high: Floats, low: Floats) -> float:
    """Count the pairs in which the first is higher, equal ones by half; `low` is sorted."""
    below, at_most = np.searchsorted(low, high, side="left"), np.searchsorted(low, high, side="right")
    return float(below.sum() + at_most.sum()) / 2


def skill(loss: Floats, base_loss: Floats, number: Ints, weights: Floats) -> Floats:
    """Return the share of the base's loss that is saved, shape (n_draws,).

    Parameters
    ----------
    loss, base_loss : array, shape (n,)
    number, weights
        See `auc`.
    """
    mine, theirs = (weights @ np.bincount(number, weights=one) for one in (loss, base_loss))
    return 1 - _ratio(mine, theirs)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.asarray(np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0))


def calibration(probability: Floats, broken: Bools) -> tuple[CalibrationBin, ...]:
    """Compare probabilities with what was broken, in up to five bins of about as many requests."""
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, _BINS + 1)[1:-1]))
    number = np.searchsorted(edges, probability, side="right")
    return tuple(
        CalibrationBin(len(rows), float(probability[rows].mean()), float(broken[rows].mean()))
        for rows in (np.flatnonzero(number == one) for one in np.unique(number))
    )


def share_interval(
    benign: Sequence[int] | Ints,
    broken: Sequence[int] | Ints,
    *,
    level: float,
    resamples: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Return the interval of the share of broken requests over datasets of this kind.

    Datasets are drawn anew, and the share of each from its posterior: none broken of a few does not prove
    that none breaks. The half a request that Jeffreys' prior adds is divided among the datasets.

    Parameters
    ----------
    benign, broken : sequence of int, shape (n_datasets,)
    level : float
    resamples : int
    rng : Generator
    """
    benign, broken = np.asarray(benign), np.asarray(broken)
    rows = rng.integers(len(benign), size=(resamples, len(benign)))
    prior = 0.5 / len(benign)
    shares = rng.beta(broken[rows] + prior, benign[rows] - broken[rows] + prior)
    drawn = (benign[rows] * shares).sum(axis=1) / benign[rows].sum(axis=1)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    share = float(broken.sum() / benign.sum())
    return min(float(low), share), max(float(high), share)

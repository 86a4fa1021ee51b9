"""Are the methods put in the right order? Only differences that stand out of the noise are asked about."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import exp, log, sqrt

import numpy as np
from numpy.typing import NDArray

from kvpred.data.sites import SiteTable
from kvpred.methods import BASELINE

Floats = NDArray[np.float64]

# Two medians are told apart where their logs differ by this many standard errors of the difference.
TOLD_APART = 2.0


def told_apart(speedup: float | None, error: float | None) -> int | None:
    """Return 1 for a speed-up beyond the noise, -1 for a slow-down, 0 for neither; None if one is unknown.

    Parameters
    ----------
    speedup, error : float or None
        Against fp16, and the standard error of its logarithm.
    """
    if speedup is None or error is None:
        return None
    gain = log(speedup)
    return int(np.sign(gain)) if abs(gain) > TOLD_APART * error else 0


def speedup_bounds(speedup: float | None, error: float | None) -> tuple[float, float] | None:
    """Return a speed-up less and plus `TOLD_APART` standard errors; None if one is unknown."""
    if speedup is None or error is None:
        return None
    factor = exp(TOLD_APART * error)
    return speedup / factor, speedup * factor


@dataclass(frozen=True, slots=True)
class Ranking:
    """Order of the methods at held-out sites, counts pooled over the sites.

    Parameters
    ----------
    stage : {"prefill", "decode"}
    all_pairs : int
        Pairs of methods measured at one site.
    pairs : int
        Those whose measured times differ by more than `TOLD_APART` standard errors: the ones asked about.
    right, wrong : int
        Asked pairs that the prediction orders as measured, or the other way round; the rest are predicted
        to take exactly the same time.
    tau_b : float or None
        Kendall's tau-b of the asked pairs; None where the prediction orders none.
    speedups : int
        Asked pairs of a method and fp16.
    right_signs : int
        Those whose speed-up or slow-down is foretold.
    """

    stage: str
    all_pairs: int
    pairs: int
    right: int
    wrong: int
    tau_b: float | None
    speedups: int
    right_signs: int


def rank_methods(sites: SiteTable, predicted_s: Floats, error: Floats, *, stage: str) -> Ranking:
    """Compare predicted with measured order, pair by pair.

    Parameters
    ----------
    sites : SiteTable
        Held-out sites of one stage.
    predicted_s : array, shape (n_sites,)
    error : array, shape (n_sites,)
        Relative standard error of each measured median.
    stage : {"prefill", "decode"}
    """
    places = np.stack([sites.bsz, sites.prompt_len, sites.output_len], axis=1)
    _, place = np.unique(places, axis=0, return_inverse=True)
    groups = [np.flatnonzero(place == k) for k in range(place.max() + 1)]
    pairs = np.array([pair for group in groups for pair in combinations(group, 2)], dtype=int).reshape(-1, 2)
    left, right = pairs.T
    measured = np.log(sites.time_s[left] / sites.time_s[right])
    told = np.abs(measured) > TOLD_APART * np.hypot(error[left], error[right])
    predicted = np.log(predicted_s[left] / predicted_s[right])
    agreement = np.sign(measured) * np.where(np.abs(predicted) > 1e-12, np.sign(predicted), 0.0)
    against_fp16 = told & ((sites.method[left] == BASELINE) | (sites.method[right] == BASELINE))
    n_right, n_wrong = int(np.sum(agreement[told] > 0)), int(np.sum(agreement[told] < 0))
    ordered = n_right + n_wrong
    return Ranking(
        stage=stage,
        all_pairs=len(pairs),
        pairs=int(told.sum()),
        right=n_right,
        wrong=n_wrong,
        tau_b=(n_right - n_wrong) / sqrt(ordered * int(told.sum())) if ordered else None,
        speedups=int(against_fp16.sum()),
        right_signs=int(np.sum(agreement[against_fp16] > 0)),
    )

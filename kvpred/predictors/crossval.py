"""Hold whole sites out: fit without them, predict them, and keep what the residuals say about uncertainty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvpred.data.sites import SiteTable
from kvpred.predictors.calibration import fit_stage_methods, predict_sites
from kvpred.predictors.greybox import Array

Mask = NDArray[np.bool_]
SPLITS = ("lengths", "batches", "largest batch", "random rows")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Predictions of sites that the fit did not see, one entry per site and fold it was held out in.

    Parameters
    ----------
    row : array of int
        Row of the site table.
    fold : array of int
        Number of the fold.
    time_s : array of float
        Predicted seconds.
    error : array of float
        Relative standard error of noise, see `predict_sites`.
    score : array of float
        ``|log(measured / predicted)| / error``: what the intervals are made of.
    """

    row: NDArray[np.int64]
    fold: NDArray[np.int64]
    time_s: Array
    error: Array
    score: Array


def folds(table: SiteTable, split: str, *, seed: int = 0) -> Iterator[tuple[Mask, Mask]]:
    """Yield (train, test) masks of the table's rows.

    Parameters
    ----------
    split : str
        ``lengths``: each prompt length once, at every batch size. ``batches``: each batch size once.
        ``largest batch``: the largest, from all smaller ones. ``random rows``: five random fifths, which
        leaves neighbours of every site in the training set: for comparison only.
    """
    everything = np.ones(len(table), dtype=bool)
    if split == "random rows":
        fifth = np.random.default_rng(seed).permutation(len(table)) % 5
        groups = [fifth == k for k in range(5)]
    elif split == "largest batch":
        groups = [table.bsz == table.bsz.max()]
    else:
        axis = table.prompt_len if split == "lengths" else table.bsz
        groups = [axis == value for value in np.unique(axis)]
    for test in groups:
        yield everything & ~test, test


def hold_out(table: SiteTable, stage: str, split: str, *, seed: int = 0) -> HeldOut:
    """Predict every site of a stage from folds that do not contain it.

    The form is chosen and every coefficient fitted inside each training fold.
    """
    parts: list[tuple[NDArray[Any], ...]] = []
    for number, (train, test) in enumerate(folds(table, split, seed=seed)):
        test = test & (table.stage == stage)
        if not test.any():
            continue
        time_s, error = predict_sites(fit_stage_methods(table, stage, train=train), table, test)
        rows = np.flatnonzero(test)
        score = np.abs(np.log(table.time_s[rows] / time_s)) / error
        parts.append((rows, np.full(len(rows), number), time_s, error, score))
    return HeldOut(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def conformal_quantile(scores: Array, level: float) -> float:
    """Return the score that a share `level` of exchangeable new scores stays under.

    The ceil((n + 1) * level)-th smallest of n (Vovk et al., 2005; Lei et al., 2018); the largest where n is
    too small for the level.
    """
    ordered = np.sort(scores)
    return float(ordered[min(int(np.ceil((len(ordered) + 1) * level)), len(ordered)) - 1])


def growth_per_octave(table: SiteTable, stage: str, *, level: float = 0.9) -> float:
    """Measure how the conformal score grows with each doubling beyond the measured range.

    Trains on the sites up to (or from) each inner batch size and length and predicts all sites beyond, one to
    many doublings away; the growth is the least that lifts the interval to `level` at every distance.

    Returns
    -------
    float
        Growth of the interval's half-width per octave, relative to its width inside the range; at least 0.
    """
    inside = conformal_quantile(hold_out(table, stage, "lengths").score, level)
    scores: dict[int, list[float]] = {}
    for axis in (table.bsz, table.prompt_len):
        values = np.unique(axis)
        for cut in values[1:-1]:
            for train, beyond, edge in ((axis <= cut, axis > cut, cut), (axis >= cut, axis < cut, cut)):
                test = beyond & (table.stage == stage)
                if len(np.unique(axis[train & (table.stage == stage)])) < 2:
                    continue
                time_s, error = predict_sites(fit_stage_methods(table, stage, train=train), table, test)
                score = np.abs(np.log(table.time_s[test] / time_s)) / error
                distance = np.rint(np.abs(np.log2(axis[test] / edge))).astype(int)
                for octaves, value in zip(distance, score, strict=True):
                    scores.setdefault(int(octaves), []).append(float(value))
    needed = [
        (conformal_quantile(np.array(values), level) / inside - 1.0) / octaves
        for octaves, values in scores.items()
        if octaves > 0 and len(values) >= 10
    ]
    return max(0.0, *needed) if needed else 0.0


def score_by_fold(held: HeldOut, level: float) -> Mapping[int, float]:
    """Return for each fold the conformal quantile of the other folds' scores, which judges its sites."""
    return {int(k): conformal_quantile(held.score[held.fold != k], level) for k in np.unique(held.fold)}

"""Hold whole sites out: fit without them, predict them, and keep what the residuals say about uncertainty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvpred.data.sites import SiteTable
from kvpred.errors import UsageError
from kvpred.predictors.calibration import ProfileSource, fit_stage_methods, predict_sites
from kvpred.predictors.greybox import Array, StageForm

Mask = NDArray[np.bool_]
# What the published A6000 runs show of prefill, the larger of the two stages' (rounded).
ASSUMED_GROWTH = 0.35
SPLITS = ("lengths", "batches", "largest batch", "random rows")
# For few sites, scattered so that whole lengths and batches cannot be spared.
SITE_BY_SITE = "sites"


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
        ``largest batch``: each stage's largest, from all smaller ones. ``random rows``: five random fifths,
        which leaves neighbours of every site in the training set: for comparison only. ``sites``: each
        batch size and prompt length of each method once.
    """
    everything = np.ones(len(table), dtype=bool)
    if split == "random rows":
        fifth = np.random.default_rng(seed).permutation(len(table)) % 5
        groups = [fifth == k for k in range(5)]
    elif split == "largest batch":
        largest = {stage: table.bsz[table.stage == stage].max() for stage in np.unique(table.stage)}
        groups = [table.bsz == np.array([largest[stage] for stage in table.stage])]
    elif split == SITE_BY_SITE:
        _, method = np.unique(table.method, return_inverse=True)
        columns = np.stack([method, table.bsz, table.prompt_len])
        places, place = np.unique(columns, axis=1, return_inverse=True)
        groups = [place == k for k in range(places.shape[1])]
    else:
        axis = table.prompt_len if split == "lengths" else table.bsz
        groups = [axis == value for value in np.unique(axis)]
    for test in groups:
        yield everything & ~test, test


def hold_out(
    table: SiteTable, stage: str, split: str, *, seed: int = 0, profiles: ProfileSource | None = None
) -> HeldOut:
    """Predict every site of a stage from folds that do not contain it.

    The form is chosen and every coefficient fitted inside each training fold. A fold that leaves fp16 fewer
    sites than terms is passed over. Single sites are left out of the coefficients alone: of so few, the one
    that shows a term may be the only one.

    Raises
    ------
    UsageError
        If that leaves no fold.
    """
    parts: list[tuple[NDArray[Any], ...]] = []
    form = _form_of_all(table, stage, profiles) if split == SITE_BY_SITE else None
    for number, (train, group) in enumerate(folds(table, split, seed=seed)):
        test = group & (table.stage == stage)
        judged = _judge(table, stage, train=train, test=test, profiles=profiles, form=form)
        if judged:
            parts.append((np.flatnonzero(test), np.full(len(judged[0]), number), *judged))
    if not parts:
        raise UsageError(f"too few {stage} sites to hold {split} out and fit the others")
    return HeldOut(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _form_of_all(table: SiteTable, stage: str, profiles: ProfileSource | None) -> StageForm | None:
    """Return the form that all sites ask for; None where profiles depend on the sites."""
    return None if callable(profiles) else fit_stage_methods(table, stage, profiles=profiles).form


def _judge(
    table: SiteTable,
    stage: str,
    *,
    train: Mask,
    test: Mask,
    profiles: ProfileSource | None,
    form: StageForm | None = None,
) -> tuple[Array, Array, Array] | None:
    """Return times, errors and scores of the test rows as `HeldOut` has them; None if they cannot be had."""
    if not test.any():
        return None
    try:
        fits = fit_stage_methods(table, stage, train=train, profiles=profiles, form=form)
    except UsageError:
        return None
    time_s, error = predict_sites(fits, table, test)
    return time_s, error, np.abs(np.log(table.time_s[test] / time_s)) / error


def check_level(level: float) -> None:
    """Raise `UsageError` unless intervals of this level can be had from a few dozen held-out sites."""
    if not 0.5 <= level <= 0.99:
        raise UsageError(f"level={level} must be from 0.5 to 0.99")


def conformal_quantile(scores: Array, level: float) -> float:
    """Return the score that a share `level` of exchangeable new scores stays under.

    The ceil((n + 1) * level)-th smallest of n (Vovk et al., 2005; Lei et al., 2018); the largest where n is
    too small for the level.
    """
    ordered = np.sort(scores)
    return float(ordered[min(int(np.ceil((len(ordered) + 1) * level)), len(ordered)) - 1])


def growth_per_octave(
    table: SiteTable, stage: str, *, level: float = 0.9, profiles: ProfileSource | None = None
) -> float:
    """Measure how the conformal score grows with each doubling beyond the measured range.

    Trains on the sites up to (or from) each inner batch size and length and predicts all sites beyond, one to
    many doublings away; the growth is the least that takes a share `level` of them into their intervals.

    Returns
    -------
    float
        Growth of the interval's half-width per octave, relative to its width inside the range; at least 0.
        `ASSUMED_GROWTH` where there are too few sites to look beyond any.

    Raises
    ------
    UsageError
        If there are too few sites to hold lengths out.
    """
    inside = conformal_quantile(hold_out(table, stage, "lengths", profiles=profiles).score, level)
    scores: list[Array] = []
    octaves: list[Array] = []
    for train, test, distance in _beyond(table, stage):
        judged = _judge(table, stage, train=train, test=test, profiles=profiles)
        if judged:
            scores.append(judged[2])
            octaves.append(distance[test])
    score, octave = (np.concatenate(parts) if parts else np.zeros(0) for parts in (scores, octaves))
    away = octave > 0
    if not away.any():
        return ASSUMED_GROWTH
    return max(0.0, conformal_quantile((score[away] / inside - 1.0) / octave[away], level))


def _beyond(table: SiteTable, stage: str) -> Iterator[tuple[Mask, Mask, Array]]:
    """Yield masks on either side of inner batch sizes and lengths, with all rows' octaves from there."""
    rows = table.stage == stage
    for axis in (table.bsz, table.prompt_len):
        for cut in np.unique(axis)[1:-1]:
            for train in (axis <= cut, axis >= cut):
                if len(np.unique(axis[train & rows])) > 1:
                    yield train, ~train & rows, np.rint(np.abs(np.log2(axis / cut)))


def score_by_fold(held: HeldOut, level: float) -> Mapping[int, float]:
    """Return for each fold the conformal quantile of the other folds' scores, which judges its sites."""
    return {int(k): conformal_quantile(held.score[held.fold != k], level) for k in np.unique(held.fold)}

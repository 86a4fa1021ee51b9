"""What checks of in-place profiles have in common: sites, token counts, noise of repeats, halves of sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvpred.data.profiles import Columns, Profile, time_column
from kvpred.evaluation.noise import median_of_normals
from kvpred.predictors.in_place import OPERATORS, STEP, at_rows, site_keys, site_tokens
from kvpred.predictors.operators import ATTENTION_OPERATORS
from kvpred.predictors.profiled import ONCE_PER_STEP

Rows = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RepeatNoise:
    """Relative noise of repeated measurements of one operator, medians over points.

    Parameters
    ----------
    single : float
        Of one repeat: its standard deviation over the median, as the profile states them.
    median : float
        Of the median of as many repeats as were taken: smaller, as that of normal repeats is.
    """

    single: float
    median: float


def repeat_noise(
    columns: Columns, operator: str, rows: Rows, *, count: NDArray[np.int64]
) -> RepeatNoise | None:
    """Return the noise of an operator's rows; None where the profile does not state it.

    Parameters
    ----------
    columns : dict of str to array
        A profile's table.
    operator : str
    rows : array of bool
    count : array of int
        Repeats that each row's statistics are of.
    """
    if time_column(operator, "std") not in columns:
        return None
    time_ms = columns[time_column(operator)][rows]
    with np.errstate(divide="ignore", invalid="ignore"):
        single = columns[time_column(operator, "std")][rows] / time_ms
    known = np.isfinite(single)
    if not known.any():
        return None
    deviation = np.array([median_of_normals(int(n))[1] for n in count[rows][known]])
    return RepeatNoise(float(np.median(single[known])), float(np.median(single[known] * deviation)))


def repeats(profile: Profile) -> int:
    """Return how often each point was measured."""
    return profile.manifest.repeats if profile.manifest is not None else 1


def of_stage(columns: Columns, stage: str) -> Rows:
    """Return the rows of a stage in a table of sites."""
    return np.asarray(columns["is_prefill"] == (stage == "prefill"))


def token_rows(profile: Profile, stage: str) -> Rows:
    """Return the rows of the shared operators whose number of tokens passed in a stage's steps."""
    return np.isin(profile.mlp["num_tokens"], site_tokens(profile.steps)[of_stage(profile.steps, stage)])


def pooled_repeats(profile: Profile) -> NDArray[np.int64]:
    """Return how many repeats each row of the shared operators pools: of all sites with as many tokens."""
    passed = site_tokens(profile.steps)
    sites = (profile.mlp["num_tokens"][:, None] == passed).sum(axis=1)
    return np.asarray(repeats(profile) * np.maximum(sites, 1))


def halves(n_points: int, *, seed: int, draws: int = 5) -> list[NDArray[np.bool_]]:
    """Split points at random into two halves, several times over, and return both halves of each draw.

    Examples
    --------
    >>> [int(half.sum()) for half in halves(9, seed=0, draws=1)]
    [4, 5]
    """
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(n_points) < n_points // 2 for _ in range(draws)]
    return [half for one in chosen for half in (one, ~one)]


def drift(profile: Profile, stage: str) -> float | None:
    """Return how much the same work differs from site to site: the relative standard deviation.

    The same work is that of the shared operators at sites with as many tokens: the whole sum of operators
    without attention's. None where no two sites of the stage have as many.
    """
    steps = at_rows(profile.steps, of_stage(profile.steps, stage))
    own = {operator: _at_sites(profile, operator) for operator in sorted(ATTENTION_OPERATORS)}
    attention = np.nansum(list(own.values()), axis=0)[of_stage(profile.steps, stage)]
    shared = np.log(steps[time_column(OPERATORS)] - steps["n_layers"] * attention)
    squares, freedom = 0.0, 0
    for tokens in np.unique(site_tokens(steps)):
        alike = shared[site_tokens(steps) == tokens]
        squares += float(np.sum((alike - alike.mean()) ** 2))
        freedom += len(alike) - 1
    return float(np.sqrt(squares / freedom)) if freedom else None


def operator_share(profile: Profile, operator: str, stage: str) -> float:
    """Return the median share of a stage's steps that an operator takes, all its calls together."""
    steps = profile.steps
    rows = of_stage(steps, stage)
    calls = 1 if operator in ONCE_PER_STEP else steps["n_layers"][rows]
    time_ms = _at_sites(profile, operator)[rows]
    shares = calls * time_ms / steps[time_column(STEP)][rows]
    return float(np.nanmedian(shares)) if np.isfinite(shares).any() else float("nan")


def _at_sites(profile: Profile, operator: str) -> Floats:
    """Return an operator's time at each of the sites whose whole steps were timed; NaN where it has none."""
    steps = profile.steps
    own = operator in ATTENTION_OPERATORS
    table = profile.attention if own else profile.mlp
    keys: Sequence[object] = site_keys(table) if own else table["num_tokens"].tolist()
    wanted: Sequence[object] = site_keys(steps) if own else site_tokens(steps).tolist()
    times = dict(zip(keys, table[time_column(operator)].tolist(), strict=True))
    return np.array([times.get(key, np.nan) for key in wanted])

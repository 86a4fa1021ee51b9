"""How far the median of a few runs is from the truth: what no predictor can beat."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import exp, lgamma, pi, sqrt

import numpy as np
from numpy.typing import NDArray

from kvpred.data.sites import SiteTable
from kvpred.predictors.calibration import ASSUMED_RUN_NOISE

Floats = NDArray[np.float64]

_DRAWS = 200_000
# From here on the median's distribution is normal to within 1 %: variance pi / (2 n).
_MANY_RUNS = 50


@dataclass(frozen=True, slots=True)
class MedianNoise:
    """Relative noise of the measured medians, arrays of shape (n_sites,).

    Parameters
    ----------
    error : array
        Standard deviation of the median of the site's runs.
    loss : array
        Expected absolute deviation of that median from the true one: what even a predictor that knows every
        true time loses in accuracy. One minus its mean is the noise ceiling.
    """

    error: Floats
    loss: Floats

    def of(self, rows: NDArray[np.int64]) -> MedianNoise:
        """Return the noise of the rows with these indices."""
        return MedianNoise(self.error[rows], self.loss[rows])


def median_noise(table: SiteTable) -> MedianNoise:
    """Estimate the noise of each site's median from the spread of its repeats.

    The runs of a site are taken as normal in log time. Their standard deviation is averaged over the sites of
    a method and stage, each weighted by its degrees of freedom and freed of the small-sample bias (c4), then
    scaled to the median of as many runs as the site has. Where the repeats carry labels (published model
    names), the spread includes what the labels differ by; labels that recur at every site shift all medians
    alike and can be learnt, so the ceiling is then a cautious one that a predictor may pass.

    Parameters
    ----------
    table : SiteTable

    Returns
    -------
    MedianNoise
    """
    sigma = np.full(len(table), np.nan)
    for stage in np.unique(table.stage):
        in_stage = table.stage == stage
        for method in np.unique(table.method[in_stage]):
            own = in_stage & (table.method == method)
            sigma[own] = _run_sigma(table, own, in_stage)
    absolute, deviation = np.array([median_of_normals(int(count)) for count in table.count]).T
    return MedianNoise(error=sigma * deviation, loss=sigma * absolute)


def _run_sigma(table: SiteTable, own: NDArray[np.bool_], in_stage: NDArray[np.bool_]) -> float:
    """Return the noise of one run: of the method's own repeats, or of all methods', or the usual."""
    for mask in (own, in_stage):
        repeated = np.flatnonzero(mask & (table.count > 1))
        if repeated.size:
            bias = np.array([_c4(int(count)) for count in table.count[repeated]])
            unbiased = table.spread[repeated] / bias
            return float(np.average(unbiased, weights=table.count[repeated] - 1))
    return ASSUMED_RUN_NOISE


def _c4(count: int) -> float:
    """Return the expected standard deviation of `count` unit normals."""
    return sqrt(2 / (count - 1)) * exp(lgamma(count / 2) - lgamma((count - 1) / 2))


@cache
def median_of_normals(count: int) -> tuple[float, float]:
    """Return the mean absolute value and the standard deviation of the median of `count` unit normals."""
    if count > _MANY_RUNS:
        deviation = sqrt(pi / (2 * count))
        return deviation * sqrt(2 / pi), deviation
    draws = np.random.default_rng(0).standard_normal((_DRAWS, count))
    medians = np.median(draws, axis=1)
    return float(np.mean(np.abs(medians))), float(np.sqrt(np.mean(medians**2)))

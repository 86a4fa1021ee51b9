"""Distributions in a few numbers, and the random numbers that they are sampled with."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvpred.errors import UsageError
from kvpred.predictors.crossval import check_level

Floats = NDArray[np.float64]
FEWEST_SAMPLES, MOST_SAMPLES = 100, 1_000_000


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution in four numbers.

    Parameters
    ----------
    mean : float
        Summed exactly over what varies, at the predicted values of what is unsure.
    median, low, high : float
        Of samples; low and high bound the central interval.
    """

    mean: float
    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Random numbers that all methods share, so that they differ by what they are and not by chance.

    Parameters
    ----------
    length : array, shape (n,)
        Shares of a distribution of lengths, drawn evenly from 0 to 1.
    shift, time, ratio : array, shape (n,)
        Standard normal: errors of a shift of lengths, of step times, and of a method's times over fp16's.
    level : float
        Of intervals.
    """

    length: Floats
    shift: Floats
    time: Floats
    ratio: Floats
    level: float

    @classmethod
    def of(cls, samples: int, *, level: float, seed: int) -> Draws:
        """Draw so many samples.

        Raises
        ------
        UsageError
            If there are too few or too many, or the level is out of range.
        """
        check_level(level)
        if not FEWEST_SAMPLES <= samples <= MOST_SAMPLES:
            raise UsageError(f"samples={samples} must be from {FEWEST_SAMPLES} to {MOST_SAMPLES:,}")
        rng = np.random.default_rng(seed)
        # One share in each of as many equal parts.
        length = (rng.permutation(samples) + rng.random(samples)) / samples
        shift, time, ratio = rng.standard_normal((3, samples))
        return cls(length, shift, time, ratio, level)

    def erring(self, value: ArrayLike, low: ArrayLike, high: ArrayLike, normal: Floats) -> Floats:
        """Return a value times errors that are log-normal on each side and fill its interval."""
        value, low, high = (np.asarray(one, dtype=np.float64) for one in (value, low, high))
        outer = NormalDist().inv_cdf((1 + self.level) / 2)
        width = np.where(normal < 0, np.log(value / low), np.log(high / value))
        return np.asarray(value * np.exp(width * normal / outer))

    def interval(self, sampled: Floats) -> tuple[float, float]:
        """Return the central interval of samples."""
        low, high = np.quantile(sampled, ((1 - self.level) / 2, (1 + self.level) / 2)).tolist()
        return low, high

    def spread(self, mean: float, sampled: Floats) -> Spread:
        """Return the spread of samples about a mean that is known exactly."""
        return Spread(mean, float(np.median(sampled)), *self.interval(sampled))

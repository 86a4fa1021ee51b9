"""How compression shifts the lengths of answers: D = (L_method - L_fp16) / L_fp16, against fp16's own seeds.

Two seeds of one model already give answers of different lengths, and D is skewed: its mean and its share of
50 % and more are large even then. So a shift is what exceeds that. Prompts are resampled, never answers: the
answers to one prompt belong together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import erfc, exp, isfinite, sqrt

import numpy as np

from kvpred.evaluation.length_answers import Answers, Bools, Floats, Setup

LONGER, SHORTER, NO_SHIFT = VERDICTS = ("longer", "shorter", "no shift beyond noise")
# Of D, either way: the paper's Tables 5 and 9.
HALF = 0.5
# Chance of calling any shift of several methods real where there is none.
FAMILY_ERROR = 0.05
# A shift of so many standard errors is found 4 times in 5 at 5 %, two-sided: 1.96 + 0.84, normal quantiles.
DETECTABLE_ERRORS = 2.8
# Prompts below which resampling them says little of their spread.
FEWEST_PROMPTS = 20
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Bounded:
    """A number and its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """D of pairs of answers.

    Parameters
    ----------
    d : array, shape (n_pairs,)
        Sorted. A pair whose answers were both cut has 0.
    """

    d: Floats

    @property
    def mean(self) -> float:
        """Mean of D: above 0 even between two seeds."""
        return float(np.mean(self.d))

    @property
    def much_longer(self) -> float:
        """Share of D of 50 % and more."""
        return float(np.mean(self.d >= HALF))

    @property
    def much_shorter(self) -> float:
        """Share of D of -50 % and less."""
        return float(np.mean(self.d <= -HALF))


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """One setup's answers against the baseline's to the same prompts.

    Parameters
    ----------
    n_prompts, n_pairs : int
        Pairs are of the same prompt and the same seed, which shares its random numbers.
    multiplier : Bounded
        Total tokens over the baseline's, of answers up to the cap: the ratio of the restricted means, which
        Kaplan and Meier's estimate gives too where all are cut at one cap.
    error : float
        Standard error of its logarithm.
    uncut : Bounded
        The multiplier if cut answers went on to end at their setup's average rate per token; NaN or infinite
        where too few ended.
    cut, base_cut : float
        Shares of answers that the cap ended.
    longer, shorter : float
        Shares of pairs with the longer and the shorter answer; the cap may hide which.
    sign : Bounded
        Their difference.
    same : Spread
        Of pairs of the same seed.
    other, floor : Spread or None
        Of the setup's answers against the baseline's of every other seed, and of the baseline's own two
        seeds in exactly these pairs; None without a second seed.
    excess_longer, excess_shorter : Bounded or None
        Shares of 50 % and more, and of -50 % and less, beyond the floor's: 0 in expectation if the setup
        answers as the baseline does.
    compression : float
        See `Answers`.
    p : float
        Two-sided chance of a multiplier that far from 1 without any shift; `judge` corrects it for the number
        of comparisons.
    """

    n_prompts: int
    n_pairs: int
    multiplier: Bounded
    error: float
    uncut: Bounded
    cut: float
    base_cut: float
    longer: float
    shorter: float
    sign: Bounded
    same: Spread
    other: Spread | None
    floor: Spread | None
    excess_longer: Bounded | None
    excess_shorter: Bounded | None
    compression: float
    p: float

    @property
    def verdict(self) -> str:
        """`LONGER`, `SHORTER` or `NO_SHIFT`."""
        if self.p >= FAMILY_ERROR:
            return NO_SHIFT
        return LONGER if self.multiplier.value > 1 else SHORTER

    @property
    def detectable(self) -> float:
        """The smallest shift that would be found 4 times in 5, as a relative difference."""
        return exp(DETECTABLE_ERRORS * self.error) - 1


def compare(
    own: Answers, base: Answers, *, level: float = 0.9, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare a setup's answers with the baseline's.

    Parameters
    ----------
    own, base : Answers
        In the same places, with at least one in common.
    level : float
        Of the intervals.
    resamples : int
        Bootstrap samples of the prompts.
    seed : int
        Of the bootstrap.
    """
    rows: Bools = np.any(own.known & base.known, axis=1)
    own, base = own.of(rows), base.of(rows)
    rng = np.random.default_rng(seed)
    n_prompts = int(rows.sum())
    drawn = rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=resamples)
    # One row as measured, then one per resample: how often each prompt counts.
    weights = np.vstack([np.ones(n_prompts), drawn])

    same = own.known & base.known
    pairs, total, base_total, ended, base_ended, longer, shorter = (
        weights @ np.where(same, values, 0.0).sum(axis=1)
        for values in (
            same,
            own.tokens,
            base.tokens,
            ~own.cut,
            ~base.cut,
            own.tokens > base.tokens,
            own.tokens < base.tokens,
        )
    )
    ratio = total / base_total
    with np.errstate(divide="ignore", invalid="ignore"):
        uncut = ratio * base_ended / ended
    error = float(np.std(np.log(ratio[1:])))
    away = abs(float(np.log(ratio[0])))
    other, floor, excess = _against_other_seeds(own, base, weights)
    return Comparison(
        n_prompts=n_prompts,
        n_pairs=int(pairs[0]),
        multiplier=_bounded(ratio, level),
        error=error,
        uncut=_bounded(uncut, level),
        cut=1 - float(ended[0] / pairs[0]),
        base_cut=1 - float(base_ended[0] / pairs[0]),
        longer=float(longer[0] / pairs[0]),
        shorter=float(shorter[0] / pairs[0]),
        sign=_bounded((longer - shorter) / pairs, level),
        same=Spread(np.sort((own.tokens / base.tokens - 1)[same])),
        other=other,
        floor=floor,
        excess_longer=None if excess is None else _bounded(excess[0], level),
        excess_shorter=None if excess is None else _bounded(excess[1], level),
        compression=own.compression,
        p=erfc(away / error / sqrt(2)) if error else float(away == 0),
    )


def seeds_apart(base: Answers, *, level: float = 0.9, seed: int = 0) -> Comparison | None:
    """Compare the baseline with itself: every second seed with the one before it.

    No shift by construction, so this is what noise looks like. None where fewer than `FEWEST_PROMPTS` prompts
    have two seeds.
    """
    n_pairs = base.tokens.shape[1] // 2
    first, second = (base.of(seeds=slice(start, 2 * n_pairs, 2)) for start in (0, 1))
    if np.count_nonzero((first.known & second.known).any(axis=1)) < FEWEST_PROMPTS:
        return None
    apart = compare(second, first, level=level, seed=seed)
    floor = _against_other_seeds(base, base, np.ones((1, len(base.tokens))))[1]
    return replace(apart, other=floor, floor=floor)


def judge(found: Mapping[Setup, Comparison]) -> dict[Setup, Comparison]:
    """Correct the chances of several comparisons for their number (Holm 1979): all verdicts hold together."""
    order = sorted(found, key=lambda key: found[key].p)
    worst, corrected = 0.0, {}
    for rank, key in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - rank) * found[key].p))
        corrected[key] = replace(found[key], p=worst)
    return {key: corrected[key] for key in found}


def _against_other_seeds(
    own: Answers, base: Answers, weights: Floats
) -> tuple[Spread | None, Spread | None, tuple[Floats, Floats] | None]:
    """Compare with the baseline's other seeds, and the baseline with them in the same pairs.

    Same seeds share their random numbers, so a setup that hardly differs answers almost alike and would seem
    to shift less than chance does. Across seeds both sides are equally far apart.
    """
    n_seeds = base.tokens.shape[1]
    first, second = np.nonzero(~np.eye(n_seeds, dtype=np.bool_))
    own_d = own.tokens[:, first] / base.tokens[:, second] - 1
    base_d = base.tokens[:, first] / base.tokens[:, second] - 1
    there = np.isfinite(own_d) & np.isfinite(base_d)
    if not there.any():
        return None, None, None
    pairs = weights @ there.sum(axis=1)
    with np.errstate(invalid="ignore"):
        longer, shorter = (
            weights @ (np.where(there, own_far, 0) - np.where(there, base_far, 0)).sum(axis=1) / pairs
            for own_far, base_far in (
                ((own_d >= HALF) * 1.0, (base_d >= HALF) * 1.0),
                ((own_d <= -HALF) * 1.0, (base_d <= -HALF) * 1.0),
            )
        )
    return Spread(np.sort(own_d[there])), Spread(np.sort(base_d[there])), (longer, shorter)


def _bounded(values: Floats, level: float) -> Bounded:
    """Return the first value with the central interval of the others; NaN where some of them are unknown."""
    value = float(values[0])
    if not (isfinite(value) and np.isfinite(values[1:]).all()):
        return Bounded(value if isfinite(value) else np.nan, np.nan, np.nan)
    low, high = np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return Bounded(value, float(low), float(high))

"""Do the intervals keep their word? Coverage and width on sites that nothing was learnt from."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, lgamma, log

import numpy as np
from numpy.typing import NDArray

from kvpred.data.sites import SiteTable
from kvpred.predictors.calibration import Profiles
from kvpred.predictors.crossval import HeldOut, conformal_quantile, growth_per_octave, hold_out, score_by_fold
from kvpred.predictors.domain import Domain

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Coverage:
    """How often intervals held what they promised.

    Parameters
    ----------
    stage : {"prefill", "decode"}
    level : float
        The promised share.
    n_sites : int
        Held-out sites judged.
    coverage : float
        Share of them inside their interval.
    band_low, band_high : float
        Where that share falls 95 times in 100 if the promise is kept and sites are independent.
    half_width : float
        Mean half-width of the intervals, relative to the predicted time.
    """

    stage: str
    level: float
    n_sites: int
    coverage: float
    band_low: float
    band_high: float
    half_width: float

    @property
    def kept(self) -> bool:
        """Whether the coverage lies in the band."""
        return self.band_low <= self.coverage <= self.band_high


def coverage(stage: str, inside: NDArray[np.bool_], log_half_width: Floats, *, level: float) -> Coverage:
    """Summarise judged intervals.

    Parameters
    ----------
    stage : {"prefill", "decode"}
    inside : array of bool, shape (n_sites,)
        Whether the measured time lay in the interval.
    log_half_width : array, shape (n_sites,)
        Of the log time.
    level : float
    """
    low, high = binomial_band(len(inside), level)
    half_width = float(np.mean(np.sinh(log_half_width)))
    return Coverage(stage, level, len(inside), float(np.mean(inside)), low, high, half_width)


def binomial_band(n: int, share: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the central range of the observed share of `n` independent events of probability `share`.

    Examples
    --------
    >>> [round(edge, 3) for edge in binomial_band(95, 0.9)]
    [0.832, 0.958]
    """
    k = range(n + 1)
    log_choose = [lgamma(n + 1) - lgamma(i + 1) - lgamma(n - i + 1) for i in k]
    cumulated = np.cumsum([exp(log_choose[i] + i * log(share) + (n - i) * log(1 - share)) for i in k])
    tail = (1 - confidence) / 2
    return float(np.argmax(cumulated >= tail)) / n, float(np.argmax(cumulated >= 1 - tail)) / n


def log_half_widths(
    table: SiteTable, stage: str, held: HeldOut, *, level: float, profiles: Profiles | None = None
) -> Floats:
    """Return the half-width of each held-out log time, learnt from other folds only.

    A fold's intervals rest on the scores of the other folds. Where there is but one (the largest batch), the
    other sites are held out among themselves for scores and for the growth of the error beyond the measured
    range, as they are when a predictor is fitted.

    Parameters
    ----------
    table : SiteTable
        With canonical method strings.
    stage : {"prefill", "decode"}
    held : HeldOut
        Of this table and stage.
    level : float
    profiles : mapping of str to DeviceTimes, optional
        As in `kvpred.predictors.crossval.hold_out`.

    Raises
    ------
    UsageError
        If there is one fold, and too few other sites to hold any out.
    """
    if len(np.unique(held.fold)) > 1:
        scores = score_by_fold(held, level)
        return np.array([scores[int(fold)] for fold in held.fold]) * held.error
    training = table.select((table.stage == stage) & ~np.isin(np.arange(len(table)), held.row))
    splits = [hold_out(training, stage, split, profiles=profiles).score for split in ("lengths", "batches")]
    score = conformal_quantile(np.concatenate(splits), level)
    domain = Domain.of(bsz=training.bsz, length=_axis(training))
    outside = domain.octaves_outside(bsz=table.bsz[held.row], length=_axis(table)[held.row])
    growth = growth_per_octave(training, stage, level=level, profiles=profiles)
    return np.asarray(score * held.error * (1.0 + growth * outside))


def _axis(table: SiteTable) -> Floats:
    return np.where(table.stage == "decode", table.kv_len, table.prompt_len)

"""A method's times over fp16's, with an interval for the ratio alone: what both share cancels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kvpred.methods import BASELINE, Method, get_method
from kvpred.predictors.calibration import StageFits, mean_attended
from kvpred.predictors.greybox import STAGES, Array
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.scaling import FIELD_SPEEDUP, Place, host_share, transfer
from kvpred.predictors.steps import (
    ENGINE_DOUBT,
    HOST_DOUBT,
    PROFILED_SHARE,
    Coverage,
    Query,
    StepTimes,
    coverage,
    step_times,
)

Ratio = tuple[Array, Array, Array]
"""A ratio of times, and the ends of its interval."""


def relative_times(
    predictor: Predictor, method: Method, place: Place, engine: str, *, query: Query, level: float = 0.9
) -> dict[str, Ratio]:
    """Return a method's times over fp16's by stage, each with the interval of the ratio.

    Parameters
    ----------
    predictor : Predictor
    method : Method
    place : Place
    engine : str
    query : Query
    level : float
        Of the intervals.

    Returns
    -------
    dict of str to tuple of array
        By ``prefill`` and ``decode``: ratio, low, high. Below 1 the method is faster.

    Raises
    ------
    NotCoveredError
        If the place lacks a number that the scaling needs.

    Notes
    -----
    Of a measured method, the interval holds what both fits leave uncertain, as if they erred independently:
    cautious, since they share a form and a prior. What another model or device may change counts as far as
    the two differ in the host's share of their times; the rest is common to both and cancels. Of a method
    without runs here, the interval is the range of published ratios (`FIELD_SPEEDUP`), whatever the level.

    Examples
    --------
    >>> import kvpred
    >>> predictor, query = kvpred.load(kvpred.PACKAGED), Query(*np.array([[8], [4096], [256]]))
    >>> found = relative_times(predictor, get_method("h2o"), predictor.place, "lmdeploy", query=query)
    >>> [round(float(end[0]), 2) for end in found["decode"]]
    [0.59, 0.55, 0.64]
    """
    yardstick = Yardstick.at(predictor, place, engine, query=query, level=level)
    return {stage: found.ratio for stage, found in yardstick.compare(method).items()}


@dataclass(frozen=True, slots=True, eq=False)
class Relative:
    """One stage's times of a method over fp16's.

    Parameters
    ----------
    ratio : tuple of array
        The ratio, and the ends of its interval.
    in_domain : array of bool
        Whether both were measured around here.
    """

    ratio: Ratio
    in_domain: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Doubt:
    """What one stage's time of a method may be off by, apart from what all times at a place share.

    Parameters
    ----------
    faster, slower : array
        Log distances to the ends of the interval that is the method's own.
    as_fp16 : array
        Log half-width of what it is off by whenever fp16 is, and the same way.
    """

    faster: Array
    slower: Array
    as_fp16: Array


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """One stage's times, and what they may be off by.

    Parameters
    ----------
    time_s : array
    log_half_width : array
        Of the fit's interval on the logarithm.
    host : array
        The host's share of the time.
    in_domain : array of bool
    per_error : array
        Half-width per relative standard error: the same for all methods.
    """

    time_s: Array
    log_half_width: Array
    host: Array
    in_domain: NDArray[np.bool_]
    per_error: Array


@dataclass(frozen=True, slots=True, eq=False)
class Yardstick:
    """fp16's times of some batches at a place, which other methods' times are held against.

    Parameters
    ----------
    predictor : Predictor
    place : Place
    engine : str
    query : Query
        fp16's batches.
    level : float
        Of the intervals.
    fits : mapping of str to StageFits
        By stage, at the place.
    stages : mapping of str to _Judged
        fp16's.
    """

    predictor: Predictor
    place: Place
    engine: str
    query: Query
    level: float
    fits: Mapping[str, StageFits]
    stages: Mapping[str, _Judged]

    @classmethod
    def at(
        cls, predictor: Predictor, place: Place, engine: str, *, query: Query, level: float = 0.9
    ) -> Yardstick:
        """Predict fp16's times; parameters and errors as in `relative_times`."""
        fits = {
            stage: known.fits if place == predictor.place else transfer(known.fits, predictor.place, place)
            for stage, known in predictor.stages.items()
        }
        bare = cls(predictor, place, engine, query, level, fits, {})
        baseline = get_method(BASELINE)
        stages = {
            stage: bare._judged(stage, baseline, query, bare._times(stage, baseline, query))
            for stage in STAGES
        }
        return replace(bare, stages=stages)

    def time_s(self, stage: str) -> Array:
        """Return fp16's seconds of a stage."""
        return self.stages[stage].time_s

    def compare(
        self, method: Method, query: Query | None = None, *, stages: Sequence[str] = STAGES
    ) -> dict[str, Relative]:
        """Hold a method's times against fp16's, by stage.

        Parameters
        ----------
        method : Method
        query : Query, optional
            The method's own batches, where they are not fp16's.
        stages : sequence of str
        """
        itself = method == get_method(BASELINE)
        if itself and query is None:
            one = np.ones(self.query.bsz.shape)
            return {stage: Relative((one, one, one), self.stages[stage].in_domain) for stage in stages}
        known = coverage(self.predictor, method, self.place, self.engine)
        batches, found = query or self.query, {}
        for stage in stages:
            times = self._times(stage, method, batches)
            if known.basis == "roofline" and not itself:
                ratio = self._published(stage, known, times.time_s, query)
            else:
                ratio = self._measured(stage, known, self._judged(stage, method, batches, times))
            found[stage] = Relative(ratio, times.in_domain & self.stages[stage].in_domain)
        return found

    def doubts(self, method: Method, query: Query) -> dict[str, Doubt]:
        """Tell by stage what the times of a method's own batches may be off by, fp16's among them.

        In a ratio (`compare`) fp16's doubt counts for every method but fp16. Here it counts where it arises:
        for fp16 and for methods without runs, whose times are reckoned from fp16's.
        """
        baseline = get_method(BASELINE)
        known = coverage(self.predictor, method, self.place, self.engine)
        found, none = {}, np.zeros(query.bsz.shape)
        for stage in STAGES:
            times = self._times(stage, method, query)
            if method == baseline or known.basis != "roofline":
                own = self._judged(stage, method, query, times)
            else:
                own = self._judged(stage, baseline, query, self._times(stage, baseline, query))
            width = own.log_half_width + self._host_doubt(stage, known, own)
            if method == baseline:
                found[stage] = Doubt(none, none, width)
            elif known.basis == "roofline":
                slowest, fastest = FIELD_SPEEDUP[stage]
                faster = np.log(fastest * times.time_s / own.time_s)
                slower = np.log(fastest / slowest) - faster
                found[stage] = Doubt(np.maximum(faster, 0), np.maximum(slower, 0), width)
            else:
                ratio = own.time_s / self.time_s(stage)
                hidden = np.log(self._with_overhead(stage, ratio) / ratio)
                found[stage] = Doubt(np.maximum(width, -hidden), np.maximum(width, hidden), none)
        return found

    def _measured(self, stage: str, known: Coverage, own: _Judged) -> Ratio:
        ratio = own.time_s / self.time_s(stage)
        width = self._log_half_width(stage, known, own)
        low, high = ratio * np.exp(-width), ratio * np.exp(width)
        hidden = self._with_overhead(stage, ratio)
        return ratio, np.minimum(low, hidden), np.maximum(high, hidden)

    def _published(self, stage: str, known: Coverage, time_s: Array, query: Query | None) -> Ratio:
        slowest, fastest = FIELD_SPEEDUP[stage]
        ratio, low, high = time_s / self.time_s(stage), np.full(1, 1 / fastest), np.full(1, 1 / slowest)
        if query is not None:
            # Published ratios are of equal batches: what fp16 would take for the method's comes on top.
            baseline = get_method(BASELINE)
            copy = self._judged(stage, baseline, query, self._times(stage, baseline, query))
            among = copy.time_s / self.time_s(stage)
            width = np.where(among == 1, 0.0, self._log_half_width(stage, known, copy))
            low, high = low * among * np.exp(-width), high * among * np.exp(width)
        return ratio, np.minimum(low, ratio), np.maximum(high, ratio)

    def _log_half_width(self, stage: str, known: Coverage, own: _Judged) -> Array:
        width = np.hypot(own.log_half_width, self.stages[stage].log_half_width)
        return np.asarray(width + self._host_doubt(stage, known, own))

    def _host_doubt(self, stage: str, known: Coverage, own: _Judged) -> Array:
        """Return what a change of the host's work moves a time by, beyond what it moves fp16's by."""
        apart = np.abs(own.host - self.stages[stage].host)
        if known.same_place and known.same_engine:
            return np.zeros_like(apart)
        return np.asarray((HOST_DOUBT if known.same_engine else ENGINE_DOUBT) * apart)

    def _with_overhead(self, stage: str, ratio: Array) -> Array:
        """Return a ratio drawn to 1 by the overhead that nobody profiled, beside the times of both."""
        slower = self._unprofiled(stage)
        return (ratio + slower - 1.0) / slower

    def _unprofiled(self, stage: str) -> float:
        """Return how many times longer steps may take than profiled operators; 1 where runs were fitted."""
        fit = self.fits[stage].fits[BASELINE]
        if fit.covariance.any():
            return 1.0
        return 1.0 / PROFILED_SHARE[stage, fit.form.profile is not None and fit.form.profile.cold]

    def _times(self, stage: str, method: Method, query: Query) -> StepTimes:
        return step_times(
            self.predictor, stage, method, self.place, self.engine, query=query, level=self.level
        )

    def _judged(self, stage: str, method: Method, query: Query, times: StepTimes) -> _Judged:
        calibration, fits = self.predictor.stages[stage], self.fits[stage]
        prompts = query.prompt_len.astype(float)
        name = method.spec if method.spec in self.predictor.methods else BASELINE
        attended, length = prompts, prompts
        if stage == "decode":
            attended = mean_attended(name, prompt_len=query.prompt_len, output_len=query.output_len)
            length = query.mean_kv_len
        if query is self.query and stage in self.stages:
            per_error = self.stages[stage].per_error
        else:
            per_error = calibration.per_error(bsz=query.bsz, length=length, level=self.level)
        error = fits.error(name, bsz=query.bsz, length=attended)
        width = calibration.bounded(per_error * error, self.level)
        host = host_share(fits, name, self.place, times=times.time_s)
        return _Judged(times.time_s, width, host, times.in_domain, per_error)

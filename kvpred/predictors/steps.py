"""Times of a batch's prefill and decode step, each with its interval and the basis it rests on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvpred.methods import BASELINE, Method, get_method
from kvpred.predictors.calibration import StageFits, mean_attended
from kvpred.predictors.greybox import ATTENTION, Array, StageForm
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.scaling import (
    FIELD_SPEEDUP,
    TRANSFER_LOG_ERROR,
    Place,
    at_level,
    host_share,
    split_fixed,
    transfer,
)

BASES = ("calibrated", "profiled", "transferred", "roofline")

# What profiled operators add up to of a real step, at least: timed one by one with warm caches, and in place.
# Measured on a CPU with a real stack of layers; no GPU profile with runs beside it was at hand.
PROFILED_SHARE = {
    ("decode", False): 0.26,
    ("prefill", False): 0.63,
    ("decode", True): 0.94,
    ("prefill", True): 0.98,
}

# Another model, device or parallelism may halve or double the host's share of a step; another engine may
# change it fourfold. Stated assumptions: no public runs of one engine on two devices were at hand.
HOST_DOUBT = np.log(2.0)
ENGINE_DOUBT = np.log(4.0)


@dataclass(frozen=True, slots=True)
class Query:
    """A batch whose times are asked for: arrays of one shape.

    Parameters
    ----------
    bsz, prompt_len, output_len : array of int
    """

    bsz: NDArray[np.int64]
    prompt_len: NDArray[np.int64]
    output_len: NDArray[np.int64]

    @property
    def mean_kv_len(self) -> Array:
        """Tokens in the cache before a decode step, averaged over the steps."""
        return self.prompt_len + (np.maximum(self.output_len - 1, 1) - 1) / 2


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Times in seconds of one stage, with their interval.

    Parameters
    ----------
    time_s, low_s, high_s : array
    in_domain : array of bool
    """

    time_s: Array
    low_s: Array
    high_s: Array
    in_domain: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Coverage:
    """What an estimate of a method at a place rests on.

    Parameters
    ----------
    basis : {"calibrated", "profiled", "transferred", "roofline"}
    measured : bool
        Whether the method itself has runs at the predictor's own place.
    same_place, same_engine : bool
        Whether the question is about the predictor's own place and engine.
    """

    basis: str
    measured: bool
    same_place: bool
    same_engine: bool

    @property
    def in_place(self) -> bool:
        """Whether the method was measured at this very place under this engine."""
        return self.measured and self.same_place and self.same_engine


def coverage(predictor: Predictor, method: Method, place: Place, engine: str) -> Coverage:
    """Tell what an estimate would rest on."""
    measured = method.spec in predictor.methods
    same_place, same_engine = place == predictor.place, engine == predictor.engine
    scaled = predictor.basis if same_place else "transferred"
    basis = scaled if measured and same_engine else "roofline"
    return Coverage(basis, measured, same_place, same_engine)


def step_times(
    predictor: Predictor, stage: str, method: Method, place: Place, engine: str, *, query: Query, level: float
) -> StepTimes:
    """Return one stage's times.

    Parameters
    ----------
    predictor : Predictor
    stage : {"prefill", "decode"}
    method : Method
    place : Place
        What to predict for; other than the predictor's own, the fits are scaled by bytes and FLOPs.
    engine : str
    query : Query
    level : float
        Share of measured medians that the interval is to contain, between 0 and 1.

    Raises
    ------
    NotCoveredError
        If the place lacks a number that the scaling needs.
    """
    known = coverage(predictor, method, place, engine)
    calibration = predictor.stages[stage]
    fits = calibration.fits if known.same_place else transfer(calibration.fits, predictor.place, place)
    name = method.spec if known.measured else BASELINE
    length = _length(stage, method if known.measured else get_method(BASELINE), query)
    time_s = fits.fits[name].times(bsz=query.bsz, length=length)
    error = fits.error(name, bsz=query.bsz, length=length)
    width = calibration.log_half_width(error, bsz=query.bsz, length=_axis(stage, query), level=level)
    # Coefficients that were fitted to steps have an uncertainty; those of a profile alone were set.
    fitted = fits.fits[name].covariance.any()
    slower = 1.0 if fitted else _unprofiled_share(fits.fits[name].form, stage)
    if not (known.same_place and known.same_engine):
        doubt = HOST_DOUBT if known.same_engine else ENGINE_DOUBT
        extra = at_level(TRANSFER_LOG_ERROR, level)
        width = np.sqrt(width**2 + extra**2) + doubt * host_share(fits, name, place, times=time_s)
    low_s, high_s = time_s * np.exp(-width), slower * time_s * np.exp(width)
    if not known.measured:
        slowest, fastest = FIELD_SPEEDUP[stage]
        low_s, high_s = low_s / fastest, high_s / slowest
        time_s = time_s + _ideal_difference_s(stage, method, place, fits, query=query, length=length)
        low_s, high_s = np.minimum(low_s, time_s), np.maximum(high_s, time_s)
    inside = calibration.domain.contains(bsz=query.bsz, length=_axis(stage, query)) & known.in_place
    # What was measured counts more than a data sheet; beyond, nothing is faster than that allows.
    least_s = np.where(inside, 0.0, _least_s(stage, place, query))
    time_s, low_s, high_s = (np.maximum(seconds, least_s) for seconds in (time_s, low_s, high_s))
    return StepTimes(time_s, low_s, high_s, inside)


def _least_s(stage: str, place: Place, query: Query) -> Array:
    """Return what a step's FLOPs take at the device's peak: of linear layers, and of a prompt's attention."""
    token_s, pair_s = place.peak_s
    if stage == "decode":
        return np.asarray(query.bsz * token_s)
    prompt_len = query.prompt_len.astype(float)
    return np.asarray(query.bsz * (token_s * prompt_len + pair_s * prompt_len**2))


def _axis(stage: str, query: Query) -> Array:
    return query.prompt_len.astype(float) if stage == "prefill" else query.mean_kv_len


def _length(stage: str, method: Method, query: Query) -> Array:
    if stage == "prefill":
        return query.prompt_len.astype(float)
    return mean_attended(method.spec, prompt_len=query.prompt_len, output_len=query.output_len)


def _unprofiled_share(form: StageForm, stage: str) -> float:
    """Return how many times longer a step may take than its profiled operators."""
    return 1.0 / PROFILED_SHARE[stage, form.profile is not None and form.profile.cold]


def _ideal_difference_s(
    stage: str, method: Method, place: Place, fits: StageFits, *, query: Query, length: Array
) -> Array:
    """Return the seconds that a method's bytes and FLOPs would add to fp16's time (negative: save).

    A decode step's attention takes the larger of bytes / bandwidth and FLOPs / peak, prefill's upkeep both,
    each at the efficiency of fp16's own fit. No more is saved than fp16's attention takes by that fit.
    """
    efficiency = split_fixed(fits, place).efficiency
    kv_len = np.rint(query.mean_kv_len).astype(np.int64)
    own, baseline = (
        ideal_seconds(stage, one, place, kv_len=kv_len, prompt_len=query.prompt_len)
        for one in (method, get_method(BASELINE))
    )
    fit = fits.fits[BASELINE]
    attention = fit.shares(bsz=query.bsz, length=length)[..., ATTENTION]
    attention_s = attention * fit.times(bsz=query.bsz, length=length)
    return np.asarray(np.maximum(query.bsz * (own - baseline) / efficiency, -attention_s))


def ideal_seconds(
    stage: str, method: Method, place: Place, *, kv_len: NDArray[np.int64], prompt_len: NDArray[np.int64]
) -> Array:
    """Return what a sequence's attention and cache upkeep take at peak bandwidth and FLOP/s, in seconds.

    A decode step takes the larger of reading and computing, a prompt both.

    Parameters
    ----------
    stage : {"prefill", "decode"}
    method : Method
    place : Place
    kv_len, prompt_len : array of int
        Tokens in the cache before a decode step, and those of the prompt.
    """
    if stage == "prefill":
        traffic = method.prefill_traffic(place.model, prompt_len=prompt_len, tp=place.tp)
    else:
        traffic = method.decode_traffic(place.model, kv_len=kv_len, prompt_len=prompt_len, tp=place.tp)
    bytes_s = (traffic.read_bytes + traffic.write_bytes) / place.bandwidth
    flops_s = traffic.flops / place.peak_flops
    return np.asarray(bytes_s + flops_s if stage == "prefill" else np.maximum(bytes_s, flops_s))

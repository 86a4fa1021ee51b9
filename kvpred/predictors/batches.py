"""Batches of requests of unlike lengths, drawn from a drawn: how long they take, and how many fit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np

from kvpred.data.traces import Counts, whole_tokens
from kvpred.hardware import EngineSpec
from kvpred.methods import Method
from kvpred.predictors.greybox import Array
from kvpred.predictors.memory import predict_memory
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.scaling import Place
from kvpred.predictors.steps import Query, StepTimes, step_times

# Batches that are drawn where requests are not alike: a P99 over them has five beyond it.
N_BATCHES = 500
# Latencies over which percentiles are taken, about.
_N_LATENCIES = 400_000
# Share of the drawn batches that must fit in memory.
FITTING = 0.99
# Points of equal weight that stand for the predictor's error, more where there is one batch only: a P99 is
# then off by less than a percent of the error's width.
_ERROR_POINTS, _MOST_ERROR_POINTS = 201, 2001


@dataclass(frozen=True, slots=True, eq=False)
class Batches:
    """Batches drawn from requests: their lengths in tokens, shape (n_batches, bsz_max).

    The first b of a row are a batch of b: batch sizes and methods compare on the same requests.

    Parameters
    ----------
    prompts, outputs : array of int
    """

    prompts: Counts
    outputs: Counts

    @classmethod
    def draw(cls, prompts: Counts, outputs: Counts, *, bsz_max: int, seed: int) -> Batches:
        """Draw batches, each request as likely as any other; one batch where all are alike."""
        alike = len(np.unique(prompts)) == 1 and len(np.unique(outputs)) == 1
        shape = (1 if alike else N_BATCHES, bsz_max)
        rows = np.random.default_rng(seed).integers(len(prompts), size=shape)
        return cls(prompts[rows], outputs[rows])

    @property
    def longest(self) -> tuple[int, int]:
        """Tokens of prompt and answer of the longest request."""
        row = int(np.argmax(self.prompts + self.outputs))
        return int(self.prompts.flat[row]), int(self.outputs.flat[row])

    def scaled(self, multiplier: float) -> Batches:
        """Return the same requests with answers so many times as long."""
        return Batches(self.prompts, whole_tokens(self.outputs * multiplier))

    def of_size(self, bsz: int) -> Batches:
        """Return the batches of one size."""
        return Batches(self.prompts[:, :bsz], self.outputs[:, :bsz])


@dataclass(frozen=True, slots=True, eq=False)
class BatchTimes:
    """Times of some batches of one size in seconds: each batch's prefill, its decode step, its requests.

    Parameters
    ----------
    prefill, decode : StepTimes
        Shape (n_batches,).
    outputs : array of int, shape (n_batches, bsz)
    level : float
        Of the times' intervals.
    """

    prefill: StepTimes
    decode: StepTimes
    outputs: Counts
    level: float

    @property
    def device_s(self) -> float:
        """Seconds of the device that fall to a request on average: a batch's time in equal shares."""
        return float(self.e2e_s.mean() / self.outputs.shape[1])

    @property
    def e2e_s(self) -> Array:
        """Seconds of each request, shape (n_batches, bsz)."""
        return np.asarray(self.prefill.time_s[:, None] + (self.outputs - 1) * self.decode.time_s[:, None])

    @property
    def prefill_share(self) -> float:
        """Share of the time that is prefill."""
        return float(self.prefill.time_s.mean() / self.e2e_s.mean())

    def latencies_s(self, metric: str, *, sure: bool = False) -> Array:
        """Return what requests may take by a metric, over the mix and the predictor's error alike.

        Both stages are cautiously taken to err the same way.

        Parameters
        ----------
        metric : {"ttft", "tpot", "e2e"}
        sure : bool
            Whether to take the predictor at its word.
        """
        n_batches = len(self.outputs)
        normal = np.zeros(1) if sure else _normal(max(_ERROR_POINTS, _MOST_ERROR_POINTS // n_batches))
        prefill_s, decode_s = (_at(times, normal, self.level) for times in (self.prefill, self.decode))
        if metric == "ttft":
            return prefill_s
        if metric == "tpot":
            return decode_s
        kept = self.outputs[:, : max(1, _N_LATENCIES // (n_batches * len(normal)))]
        return prefill_s[:, None] + (kept[..., None] - 1) * decode_s[:, None]


@cache
def _normal(n: int) -> Array:
    """Return standard normal numbers at n shares, each in the middle of its part."""
    return np.array([NormalDist().inv_cdf((part + 0.5) / n) for part in range(n)])


def _at(times: StepTimes, normal: Array, level: float) -> Array:
    """Return times at standard normal errors: log-normal on each side, in the interval's width."""
    outer = NormalDist().inv_cdf((1 + level) / 2)
    fast, slow = np.log(times.time_s / times.low_s), np.log(times.high_s / times.time_s)
    width = np.where(normal < 0, fast[:, None], slow[:, None])
    return np.asarray(times.time_s[:, None] * np.exp(width * normal / outer))


def batch_times(
    predictor: Predictor, method: Method, place: Place, engine: str, *, batches: Batches, level: float
) -> BatchTimes:
    """Predict batches of unlike requests.

    A prefill counts as so many prompts of one length as have the same tokens and squares of tokens, as in
    `kvpred.predictors.clock`; a decode step as that of so many average requests, halfway through.

    Raises
    ------
    NotCoveredError
        If the place lacks a number that the scaling needs.
    """
    prompts, outputs = batches.prompts.astype(float), batches.outputs
    n_batches, bsz = prompts.shape
    length = (prompts**2).sum(axis=1) / prompts.sum(axis=1)
    ones = np.ones(n_batches, dtype=np.int64)
    queries = {
        # Not whole where prompts are unlike: the stage's form takes it as it is.
        "prefill": Query(np.asarray(prompts.sum(axis=1) / length), whole_tokens(length), ones),
        "decode": Query(bsz * ones, whole_tokens(prompts.mean(axis=1)), whole_tokens(outputs.mean(axis=1))),
    }
    prefill, decode = (
        step_times(predictor, stage, method, place, engine, query=query, level=level)
        for stage, query in queries.items()
    )
    return BatchTimes(prefill, decode, outputs, level)


def largest_batch(
    method: Method,
    place: Place,
    engine: EngineSpec,
    *,
    drawn: Batches,
    weight_bits: int = 16,
    memory_utilization: float = 0.9,
) -> int:
    """Return the largest batch of which nearly all (`FITTING`) that are drawn fit in memory.

    Each request takes its share of the memory: one over the largest batch of its like. 0 if there is a
    request that does not fit alone: it could never be served.

    Raises
    ------
    UsageError
        If a number is out of range.
    """
    memory = predict_memory(
        place.model,
        method,
        place.device,
        bsz=1,
        prompt_len=drawn.prompts,
        output_len=drawn.outputs,
        tp=place.tp,
        weight_bits=weight_bits,
        block_tokens=engine.block_tokens,
        prefill_tokens=engine.prefill_tokens,
        reserve_bytes=engine.reserve_bytes,
        memory_utilization=memory_utilization,
    )
    most = np.asarray(memory.max_bsz, dtype=np.float64)
    if not most.all():
        return 0
    used = np.cumsum(1.0 / most, axis=1)
    # A hair more than all is rounding.
    fits = (used <= 1 + 1e-9).mean(axis=0) >= FITTING
    return int(fits.sum())

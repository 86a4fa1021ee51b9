"""What requests of a mix take at one method's step times: exact sums over their lengths, and samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvpred.errors import UsageError
from kvpred.methods import Method
from kvpred.methods.quantities import MAX_TOKENS, IntArray, whole
from kvpred.models import ModelSpec
from kvpred.predictors.estimate import Estimate, predict
from kvpred.predictors.length.outputs import OutputLengths
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.scaling import Place
from kvpred.predictors.spread import Draws, Floats


@dataclass(frozen=True, slots=True, eq=False)
class Serving:
    """Where and how batches are served, whatever the method.

    Parameters
    ----------
    predictor : Predictor
    place : Place
    engine : str
    bsz : int
    level : float
        Of the intervals.
    weight_bits : {16, 8, 4}
    memory_utilization : float
        As in `kvpred.predict`.
    """

    predictor: Predictor
    place: Place
    engine: str
    bsz: int
    level: float = 0.9
    weight_bits: int = 16
    memory_utilization: float = 0.9

    def estimate(self, method: Method, prompts: IntArray, outputs: IntArray) -> Estimate:
        """Return the estimates of batches of requests with these tokens, arrays of one shape."""
        return predict(
            method=method,
            bsz=self.bsz,
            prompt_len=prompts,
            output_len=outputs,
            predictor=self.predictor,
            model=self.place.model,
            device=self.place.device,
            engine=self.engine,
            tp=self.place.tp,
            level=self.level,
            weight_bits=self.weight_bits,
            memory_utilization=self.memory_utilization,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Mix:
    """Requests that differ in length: aligned arrays, shape (k,).

    Parameters
    ----------
    lengths : OutputLengths
    prompts : array of int
        Tokens of each length's prompt.
    room : array of int
        Most tokens that the model's context leaves for the answer.
    """

    lengths: OutputLengths
    prompts: IntArray
    room: IntArray

    @classmethod
    def of(cls, lengths: OutputLengths, prompt_len: int | IntArray | None, model: ModelSpec) -> Mix:
        """Join prompts to lengths; `prompt_len` of None takes those of `lengths`.

        Raises
        ------
        UsageError
            If there are no prompts' lengths, a prompt leaves no room for an answer, or no answer fits.
        """
        given = lengths.prompt_tokens if prompt_len is None else prompt_len
        if given is None:
            raise UsageError(f"how long are the prompts? ({lengths.source}): give prompt_len")
        prompts = whole("prompt_len", np.asarray(given), low=1, high=MAX_TOKENS)
        prompts = np.broadcast_to(prompts, lengths.tokens.shape)
        room = model.max_position - prompts
        if (room < 1).any():
            raise UsageError(
                f"a prompt of {prompts.max():,} tokens leaves no room for an answer in the context of "
                f"{model.max_position:,} of {model.name}: ask for fewer, or a model with a longer one"
            )
        if (lengths.tokens > room).all():
            raise UsageError(
                f"a prompt of {prompts.min():,} tokens and an answer of {lengths.tokens.min():,} exceed the "
                f"context of {model.max_position:,} of {model.name}: ask for fewer"
            )
        return cls(lengths, prompts, room)

    @property
    def mean_prompt_len(self) -> float:
        """Mean tokens of the prompts."""
        return float(self.lengths.weights @ self.prompts)


@dataclass(frozen=True, slots=True, eq=False)
class MeanRequest:
    """Means over a mix, at m multipliers of its answers' lengths: arrays, shape (m,).

    Parameters
    ----------
    multipliers : array
        Rising.
    tokens : array
        Answered, those cut at the model's context included.
    cut : array
        Share of answers that the context cuts.
    prefill_s, tpot_s, e2e_s : array
        Seconds, each request as one of a batch of requests like it.
    low_s, high_s : array
        Interval of `e2e_s`: both stages and all lengths are taken to err the same way.
    fits : array
        Share of requests of which a batch fits in memory; 1 if and only if all do.
    in_domain : array
        Share of requests inside the range that was measured.
    basis, provenance : str
        Of the step times.
    """

    multipliers: Floats
    tokens: Floats
    cut: Floats
    prefill_s: Floats
    tpot_s: Floats
    e2e_s: Floats
    low_s: Floats
    high_s: Floats
    fits: Floats
    in_domain: Floats
    basis: str
    provenance: str

    def row(self, multiplier: float) -> int:
        """Return the row of one of the multipliers."""
        return int(np.flatnonzero(self.multipliers == multiplier)[0])

    def at(self, multipliers: Floats, values: Floats) -> Floats:
        """Return values at other multipliers, taken to be straight between those known."""
        return np.asarray(np.interp(multipliers, self.multipliers, values))


def mean_request(serving: Serving, method: Method, mix: Mix, multipliers: Floats) -> MeanRequest:
    """Sum over a mix what its requests take; half a token more takes half a step more.

    Parameters
    ----------
    serving : Serving
    method : Method
    mix : Mix
    multipliers : array, shape (m,)
        Of the answers' lengths, rising.
    """
    wanted = np.maximum(multipliers[:, None] * mix.lengths.tokens, 1.0)
    tokens = np.minimum(wanted, mix.room)
    below = np.floor(tokens).astype(np.int64)
    part = tokens - below
    ends = np.stack([below, np.minimum(below + 1, mix.room)] if part.any() else [below])
    found = serving.estimate(method, np.broadcast_to(mix.prompts, ends.shape).ravel(), ends.ravel())

    def mean(values: Floats) -> Floats:
        first, last = values.reshape(ends.shape)[[0, -1]]
        return np.asarray((first + part * (last - first)) @ mix.lengths.weights)

    def share(holds: NDArray[np.bool_]) -> Floats:
        both = holds.reshape(ends.shape).all(axis=0)
        some = np.where(both, mix.lengths.weights, 0.0).sum(axis=1)
        # Weights add up to 1 but for rounding.
        return np.where(np.all(both, axis=1), 1.0, np.minimum(some, np.nextafter(1.0, 0.0)))

    low_s, high_s = found.interval["e2e_latency_s"]
    return MeanRequest(
        multipliers=multipliers,
        tokens=np.asarray(tokens @ mix.lengths.weights),
        cut=np.asarray((wanted > mix.room) @ mix.lengths.weights),
        prefill_s=mean(found.prefill_time_s),
        tpot_s=mean(found.tpot_s),
        e2e_s=mean(found.e2e_latency_s),
        low_s=mean(low_s),
        high_s=mean(high_s),
        fits=share(found.fits),
        in_domain=share(found.in_domain),
        basis=found.basis,
        provenance=found.provenance,
    )


@dataclass(frozen=True, slots=True, eq=False)
class SingleRequests:
    """Requests drawn from a mix, each with its own errors: arrays, shape (n,)."""

    tokens: Floats
    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats


def single_requests(serving: Serving, method: Method, mix: Mix, draws: Draws) -> SingleRequests:
    """Draw requests: a length, what the shift makes of it, and step times that are off.

    Parameters
    ----------
    serving : Serving
    method : Method
    mix : Mix
    draws : Draws
    """
    rows = mix.lengths.pick(draws.length)
    wanted = np.rint(mix.lengths.tokens[rows] * mix.lengths.shift.at(draws.shift))
    tokens = np.clip(wanted, 1, mix.room[rows]).astype(np.int64)
    found = serving.estimate(method, mix.prompts[rows], tokens)
    ttft_s, tpot_s = (
        draws.erring(value, *found.interval[name], draws.time)
        for name, value in (("ttft_s", found.ttft_s), ("tpot_s", found.tpot_s))
    )
    return SingleRequests(tokens.astype(np.float64), ttft_s, tpot_s, ttft_s + (tokens - 1) * tpot_s)

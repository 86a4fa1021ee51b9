"""The grey-box form of one step's time: a fixed cost and a few device terms, all of them physical.

``time = (fixed^p + (sum_k coef_k * term_k)^p)^(1/p)`` with non-negative coefficients in seconds, where

- decode: terms ``bsz`` and ``bsz * attended`` (tokens of KV cache that the step reads), and, where the runs
  ask for it, a hinge ``max(bsz - h, 0)``, or for batches of several sequences a second ``bsz * attended``
  (a kernel that reads one long cache is not the one that reads many) or a second fixed cost (matrices are
  multiplied by matrices, not by vectors);
- prefill: terms ``bsz * prompt_len`` (linear layers) and ``bsz * prompt_len^2`` (attention), or
  ``(bsz * prompt_len)^2`` where a kernel runs all prompts as one under a mask.

Where a profile of operators is at hand, its times take the place of the device terms: the sum of all shared
operators, and attention, each with a multiplier.

The overlap ``p`` says how much of the fixed cost (launching kernels from the host) hides behind the device's
work: 1 adds the two, 2 hides most of the smaller one, as a roofline with a rounded knee does. The time is
homogeneous of degree one in the coefficients, so ``time = sum_k coef_k * d time / d coef_k`` exactly (Euler)
and each term has a share of the time; the shares are what the few-shot fit and the planner work with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvpred.errors import UsageError
from kvpred.predictors.nnls import nnls

Array = NDArray[np.float64]

STAGES = ("prefill", "decode")
# Place of the term that grows with attention, in both stages.
ATTENTION = 2

# A method's coefficients are pulled toward fp16's: multipliers are expected within 15 % of one and a site's
# median to carry 3 % of noise and lack of fit, so the ridge weighs (3 / 15)^2.
SITE_NOISE, PRIOR_SPREAD = 0.03, 0.15
PRIOR_STRENGTH = (SITE_NOISE / PRIOR_SPREAD) ** 2
_MAX_ITERATIONS = 200
# More sites outweigh any pull, and decide all coefficients by themselves.
FEW_SITES = 6
# Multipliers within 50 %, or within 150 %, of one, in units of PRIOR_SPREAD.
_UPKEEP, _OTHER_KERNEL = 0.5 / PRIOR_SPREAD, 1.5 / PRIOR_SPREAD
# Kass and Raftery, JASA 90, 773 (1995): a log Bayes factor beyond 3 is strong evidence.
_KIND_EVIDENCE = 3.0


class DeviceTimes(Protocol):
    """Profiled operators of a whole step."""

    @property
    def cold(self) -> bool:
        """Whether operators were timed in place, each with cold caches, rather than one by one."""

    def device_s(self, stage: str, *, bsz: Array, length: Array) -> Array:
        """Return seconds of the shared operators and of attention, shape (..., 2); `length` as in terms."""


@dataclass(frozen=True, slots=True)
class StageForm:
    """Which terms a stage's time is made of.

    Parameters
    ----------
    stage : {"prefill", "decode"}
    overlap : float
        The exponent p.
    hinge : int or None
        Batch size above which decode steps take an extra cost per sequence.
    crowded : bool
        Whether a cached token costs more where a decode step reads the caches of several sequences.
    batched : bool
        Whether a decode step costs more by itself where it has several sequences.
    joint : bool
        Whether prefill computes, and then masks, the attention of every token of a step to every other,
        those of other sequences among them.
    profile : DeviceTimes or None
        Profiled operators in place of the polynomial terms.
    """

    stage: str
    overlap: float = 1.0
    hinge: int | None = None
    profile: DeviceTimes | None = None
    crowded: bool = False
    batched: bool = False
    joint: bool = False

    def terms(self, *, bsz: ArrayLike, length: ArrayLike) -> Array:
        """Return the terms, shape (n, n_terms), of batches of ``bsz`` sequences.

        ``length`` is the prompt length for prefill and the attended tokens per sequence for decode.
        """
        batch, tokens = np.broadcast_arrays(np.asarray(bsz, dtype=float), np.asarray(length, dtype=float))
        one = np.ones_like(batch)
        if self.profile is not None:
            device_s = self.profile.device_s(self.stage, bsz=batch, length=tokens)
            return np.concatenate([one[..., None], device_s], axis=-1)
        if self.stage == "prefill":
            columns = [one, batch * tokens, (batch * tokens) ** 2 if self.joint else batch * tokens**2]
        else:
            columns = [one, batch, batch * tokens]
            if self.hinge is not None:
                columns.append(np.maximum(batch - self.hinge, 0.0))
            if self.crowded:
                columns.append(np.where(batch > 1, batch * tokens, 0.0))
            if self.batched:
                columns.append(np.where(batch > 1, 1.0, 0.0))
        return np.stack(columns, axis=-1)

    @property
    def term_names(self) -> tuple[str, ...]:
        """Return what each term counts, in words."""
        if self.profile is not None:
            return ("fixed", "shared operators", "attention")
        if self.stage == "prefill":
            return ("fixed", "per token", "per pair of tokens")
        names: tuple[str, ...] = ("fixed", "per sequence", "per attended token")
        if self.hinge is not None:
            names += (f"per sequence beyond {self.hinge}",)
        if self.crowded:
            names += ("per attended token, batch > 1",)
        return (*names, "fixed, batch > 1") if self.batched else names

    def times(self, terms: Array, coef: Array) -> Array:
        """Return the time in seconds of each row of terms."""
        fixed, device = terms[..., 0] * coef[0], terms[..., 1:] @ coef[1:]
        if self.overlap == 1.0:
            return np.asarray(fixed + device)
        return np.asarray((fixed**self.overlap + device**self.overlap) ** (1.0 / self.overlap))

    def slopes(self, terms: Array, coef: Array) -> Array:
        """Return ``d time / d coef``, shape as ``terms``; times the coefficients it sums to the time."""
        if self.overlap == 1.0:
            return terms
        time = self.times(terms, coef)[..., None]
        device = (terms[..., 1:] @ coef[1:])[..., None]
        power = self.overlap - 1.0
        return np.concatenate(
            [
                terms[..., :1] * (terms[..., :1] * coef[0] / time) ** power,
                terms[..., 1:] * (device / time) ** power,
            ],
            axis=-1,
        )


@dataclass(frozen=True, slots=True)
class StageFit:
    """A fitted form: its coefficients and what they leave uncertain.

    Parameters
    ----------
    form : StageForm
    coef : array, shape (n_terms,)
        Seconds per unit of each term.
    covariance : array, shape (n_terms, n_terms)
        Of the coefficients, per unit of relative site noise squared.
    surprise : float
        What the covariance was multiplied by because the sites contradict the prior.
    """

    form: StageForm
    coef: Array
    covariance: Array
    surprise: float = 1.0

    def times(self, *, bsz: ArrayLike, length: ArrayLike) -> Array:
        """Return times in seconds."""
        return self.form.times(self.form.terms(bsz=bsz, length=length), self.coef)

    def shares(self, *, bsz: ArrayLike, length: ArrayLike) -> Array:
        """Return each term's share of the time, shape (n, n_terms); they sum to one."""
        terms = self.form.terms(bsz=bsz, length=length)
        slopes = self.form.slopes(terms, self.coef)
        return slopes * self.coef / self.form.times(terms, self.coef)[..., None]

    def leverage(self, *, bsz: ArrayLike, length: ArrayLike) -> Array:
        """Return the relative variance of the predicted time per unit of site noise squared."""
        relative = self._relative_slopes(bsz=bsz, length=length)
        variance: Array = np.einsum("...i,ij,...j->...", relative, self.covariance, relative)
        return variance

    def prediction_covariance(self, *, bsz: ArrayLike, length: ArrayLike) -> Array:
        """Return how the predictions of sites err together, shape (n, n), with `leverage` on its diagonal."""
        relative = self._relative_slopes(bsz=bsz, length=length)
        return np.asarray(relative @ self.covariance @ relative.T)

    def _relative_slopes(self, *, bsz: ArrayLike, length: ArrayLike) -> Array:
        terms = self.form.terms(bsz=bsz, length=length)
        return self.form.slopes(terms, self.coef) / self.form.times(terms, self.coef)[..., None]


@dataclass(frozen=True, slots=True)
class StageSites:
    """Sites of one method and stage: aligned arrays, shape (n_sites,).

    Parameters
    ----------
    bsz : array
        Sequences in the batch.
    length : array
        Prompt length for prefill, attended tokens per sequence for decode.
    time_s : array
        Seconds of the whole prefill or of one decode step.
    """

    bsz: Array
    length: Array
    time_s: Array

    def select(self, mask: NDArray[np.bool_] | NDArray[np.int64]) -> StageSites:
        """Return the sites that a mask or an array of indices picks."""
        return StageSites(self.bsz[mask], self.length[mask], self.time_s[mask])


def fit_stage(
    form: StageForm, sites: StageSites, *, prior: StageFit | None = None, noise: float = SITE_NOISE
) -> StageFit:
    """Fit one stage of one method to the times of its sites.

    Least squares of the relative error with coefficients of at least zero; with a prior, each coefficient is
    pulled toward the prior's by a ridge on its multiplier: `noise` over `PRIOR_SPREAD`, or over more where
    few sites are strong evidence of a method of another kind. A coefficient that is zero in the prior,
    or next to it, may grow by what the prior's own data could hide: its standard error there.

    Parameters
    ----------
    form : StageForm
    sites : StageSites
        May be empty where there is a prior.
    prior : StageFit, optional
        fp16's fit of the same form.
    noise : float
        Relative noise of a site's median, lack of fit included.

    Raises
    ------
    UsageError
        If there are fewer sites than terms and no prior.
    """
    terms, time_s = form.terms(bsz=sites.bsz, length=sites.length), sites.time_s
    n_sites, n_terms = terms.shape
    if prior is None and n_sites < n_terms:
        raise UsageError(f"fp16 has {n_sites} sites of {form.stage}; at least {n_terms} are needed to fit it")
    scale = _prior_scale(prior, sites, noise) if prior is not None else np.zeros(n_terms)
    pull = noise / PRIOR_SPREAD * np.diag(1.0 / scale) if prior is not None else np.zeros((0, n_terms))
    target = np.concatenate([np.ones(n_sites), pull @ prior.coef if prior is not None else np.zeros(0)])
    coef = prior.coef if prior is not None else _first_guess(terms, time_s)
    if n_sites:
        coef = _solve(form, terms, time_s, pull=pull, target=target, start=coef)
    design = np.concatenate([form.slopes(terms, coef) / time_s[:, None], pull])
    covariance = np.linalg.pinv(design.T @ design, rcond=1e-14, hermitian=True)
    surprise = _surprise(prior, scale, sites, noise) if prior is not None and n_sites else 1.0
    return StageFit(form, coef, covariance * surprise, surprise)


def _surprise(prior: StageFit, scale: Array, sites: StageSites, noise: float) -> float:
    """Return by how much the sites contradict the spread that the prior allows, at least 1.

    A method whose sites lie far outside is of another kind than the prior expects, so its other coefficients
    are as uncertain: the mean square of the residuals over their expected size, as in a Birge ratio (Birge,
    Phys. Rev. 40, 207, 1932).
    """
    spread = StageFit(prior.form, prior.coef, np.diag((scale * PRIOR_SPREAD / noise) ** 2))
    at = {"bsz": sites.bsz, "length": sites.length}
    expected = noise**2 * (1.0 + spread.leverage(**at))
    return max(1.0, float(np.mean(np.log(sites.time_s / prior.times(**at)) ** 2 / expected)))


def _solve(
    form: StageForm, terms: Array, time_s: Array, *, pull: Array, target: Array, start: Array
) -> Array:
    """Minimise the relative error: one linear problem where the parts add up, a damped sequence otherwise."""
    coef = start
    floor = 1e-12 * np.max(time_s) * (np.arange(len(coef)) == 0)
    for iteration in range(_MAX_ITERATIONS):
        design = np.concatenate([form.slopes(terms, coef) / time_s[:, None], pull])
        solved = nnls(design, target)
        if form.overlap == 1.0 or np.allclose(solved, coef, rtol=1e-9, atol=0.0):
            return solved
        damping = 0.5 if iteration < _MAX_ITERATIONS // 2 else 0.1
        coef = np.maximum(coef + damping * (solved - coef), floor)
    return coef


def _prior_scale(prior: StageFit, sites: StageSites, noise: float) -> Array:
    """Return how far each coefficient may wander from the prior: its size there, or its standard error.

    In units of `PRIOR_SPREAD`, widened where the sites clearly belong to a method of another kind.
    """
    hidden = noise * np.sqrt(np.diag(prior.covariance))
    scale = np.maximum(prior.coef, np.maximum(hidden, 1e-15))
    if not 0 < len(sites.bsz) <= FEW_SITES:
        return scale
    kinds = _kinds(len(scale))
    evidence = [_log_evidence(prior, scale * kind, sites, noise) for kind in kinds]
    evidence[0] += _KIND_EVIDENCE
    return scale * kinds[int(np.argmax(evidence))]


def _kinds(n_terms: int) -> list[Array]:
    """Return how much wider than usual coefficients may wander: as for a method like fp16, and for others.

    Another kernel for attention alone; a method with upkeep in every term; one that shares little with fp16.
    """
    attention = np.ones(n_terms)
    attention[ATTENTION] = _OTHER_KERNEL
    return [np.ones(n_terms), attention, np.full(n_terms, _UPKEEP), np.full(n_terms, _OTHER_KERNEL)]


def _log_evidence(prior: StageFit, scale: Array, sites: StageSites, noise: float) -> float:
    """Return the log probability of the sites where coefficients wander so far, up to a constant.

    The evidence of a linear model with normal errors (MacKay, Neural Computation 4, 415, 1992).
    """
    terms = prior.form.terms(bsz=sites.bsz, length=sites.length)
    slopes = prior.form.slopes(terms, prior.coef) / sites.time_s[:, None]
    residual = 1.0 - slopes @ prior.coef
    covariance = np.diag((scale * PRIOR_SPREAD) ** 2) + noise**2 * prior.covariance
    expected = noise**2 * np.eye(len(residual)) + slopes @ covariance @ slopes.T
    _, log_size = np.linalg.slogdet(expected)
    return float(-0.5 * (residual @ np.linalg.solve(expected, residual) + log_size))


def _first_guess(terms: Array, time_s: Array) -> Array:
    """Return the additive fit, with a fixed part that is never quite zero so that overlap can act on it."""
    coef = nnls(terms / time_s[:, None], np.ones(len(time_s)))
    coef[0] = max(coef[0], 0.01 * float(np.min(time_s)))
    return coef

"""Which sites to measure of a new method: the ones that leave its predictions least uncertain."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from kvpred.errors import UsageError
from kvpred.predictors.greybox import PRIOR_STRENGTH, Array, StageFit


def plan_sites(
    baseline: StageFit,
    *,
    bsz: ArrayLike,
    length: ArrayLike,
    n_sites: int,
    measured: Sequence[int] = (),
) -> list[int]:
    """Choose the sites that leave a method's mean prediction variance over all candidates least.

    The method will be fitted as multipliers on fp16's coefficients under a ridge, so the variance of a
    prediction depends on fp16's shares alone, not on any run of the method: planning precedes measuring.
    I-optimality (Atkinson, Donev and Tobias, *Optimum Experimental Designs*, 2007, section 10.6), greedily
    built and improved by exchange; the same criterion for every number of sites.

    Parameters
    ----------
    baseline : StageFit
        fp16's fit of the stage.
    bsz, length : array_like, shape (n_candidates,)
        The candidates, which are also the sites to be predicted; `length` is the prompt length for prefill
        and the tokens that the method attends to for decode.
    n_sites : int
        Sites to choose.
    measured : sequence of int
        Candidates that are measured already; the plan completes them.

    Returns
    -------
    list of int
        Indices of the chosen candidates, the most telling first.

    Raises
    ------
    UsageError
        If there are fewer candidates than sites to choose.
    """
    shares = np.asarray(baseline.shares(bsz=bsz, length=length))
    free = [i for i in range(len(shares)) if i not in set(measured)]
    if not 0 <= n_sites <= len(free):
        raise UsageError(f"cannot choose {n_sites} of {len(free)} candidate sites")
    known = PRIOR_STRENGTH * np.eye(shares.shape[1]) + _information(shares, list(measured))
    target = shares.T @ shares / len(shares)

    def variance(chosen: list[int]) -> float:
        return float(np.trace(np.linalg.solve(known + _information(shares, chosen), target)))

    plan: list[int] = []
    for _ in range(n_sites):
        plan.append(min((i for i in free if i not in plan), key=lambda i: variance([*plan, i])))
    return _exchange(plan, free, variance)


def _information(shares: Array, sites: list[int]) -> Array:
    return shares[sites].T @ shares[sites]


def _exchange(plan: list[int], free: list[int], variance: Callable[[list[int]], float]) -> list[int]:
    """Swap single sites for better ones until no swap helps."""
    least, improved = variance(plan), True
    while improved:
        improved = False
        for place in range(len(plan)):
            for other in free:
                swapped = [*plan[:place], other, *plan[place + 1 :]]
                if other not in plan and variance(swapped) < least * (1 - 1e-9):
                    plan, least, improved = swapped, variance(swapped), True
    return plan

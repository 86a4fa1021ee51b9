"""Arrivals over time that are drawn: Poisson, gamma, or evenly spaced."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvpred.data.traces import check_qps
from kvpred.errors import UsageError

KINDS = ("poisson", "gamma", "uniform")


def arrivals(kind: str, n: int, *, qps: float, cv: float = 1.0, seed: int = 0) -> NDArray[np.float64]:
    """Return when requests come, in seconds, the first at 0.

    The gaps are stretched to have exactly the mean asked for, as vLLM's benchmark does. The same seed at
    another rate gives the same arrivals, stretched: rates compare on common random numbers.

    Parameters
    ----------
    kind : {"poisson", "gamma", "uniform"}
        Gaps that are exponential, gamma with the coefficient of variation `cv` (above 1 in bursts, below more
        regular than Poisson), or all the same.
    n : int
        Requests.
    qps : float
        Requests per second: one over the mean gap.
    cv : float
        Of gamma's gaps.
    seed : int

    Returns
    -------
    array, shape (n,)

    Raises
    ------
    UsageError
        If the kind is unknown, or a number out of range.

    Examples
    --------
    >>> arrivals("uniform", 3, qps=2.0).tolist()
    [0.0, 0.5, 1.0]
    """
    if n < 1:
        raise UsageError(f"{n} requests: give at least 1")
    check_qps(qps)
    if not 0 < cv < float("inf"):
        raise UsageError(f"cv {cv:g} of the gaps between requests: give a positive number")
    rng = np.random.default_rng(seed)
    if kind == "poisson":
        gaps = rng.exponential(size=n - 1)
    elif kind == "gamma":
        gaps = rng.gamma(cv**-2, cv**2, size=n - 1)
    elif kind == "uniform":
        gaps = np.ones(n - 1)
    else:
        raise UsageError(f"arrivals {kind!r} are not known: use {', '.join(KINDS)}")
    ends = np.concatenate([[0.0], np.cumsum(gaps)])
    # A few hundred random gaps miss their mean by several per cent, which near saturation changes everything.
    return ends / (ends[-1] or 1.0) * (n - 1) / qps

"""How wrong the summed predictions of many requests are: what a cost is made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
GROUP_REQUESTS = 50
N_REPEATS = 100


def total_errors(
    tokens: Floats, predicted: Floats, group: Ints, *, whole: bool, seed: int = 0, repeats: int = N_REPEATS
) -> Floats:
    """Return (Σ predicted - Σ true) / Σ true of groups of at least 50 requests.

    Parameters
    ----------
    tokens, predicted : array, shape (n,)
    group : array of int, shape (n,)
        Conversation of each request.
    whole : bool
        Whether groups are filled with whole conversations, whose errors go together, rather than at random.
    seed : int
    repeats : int
        Shuffles; what is left over at the end of each stays out.

    Returns
    -------
    array
        Empty if there are fewer than 50 requests.
    """
    rng = np.random.default_rng(seed)
    unit = group if whole else np.arange(len(tokens))
    size = np.bincount(unit)
    true, said = np.bincount(unit, weights=tokens), np.bincount(unit, weights=predicted)
    found: list[Floats] = []
    for _ in range(repeats):
        order = rng.permutation(len(size))
        ends = _ends(np.cumsum(size[order]))
        if not len(ends):
            continue
        sums = [np.diff(np.cumsum(values[order])[ends], prepend=0.0) for values in (said, true)]
        found.append(sums[0] / sums[1] - 1)
    return np.concatenate(found) if found else np.empty(0)


def _ends(filled: Ints) -> Ints:
    """Return where groups end: each at the first place that gives it 50 requests."""
    ends: list[int] = []
    start = 0
    while start + GROUP_REQUESTS <= filled[-1]:
        ends.append(int(np.searchsorted(filled, start + GROUP_REQUESTS)))
        start = int(filled[ends[-1]])
    return np.array(ends, dtype=np.int64)

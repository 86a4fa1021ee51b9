"""Non-negative least squares for the handful of terms that a physical form has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def nnls(design: Array, target: Array) -> Array:
    """Solve ``min ||design @ coef - target||`` with every coefficient at least zero.

    The active-set method of Lawson and Hanson (*Solving Least Squares Problems*, 1974, ch. 23). The core
    install has no scipy, whose `scipy.optimize.nnls` this equals (checked by the tests).

    Parameters
    ----------
    design : array, shape (n, p)
        One column per term; columns may differ by many orders of magnitude.
    target : array, shape (n,)
        What the terms should add up to.

    Returns
    -------
    array, shape (p,)
        The coefficients, in the units of ``target`` per unit of each column.

    Examples
    --------
    >>> import numpy as np
    >>> nnls(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([2.0, -1.0])).tolist()
    [2.0, 0.0]
    """
    scale = np.linalg.norm(design, axis=0)
    scale[scale == 0] = 1.0
    a = design / scale
    n_terms = a.shape[1]
    coef = np.zeros(n_terms)
    active = np.zeros(n_terms, dtype=bool)
    size = float(np.linalg.norm(target))
    for _ in range(3 * n_terms + 10):
        gradient = a.T @ (target - a @ coef)
        gradient[active] = -np.inf
        entering = int(np.argmax(gradient))
        if gradient[entering] <= 1e-11 * size:
            break
        active[entering] = True
        while True:
            trial = np.zeros(n_terms)
            trial[active] = np.linalg.lstsq(a[:, active], target, rcond=None)[0]
            blocked = active & (trial <= 0)
            if not blocked.any():
                coef = trial
                break
            step = np.min(coef[blocked] / (coef[blocked] - trial[blocked]))
            coef = coef + step * (trial - coef)
            active &= coef > 1e-15 * size
            coef[~active] = 0.0
            if not active.any():
                break
    solution: Array = coef / scale
    return solution

"""Regressor `physics`: non-negative least squares on FLOPs, bytes, tiles and a constant; it extrapolates."""

from __future__ import annotations

import numpy as np

from kvpred.predictors.nnls import nnls
from kvpred.predictors.operators.base import OperatorRegressor, State
from kvpred.predictors.operators.features import FloatArray

# A point's median is taken to carry 3 % of noise, and a tile or knee to take some 20 % of the time: of few
# points each would otherwise explain its own noise. Hundreds of points outweigh it.
RIDGE = (0.03 / 0.2) ** 2


class PhysicsRegressor(OperatorRegressor):
    """A sum of the family's physics terms with coefficients of at least zero, fitted to relative errors.

    Tiles and knees are pulled toward zero by a ridge on the share of the time that they take.

    Relative residuals are log residuals to first order, and keep the problem one that non-negative least
    squares solves exactly.

    Parameters
    ----------
    family : str
        ``tokens``, ``decode`` or ``prefill``.

    Attributes
    ----------
    coef_ : dict of str to float
        The terms in use and their coefficients in ms.

    Examples
    --------
    >>> tokens = [[64], [128], [256], [512], [1024]]
    >>> model = PhysicsRegressor().fit(tokens, [0.065, 0.129, 0.257, 0.513, 1.025])
    >>> model.predict([[4096]]).round(2).tolist()
    [4.1]
    """

    name = "physics"
    coef_: dict[str, float]

    def __init__(self, *, family: str = "tokens") -> None:
        self.family = family

    def _fit(self, inputs: FloatArray, time_ms: FloatArray) -> None:
        terms = self._family.terms(inputs, self.high_)
        relative = np.column_stack([*terms.values(), time_ms]) / time_ms[:, None]
        # A term's column is its share of the time per unit of coefficient.
        extra = [name not in self._family.plain for name in terms]
        ridge = np.sqrt(RIDGE) * np.diag(np.append(relative[:, :-1].mean(axis=0) * extra, 0.0))[:-1]
        design = np.concatenate([relative, ridge])
        # The triangle of a QR factorisation has the same least-squares solution and as few rows as terms.
        triangle: FloatArray = np.asarray(np.linalg.qr(design, mode="r"))
        coef = nnls(triangle[:, :-1], triangle[:, -1])
        self.coef_ = {name: float(value) for name, value in zip(terms, coef, strict=True) if value > 0}

    def _predict(self, inputs: FloatArray) -> FloatArray:
        terms = self._family.terms(inputs, self.high_)
        time_ms = np.zeros(len(inputs))
        for name, value in self.coef_.items():
            time_ms += value * terms[name]
        return time_ms

    def _learnt(self) -> State:
        return State({"coef_ms": self.coef_})

    def _restore(self, learnt: State) -> None:
        self.coef_ = {name: float(value) for name, value in learnt.values["coef_ms"].items()}
        known = self._family.terms(self.high_[None, :], self.high_)
        unknown = sorted(self.coef_.keys() - known.keys())
        if unknown or min(self.coef_.values()) <= 0:
            raise ValueError(f"unknown terms {unknown}" if unknown else "a coefficient is not positive")

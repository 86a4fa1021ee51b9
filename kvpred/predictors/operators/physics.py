"""Regressor `physics`: non-negative least squares on FLOPs, bytes, tiles and a constant; it extrapolates."""

from __future__ import annotations

import numpy as np

from kvpred.predictors.nnls import nnls
from kvpred.predictors.operators.base import OperatorRegressor, State
from kvpred.predictors.operators.features import FloatArray


class PhysicsRegressor(OperatorRegressor):
    """A sum of the family's physics terms with coefficients of at least zero, fitted to relative errors.

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
        design = np.column_stack([*terms.values(), time_ms]) / time_ms[:, None]
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

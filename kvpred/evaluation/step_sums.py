"""Whether operators timed in place, and an overhead, add up to the real step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvpred.data.profiles import Profile, time_column
from kvpred.evaluation.profile_tables import Floats, drift, halves, of_stage
from kvpred.predictors.greybox import STAGES
from kvpred.predictors.in_place import OPERATORS, STEP, at_rows

TARGETS: Mapping[str, float] = {"prefill": 0.03, "decode": 0.05}
"""Median relative error that the sum may have."""
MOST_HOOKS = 0.02
"""By how much hooks may lengthen a step."""


@dataclass(frozen=True, slots=True)
class StepSum:
    """How well operators and an overhead add up to whole steps without hooks.

    Parameters
    ----------
    method, stage : str
    n_sites : int
    operators : float
        Median share of the step that the operators account for.
    overhead_ms : float
        Median of what is left over.
    error : float
        Median of ``|operators + overhead - step| / step`` over five random halves of the sites and their
        other halves, the overhead (a constant) from the other half each time. NaN for a single site.
    noise : float or None
        Median over sites of the step's own standard deviation between repeats, relative.
    drift : float or None
        By how much the shared operators' sum differs between sites at which as many tokens pass: relative
        standard deviation.
    hooks : float
        By how much longer a step takes with hooks, relative, median over sites.
    """

    method: str
    stage: str
    n_sites: int
    operators: float
    overhead_ms: float
    error: float
    noise: float | None
    drift: float | None
    hooks: float

    @property
    def target(self) -> float:
        """The error that is allowed."""
        return TARGETS[self.stage]

    @property
    def within(self) -> bool:
        """Whether the error is within the target."""
        return self.error <= self.target


def step_sums(profiles: Mapping[str, Profile], *, seed: int = 0) -> list[StepSum]:
    """Check the sums of all methods and stages.

    Parameters
    ----------
    profiles : mapping of str to Profile
        By full method string; timed in place.
    seed : int
        Deals sites out to halves.
    """
    return [
        _step_sum(method, stage, profile, seed)
        for method, profile in profiles.items()
        for stage in STAGES
        if of_stage(profile.steps, stage).any()
    ]


def _step_sum(method: str, stage: str, profile: Profile, seed: int) -> StepSum:
    columns = at_rows(profile.steps, of_stage(profile.steps, stage))
    step, hooked, operators = (columns[time_column(name)] for name in (STEP, "hooked_step", OPERATORS))
    std = columns.get(time_column(STEP, "std"))
    rest = step - operators
    tests = halves(len(step), seed=seed) if len(step) > 1 else []
    errors = [_errors(operators, rest, step, test) for test in tests]
    return StepSum(
        method=method,
        stage=stage,
        n_sites=len(step),
        operators=float(np.median(operators / step)),
        overhead_ms=float(np.median(rest)),
        error=float(np.median(np.concatenate(errors))) if errors else float("nan"),
        noise=float(np.median(std / step)) if std is not None else None,
        drift=drift(profile, stage),
        hooks=float(np.median(hooked / step)) - 1.0,
    )


def _errors(operators: Floats, rest: Floats, step: Floats, test: NDArray[np.bool_]) -> Floats:
    """Return the sum's relative errors at the test sites, with an overhead that the others tell."""
    overhead = max(_constant(rest[~test], 1.0 / step[~test]), 0.0)
    return np.asarray(np.abs(operators + overhead - step)[test] / step[test])


def _constant(values: Floats, weights: Floats) -> float:
    """Return the weighted median: the constant with the least sum of weighted absolute errors."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])

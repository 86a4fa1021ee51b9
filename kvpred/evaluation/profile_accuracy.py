"""All that in-place profiles say of themselves: sums against steps, held-out operators, the premise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvpred.data.profiles import Profile
from kvpred.errors import DataError
from kvpred.evaluation.held_out_operators import MOST_NOISE, OperatorError, held_out_operators
from kvpred.evaluation.premise import MethodRatio, compare_methods
from kvpred.evaluation.step_sums import StepSum, step_sums
from kvpred.methods import BASELINE, get_method


@dataclass(frozen=True, slots=True)
class ProfileAccuracy:
    """What was found out about profiles of one model and device.

    Parameters
    ----------
    sums : tuple of StepSum
    operators : tuple of OperatorError
    premise : tuple of MethodRatio
        Empty if fp16's is the only profile.
    """

    sums: tuple[StepSum, ...]
    operators: tuple[OperatorError, ...]
    premise: tuple[MethodRatio, ...]

    def cells(self, split: str) -> list[HeldOutCell]:
        """Return the operators of a split by method and stage."""
        chosen = [one for one in self.operators if one.split == split]
        names = dict.fromkeys((one.method, one.stage) for one in chosen)
        return [
            _cell([one for one in chosen if (one.method, one.stage) == (method, stage)])
            for method, stage in names
        ]


@dataclass(frozen=True, slots=True)
class HeldOutCell:
    """The held-out operators of one method and stage.

    Parameters
    ----------
    method, stage, split : str
    n_operators, n_within : int
        How many there are, and how many of them are predicted within the noise that is allowed.
    share_within : float
        Of the operators' time, what those take.
    n_within_drift : int
        How many are predicted within as many times the noise and the drift between sites together.
    error : float
        Mean of the operators' median errors, each weighing as much as it takes of the step.
    worst : str
        The operator with the largest error times share.
    """

    method: str
    stage: str
    split: str
    n_operators: int
    n_within: int
    share_within: float
    n_within_drift: int
    error: float
    worst: str


def _cell(operators: Sequence[OperatorError]) -> HeldOutCell:
    share = np.array([one.share for one in operators])
    error = np.array([one.error for one in operators])
    within = np.array([bool(one.within) for one in operators])
    first = operators[0]
    return HeldOutCell(
        method=first.method,
        stage=first.stage,
        split=first.split,
        n_operators=len(operators),
        n_within=int(within.sum()),
        share_within=float(share[within].sum() / share.sum()),
        n_within_drift=sum((one.of_noise_and_drift or np.inf) <= MOST_NOISE for one in operators),
        error=float(np.average(error, weights=share)),
        worst=operators[int(np.argmax(error * share))].operator,
    )


def judge_profiles(profiles: Sequence[Profile], *, kind: str = "physics", seed: int = 0) -> ProfileAccuracy:
    """Judge profiles of one model and device.

    Parameters
    ----------
    profiles : sequence of Profile
        Timed in place, fp16's among them, one of each method.
    kind : str
        Regressor; see `kvpred.predictors.operators.fit_operators`.
    seed : int
        Deals sites out to halves and folds.

    Raises
    ------
    DataError
        If none is of fp16.
    """
    by_method = {get_method(profile.method).spec: profile for profile in profiles}
    if BASELINE not in by_method:
        raise DataError(f"none of the profiles is of {BASELINE}, whose shared operators serve all methods")
    ordered = {name: by_method[name] for name in sorted(by_method, key=lambda name: (name != BASELINE, name))}
    return ProfileAccuracy(
        sums=tuple(step_sums(ordered, seed=seed)),
        operators=tuple(held_out_operators(ordered, kind=kind, seed=seed)),
        premise=tuple(compare_methods(ordered)),
    )

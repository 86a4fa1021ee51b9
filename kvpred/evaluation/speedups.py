"""Whole steps of profiles against fp16's: speed-ups, how sure they are, and where they cross 1."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp, hypot

import numpy as np
from numpy.typing import NDArray

from kvpred.data.profiles import Manifest, Profile
from kvpred.evaluation.noise import median_noise
from kvpred.evaluation.profile_rows import rows_by_site, site_ms
from kvpred.evaluation.ranking import speedup_bounds, told_apart
from kvpred.methods import BASELINE, get_method
from kvpred.predictors.in_place import step_sites
from kvpred.profiling.grid import Site

# What two stacks must have in common for their steps to be compared, with its name for people.
_ALIKE = {
    "host": "host",
    "dtype": "data type",
    "threads": "threads",
    "n_layers": "layers",
    "weights": "weights",
    "versions": "versions",
}


@dataclass(frozen=True, slots=True)
class StepTime:
    """A whole step at one site.

    Parameters
    ----------
    method : str
        Full method string.
    site : Site
    step_ms : float
        Median over repeats, without hooks.
    hooked_ms, operators_ms : float or None
        The same with hooks, and the sum of all operators; None if nobody timed them.
    error : float
        Relative standard error of `step_ms`.
    speedup : float or None
        fp16's step over this one; None for fp16 itself, or where it was not measured alike.
    speedup_error : float or None
        Standard error of the speed-up's logarithm.
    """

    method: str
    site: Site
    step_ms: float
    hooked_ms: float | None
    operators_ms: float | None
    error: float
    speedup: float | None
    speedup_error: float | None

    @property
    def told_apart(self) -> int:
        """1 if faster than fp16 beyond the noise of both medians, -1 if slower, 0 if neither is sure."""
        return told_apart(self.speedup, self.speedup_error) or 0

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The speed-up less and plus two standard errors."""
        return speedup_bounds(self.speedup, self.speedup_error)


@dataclass(frozen=True, slots=True)
class Crossing:
    """One batch size's speed-up over the length: where it crosses 1, if it does.

    Parameters
    ----------
    method, stage : str
    bsz : int
    shortest, longest : int
        Lengths measured.
    sites, faster, slower : int
        Lengths, and those of them at which the method is faster or slower than fp16 beyond the noise.
    crosses_at : float or None
        Tokens, interpolated in the logarithms of speed-up and length.
    upward : bool or None
        Whether the method is the faster one beyond that length.
    certain : bool
        Whether the method is told apart from fp16 on both sides of the crossing.
    """

    method: str
    stage: str
    bsz: int
    shortest: int
    longest: int
    sites: int
    faster: int
    slower: int
    crosses_at: float | None
    upward: bool | None
    certain: bool


def differences(profile: Profile, baseline: Profile) -> list[str]:
    """Name what was not alike when two profiles' steps were timed."""
    empty = Manifest(model="-", device="-", method="-", method_params="-")
    own, other = profile.manifest or empty, baseline.manifest or empty
    return [name for field, name in _ALIKE.items() if getattr(own, field) != getattr(other, field)]


def step_times(profiles: Sequence[Profile], *, tp: int = 1) -> list[StepTime]:
    """Return the whole steps of profiles, and their speed-ups against fp16 where that was measured alike.

    The error of a median is estimated from the spread between its own repeats, and from those of all sites of
    its method and stage; the larger of the two is taken, for three or four repeats say little by themselves.

    Parameters
    ----------
    profiles : sequence of Profile
        Of one model and device, each of another method.
    tp : int
        Tensor-parallel degree whose rows to take.
    """
    timed = [profile for profile in profiles if rows_by_site(profile.steps, tp=tp)]
    if not timed:
        return []
    errors = _errors(timed, tp)
    baseline = next((profile for profile in timed if get_method(profile.method).spec == BASELINE), None)
    usual = _steps(baseline, tp) if baseline is not None else {}
    times = []
    for profile in timed:
        method = get_method(profile.method).spec
        alike = baseline is not None and profile is not baseline and not differences(profile, baseline)
        rows = rows_by_site(profile.steps, tp=tp)
        for site, step_ms in _steps(profile, tp).items():
            compared = alike and site in usual
            times.append(
                StepTime(
                    method=method,
                    site=site,
                    step_ms=step_ms,
                    hooked_ms=site_ms(profile.steps, "hooked_step", rows[site]),
                    operators_ms=site_ms(profile.steps, "operators", rows[site]),
                    error=errors[method, site],
                    speedup=usual[site] / step_ms if compared else None,
                    speedup_error=hypot(errors[method, site], errors[BASELINE, site]) if compared else None,
                )
            )
    return times


def _steps(profile: Profile, tp: int) -> dict[Site, float]:
    found = {
        s: site_ms(profile.steps, "step", rows) for s, rows in rows_by_site(profile.steps, tp=tp).items()
    }
    return {site: step_ms for site, step_ms in found.items() if step_ms is not None}


def _errors(profiles: Sequence[Profile], tp: int) -> dict[tuple[str, Site], float]:
    table = step_sites(profiles, tp=tp)
    # A profile states how far its own repeats scatter; all runs there could be scatter more (Bessel).
    table = replace(table, spread=table.spread * np.sqrt(table.count / np.maximum(table.count - 1, 1)))
    pooled = median_noise(table).error
    alone = [median_noise(table.select(np.array([row]))).error[0] for row in range(len(table))]
    keys = zip(
        table.method.tolist(),
        table.stage.tolist(),
        table.bsz.tolist(),
        table.prompt_len.tolist(),
        strict=True,
    )
    return {
        (method, Site(stage, bsz, length)): float(error)
        for (method, stage, bsz, length), error in zip(keys, np.maximum(pooled, alone), strict=True)
    }


def crossings(steps: Sequence[StepTime]) -> list[Crossing]:
    """Return where each method's speed-up crosses 1, by stage and batch size.

    A crossing is certain between two lengths at which the method is told apart from fp16, faster at one and
    slower at the other. Where there is none, a single change of sign is reported as uncertain, if the method
    is told apart at all. A curve without either gives one entry without a crossing.
    """
    curves: defaultdict[tuple[str, str, int], list[StepTime]] = defaultdict(list)
    for step in sorted(steps, key=lambda step: step.site.length):
        if step.speedup is not None:
            curves[step.method, step.site.stage, step.site.bsz].append(step)
    return [
        Crossing(
            method=method,
            stage=stage,
            bsz=bsz,
            shortest=curve[0].site.length,
            longest=curve[-1].site.length,
            sites=len(curve),
            faster=sum(step.told_apart > 0 for step in curve),
            slower=sum(step.told_apart < 0 for step in curve),
            crosses_at=at,
            upward=upward,
            certain=certain,
        )
        for (method, stage, bsz), curve in sorted(curves.items())
        for at, upward, certain in _changes(curve)
    ]


_Change = tuple[float | None, bool | None, bool]


def _changes(curve: Sequence[StepTime]) -> list[_Change]:
    """Return a curve's crossings: where, whether upward, and whether for certain."""
    gains = np.log([step.speedup or 1.0 for step in curve])
    places = np.log([step.site.length for step in curve])
    flips = np.flatnonzero((gains[:-1] > 0) != (gains[1:] > 0))
    told = [(row, step.told_apart) for row, step in enumerate(curve) if step.told_apart]
    certain: list[_Change] = []
    for (left, before), (right, after) in pairwise(told):
        if before != after:
            last = flips[(left <= flips) & (flips < right)][-1]
            certain.append((_zero(places, gains, last), after > 0, True))
    if certain:
        return certain
    if told and len(flips) == 1:
        return [(_zero(places, gains, flips[0]), bool(gains[-1] > 0), False)]
    return [(None, None, False)]


def _zero(places: NDArray[np.float64], gains: NDArray[np.float64], left: int) -> float:
    share = gains[left] / (gains[left] - gains[left + 1])
    return exp(places[left] + share * (places[left + 1] - places[left]))

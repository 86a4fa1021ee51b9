"""The premise that only attention differs between methods, tested on what was measured for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kvpred.data.profiles import Profile, time_column, timed_operators
from kvpred.evaluation.profile_tables import (
    Floats,
    RepeatNoise,
    of_stage,
    operator_share,
    pooled_repeats,
    repeat_noise,
    repeats,
    token_rows,
)
from kvpred.methods import BASELINE
from kvpred.predictors.greybox import STAGES
from kvpred.predictors.in_place import site_keys
from kvpred.predictors.operators import ATTENTION_OPERATORS
from kvpred.predictors.profiled import ONCE_PER_STEP

ALL_SHARED = "all shared"
ATTENTION = "attention and upkeep"
_STANDARD_ERRORS = 2.0
# The median of n normals varies sqrt(pi / 2) times as much as their mean.
_OF_MEDIAN = float(np.sqrt(np.pi / 2))


@dataclass(frozen=True, slots=True)
class MethodRatio:
    """A method's time of an operator over fp16's at the same points.

    Parameters
    ----------
    method, stage : str
    operator : str
        A shared operator; ``all shared``, their sum as a step runs them; or ``attention and upkeep``, the sum
        of the method's own.
    n_points : int
        Token counts, or sites, at which both were measured.
    share : float
        Of a step that it takes under the method, median over sites.
    ratio, low, high : float
        Median over points, and the range in which it lies as far as its scatter and the repeats' noise tell
        (two standard errors).
    least, most : float
        Smallest and largest ratio of any point.
    beyond : float
        Share of points whose ratio is farther from 1 than two standard deviations of the two medians' noise.
    """

    method: str
    stage: str
    operator: str
    n_points: int
    share: float
    ratio: float
    low: float
    high: float
    least: float
    most: float
    beyond: float

    @property
    def differs(self) -> bool:
        """Whether the method's time differs from fp16's by more than chance: as a whole or mostly."""
        return not self.low <= 1.0 <= self.high or self.beyond > 0.5

    @property
    def of_step(self) -> float:
        """By how much of a step's time taking fp16's time for the method's is wrong: positive, too short."""
        return self.share * (1.0 - 1.0 / self.ratio)


def compare_methods(profiles: Mapping[str, Profile]) -> list[MethodRatio]:
    """Compare what was timed under each method with what was timed under fp16, at the same points.

    Parameters
    ----------
    profiles : mapping of str to Profile
        By full method string, fp16's among them; each with its own ``mlp.csv``, timed in place.

    Returns
    -------
    list of MethodRatio
        For each method but fp16 and each stage: every shared operator, all of them together, and attention.
    """
    baseline = profiles[BASELINE]
    return [
        ratio
        for method, profile in profiles.items()
        if method != BASELINE
        for stage in STAGES
        for ratio in _ratios(method, stage, profile, baseline)
    ]


@dataclass(frozen=True, slots=True)
class _Times:
    """Times of one operator, or of several together, at the points of one stage."""

    at: dict[object, float]
    share: float
    noise: float


def _ratios(method: str, stage: str, profile: Profile, baseline: Profile) -> Iterator[MethodRatio]:
    own, base = (_shared_times(p, stage) for p in (profile, baseline))
    pairs = {operator: (own[operator], base[operator]) for operator in own if operator in base}
    if pairs:
        pairs[ALL_SHARED] = (_total(profile, own), _total(baseline, base))
    pairs[ATTENTION] = (_attention_times(profile, stage), _attention_times(baseline, stage))
    for operator, (times, base_times) in pairs.items():
        points = [point for point in times.at if point in base_times.at]
        if points:
            log_ratio = np.log([times.at[point] / base_times.at[point] for point in points])
            noise = float(np.hypot(times.noise, base_times.noise))
            yield _ratio((method, stage, operator), log_ratio, times.share, noise)


def _ratio(names: tuple[str, str, str], log_ratio: Floats, share: float, noise: float) -> MethodRatio:
    method, stage, operator = names
    middle, n_points = float(np.median(log_ratio)), len(log_ratio)
    error = _OF_MEDIAN * max(float(np.std(log_ratio)), noise) / np.sqrt(n_points)
    low, ratio, high, least, most = np.exp(
        [
            middle - _STANDARD_ERRORS * error,
            middle,
            middle + _STANDARD_ERRORS * error,
            log_ratio.min(),
            log_ratio.max(),
        ]
    ).tolist()
    beyond = float(np.mean(np.abs(log_ratio) > _STANDARD_ERRORS * noise))
    return MethodRatio(method, stage, operator, n_points, share, ratio, low, high, least, most, beyond)


def _shared_times(profile: Profile, stage: str) -> dict[str, _Times]:
    """Return each shared operator's ms of one call, by token count."""
    columns, rows, count = profile.mlp, token_rows(profile, stage), pooled_repeats(profile)
    found = {}
    for operator in timed_operators(columns):
        at = _positive(columns["num_tokens"][rows].tolist(), columns[time_column(operator)][rows])
        if at:
            noise = repeat_noise(columns, operator, rows, count=count)
            found[operator] = _Times(at, operator_share(profile, operator, stage), _median(noise))
    return found


def _total(profile: Profile, times: Mapping[str, _Times]) -> _Times:
    """Add shared operators up as a step runs them, at the token counts that have all of them."""
    layers = int(profile.steps["n_layers"][0])
    calls = {operator: 1 if operator in ONCE_PER_STEP else layers for operator in times}
    points = set.intersection(*(set(one.at) for one in times.values()))
    return _Times(
        {point: sum(calls[name] * one.at[point] for name, one in times.items()) for point in points},
        share=sum(one.share for one in times.values()),
        noise=float(np.median([one.noise for one in times.values()])),
    )


def _attention_times(profile: Profile, stage: str) -> _Times:
    """Return the sum of the method's own operators in one layer, by site; its noise is attention's."""
    columns = profile.attention
    rows = of_stage(columns, stage)
    operators = [operator for operator in timed_operators(columns) if operator in ATTENTION_OPERATORS]
    total = np.nansum([columns[time_column(operator)][rows] for operator in operators], axis=0)
    keys = [key for key, kept in zip(site_keys(columns), rows.tolist(), strict=True) if kept]
    shares = [operator_share(profile, operator, stage) for operator in operators]
    count = np.full(len(rows), repeats(profile))
    noise = repeat_noise(columns, f"attn_{stage}", rows, count=count)
    return _Times(_positive(keys, total), float(np.nansum(shares)), _median(noise))


def _positive(keys: Sequence[object], time_ms: Floats) -> dict[object, float]:
    return {key: ms for key, ms in zip(keys, time_ms.tolist(), strict=True) if ms > 0}


def _median(noise: RepeatNoise | None) -> float:
    return noise.median if noise is not None else 0.0

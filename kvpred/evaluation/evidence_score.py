"""Is the direction that we predict, faster or slower than 16 bit, the one that others measured?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import log
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kvpred.data.evidence import Evidence
from kvpred.errors import NotCoveredError, UsageError
from kvpred.hardware import list_engine_specs
from kvpred.hardware.catalogue import CATALOGUE as DEVICES
from kvpred.models.catalogue import CATALOGUE as MODELS
from kvpred.predictors.estimate import predict
from kvpred.predictors.predictor import Predictor

_T = TypeVar("_T")

SPEED = ("prefill", "decode", "e2e")
# Differences no larger than this have no direction: repeats of one measurement scatter by as much.
NO_DIFFERENCE = 0.03
_RESAMPLES = 2000
# Formats of weights that are 16 bit; where a source does not say, its engine's default is taken, which is.
_FULL_WEIGHTS = ("", "bf16", "fp16")


@dataclass(frozen=True, slots=True)
class Judged:
    """A published measurement beside the prediction for it.

    Parameters
    ----------
    row : Evidence
    basis : str
        Of the prediction.
    predicted : float
        fp16's time over the method's.
    """

    row: Evidence
    basis: str
    predicted: float

    @property
    def right(self) -> bool:
        """Whether both are faster than 16 bit, or both slower."""
        return log(self.predicted) * log(self.row.ratio_better) > 0


@dataclass(frozen=True, slots=True)
class Score:
    """How often the direction was right; every source weighs the same, however many rows it has.

    Parameters
    ----------
    group : str
        What the rows have in common, such as ``stage decode``.
    n_rows, n_sources : int
    right, low, high : float or None
        Share right, and its interval from resampling sources; none where there is but one source.
    always_slower, always_faster : float
        What the two guesses without any model score on the same rows. "Always faster" is also what fewer
        bytes to read say.
    """

    group: str
    n_rows: int
    n_sources: int
    right: float
    low: float | None
    high: float | None
    always_slower: float
    always_faster: float


@dataclass(frozen=True, slots=True)
class Said:
    """What the published measurements themselves say of a stage or method; every source weighs the same.

    Parameters
    ----------
    group : str
    n_rows, n_sources : int
    slower, same, faster : float
        Shares, with `NO_DIFFERENCE` as the edge.
    """

    group: str
    n_rows: int
    n_sources: int
    slower: float
    same: float
    faster: float


@dataclass(frozen=True, slots=True)
class EvidenceScore:
    """Every judged row, the scores, what all rows say, and why the others could not be judged."""

    judged: tuple[Judged, ...]
    scores: tuple[Score, ...]
    said: tuple[Said, ...]
    left_out: dict[str, int]
    level: float


def score_evidence(
    rows: Sequence[Evidence], predictor: Predictor, *, level: float = 0.9, seed: int = 0
) -> EvidenceScore:
    """Compare predicted with published directions.

    Parameters
    ----------
    rows : sequence of Evidence
    predictor : Predictor
    level : float
        Of the bootstrap's intervals.
    seed : int
    """
    reasons: Counter[str] = Counter()
    judged = []
    for row in rows:
        found = _judge(row, predictor)
        if isinstance(found, Judged):
            judged.append(found)
        else:
            reasons[found] += 1
    groups: dict[str, list[Judged]] = defaultdict(list)
    for one in judged:
        method = one.row.method.partition(":")[0]
        for name in ("all", f"stage {one.row.stage}", f"basis {one.basis}", f"method {method}"):
            groups[name].append(one)
        if abs(log(one.predicted)) > log(1 + NO_DIFFERENCE):
            groups[f"predicted beyond {NO_DIFFERENCE:.0%}"].append(one)
    scores = tuple(_score(name, group, level=level, seed=seed) for name, group in sorted(groups.items()))
    return EvidenceScore(tuple(judged), scores, _said(rows), dict(reasons.most_common()), level)


def _judge(row: Evidence, predictor: Predictor) -> Judged | str:
    """Return a row beside its prediction, or why it has none."""
    reason = _why_not(row)
    if reason is not None:
        return reason
    try:
        estimate = predict(
            method=row.method,
            bsz=row.bsz or 1,
            # An empty context is published as 0 tokens.
            prompt_len=row.prompt_len or 1,
            output_len=row.output_len or 1,
            predictor=predictor,
            model=row.model,
            device=row.device,
            engine=row.engine,
            tp=row.tp or 1,
        )
    except (NotCoveredError, UsageError):
        return "no basis for a prediction"
    return Judged(row, estimate.basis, float(estimate.speedup_vs_fp16[row.stage]))


def _why_not(row: Evidence) -> str | None:
    """Return the first reason for which there is no direction or no prediction."""
    engines = {spec.name for spec in list_engine_specs()}
    sizes = [row.tp, row.bsz, row.prompt_len, *([row.output_len] if row.stage == "e2e" else [])]
    checks = {
        "tells of memory, not of speed": row.stage in SPEED,
        f"within {NO_DIFFERENCE:.0%} of the 16-bit cache: no direction": (
            abs(log(row.ratio_better)) > log(1 + NO_DIFFERENCE)
        ),
        "the method has no counterpart": bool(row.method),
        "the engine is not one of ours": row.engine in engines,
        "the weights are not 16 bit": row.weights in _FULL_WEIGHTS,
        "the model is not given, or not one that kvpred models": row.model in MODELS,
        "the device is not given, or its numbers are not known": row.device in DEVICES,
        "batch, length or number of devices is not given": None not in sizes,
    }
    return next((reason for reason, holds in checks.items() if not holds), None)


def _score(group: str, judged: Sequence[Judged], *, level: float, seed: int) -> Score:
    sources = _by_source(judged, lambda one: one.row.source_url)
    right = _shares(sources, lambda one: one.right)
    slower = _shares(sources, lambda one: one.row.ratio_better < 1)
    faster = _shares(sources, lambda one: one.row.ratio_better > 1)
    low = high = None
    if len(right) > 1:
        drawn = np.random.default_rng(seed).integers(len(right), size=(_RESAMPLES, len(right)))
        low, high = np.quantile(right[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Score(
        group=group,
        n_rows=len(judged),
        n_sources=len(sources),
        right=float(right.mean()),
        low=low,
        high=high,
        always_slower=float(slower.mean()),
        always_faster=float(faster.mean()),
    )


def _said(rows: Iterable[Evidence]) -> tuple[Said, ...]:
    groups: dict[str, list[Evidence]] = defaultdict(list)
    for row in rows:
        if row.stage in SPEED:
            groups[f"stage {row.stage}"].append(row)
            groups[f"method {row.method.partition(':')[0] or 'without counterpart'}"].append(row)
    edge = log(1 + NO_DIFFERENCE)
    found = []
    for name, group in sorted(groups.items()):
        sources = _by_source(group, lambda row: row.source_url)
        slower = float(_shares(sources, lambda row: log(row.ratio_better) < -edge).mean())
        faster = float(_shares(sources, lambda row: log(row.ratio_better) > edge).mean())
        found.append(Said(name, len(group), len(sources), slower, 1 - slower - faster, faster))
    return tuple(found)


def _shares(sources: Sequence[Sequence[_T]], holds: Callable[[_T], bool]) -> NDArray[np.float64]:
    """Return the share of each source's rows of which something holds."""
    return np.array([np.mean([holds(row) for row in own]) for own in sources])


def _by_source(rows: Iterable[_T], source: Callable[[_T], str]) -> list[list[_T]]:
    by_source: dict[str, list[_T]] = defaultdict(list)
    for row in rows:
        by_source[source(row)].append(row)
    return list(by_source.values())

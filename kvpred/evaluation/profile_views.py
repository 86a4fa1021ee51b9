"""All that the operator profiles of one model and device show, and each method and stage in a line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from kvpred.evaluation.profile_parts import AttentionTime, Composition
from kvpred.evaluation.speedups import Crossing, StepTime
from kvpred.profiling.grid import Site


@dataclass(frozen=True, slots=True)
class MethodSummary:
    """One method and stage in a line; None for what was not measured.

    Parameters
    ----------
    method, stage : str
    sites : int
    at : Site or None
        The largest site that all methods have: the next three are of it.
    attention_ms : float or None
        One layer's attention.
    roofline_share : float or None
        The least time that it needs over the time that it takes.
    attention_share : float or None
        Of attention and its upkeep in the step.
    speedup : float or None
        Median over the sites.
    faster, slower : int or None
        Sites with a step faster or slower than fp16's beyond the noise.
    explained : float or None
        Sum of the operators over the step, median over the sites.
    hooks : float or None
        What hooks add to a step, relative, median over the sites.
    """

    method: str
    stage: str
    sites: int
    at: Site | None
    attention_ms: float | None
    roofline_share: float | None
    attention_share: float | None
    speedup: float | None
    faster: int | None
    slower: int | None
    explained: float | None
    hooks: float | None


@dataclass(frozen=True, slots=True)
class ProfileViews:
    """All that the profiles of one model and device show.

    Parameters
    ----------
    title : str
        What was profiled on what.
    caption : str
        Host, stack and repeats, in a line.
    notes : tuple of str
        What a reader must know, a sentence each.
    attention : tuple of AttentionTime
    compositions : tuple of Composition
    steps : tuple of StepTime
    crossings : tuple of Crossing
    summaries : tuple of MethodSummary
    noise : mapping of str to mapping of str to float
        Relative spread between repeats, by method and operator.
    """

    title: str
    caption: str
    notes: tuple[str, ...]
    attention: tuple[AttentionTime, ...]
    compositions: tuple[Composition, ...]
    steps: tuple[StepTime, ...]
    crossings: tuple[Crossing, ...]
    summaries: tuple[MethodSummary, ...]
    noise: Mapping[str, Mapping[str, float]]

    @property
    def whole(self) -> str:
        """What shares are of."""
        return "step" if self.steps else "operators' sum"


def summarise(
    attention: Sequence[AttentionTime], compositions: Sequence[Composition], steps: Sequence[StepTime]
) -> list[MethodSummary]:
    """Return one line per stage and method."""
    stages = sorted({time.site.stage for time in attention})
    keys = [(name, stage) for stage in stages for name in dict.fromkeys(time.method for time in attention)]
    largest = {stage: largest_common(attention, stage) for stage in stages}
    return [
        _summary(
            method,
            stage,
            at=largest[stage],
            attention={t.site: t for t in attention if (t.method, t.site.stage) == (method, stage)},
            shares={c.site: c.attention_share for c in compositions if c.method == method},
            steps=[s for s in steps if (s.method, s.site.stage) == (method, stage)],
        )
        for method, stage in keys
    ]


def largest_common(items: Iterable[AttentionTime | Composition | StepTime], stage: str) -> Site | None:
    """Return the site of a stage with the most tokens among those that every method has, if there is one."""
    sites: dict[str, set[Site]] = {}
    for item in items:
        if item.site.stage == stage:
            sites.setdefault(item.method, set()).add(item.site)
    shared = set.intersection(*sites.values()) if sites else set()
    return max(shared, key=lambda site: (site.bsz * site.length, site.length), default=None)


def _summary(
    method: str,
    stage: str,
    *,
    at: Site | None,
    attention: Mapping[Site, AttentionTime],
    shares: Mapping[Site, float],
    steps: Sequence[StepTime],
) -> MethodSummary:
    there = attention[at] if at is not None else None
    compared = [step for step in steps if step.speedup is not None]
    return MethodSummary(
        method=method,
        stage=stage,
        sites=len(attention),
        at=at,
        attention_ms=there.attention_ms if there else None,
        roofline_share=there.roofline_ms / there.attention_ms if there and there.roofline_ms else None,
        attention_share=shares.get(at) if at is not None else None,
        speedup=_median(step.speedup for step in compared),
        faster=sum(step.told_apart > 0 for step in compared) if compared else None,
        slower=sum(step.told_apart < 0 for step in compared) if compared else None,
        explained=_median(step.operators_ms / step.step_ms for step in steps if step.operators_ms),
        hooks=_median(step.hooked_ms / step.step_ms - 1 for step in steps if step.hooked_ms),
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None

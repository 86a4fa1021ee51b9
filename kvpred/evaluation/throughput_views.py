"""What the throughput of measured runs shows: wins and losses against fp16, engines side by side."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from kvpred.data.sites import RunSite
from kvpred.evaluation.throughput import Setting, Throughput


@dataclass(frozen=True, slots=True)
class Tally:
    """How often a speed-up beats the noise, over cases: a method at a site each.

    Parameters
    ----------
    cases : int
        Those with a speed-up.
    median : float
        Of the speed-ups.
    lowest, highest : Throughput
        The cases of the least and the greatest speed-up.
    faster, slower, within : int
        Cases faster or slower than fp16 beyond the noise, and those that are neither.
    unknown : int
        Cases whose noise nobody knows, because nothing was repeated.
    below : int
        Cases with a speed-up under 1, whatever the noise.
    """

    cases: int
    median: float
    lowest: Throughput
    highest: Throughput
    faster: int
    slower: int
    within: int
    unknown: int
    below: int


def tally(cases: Iterable[Throughput]) -> Tally | None:
    """Count the cases that have a speed-up; None if there are none."""
    known = [(case.speedup, case) for case in cases if case.speedup is not None]
    if not known:
        return None
    signs = Counter(case.told_apart for _, case in known)
    return Tally(
        cases=len(known),
        median=median(speedup for speedup, _ in known),
        lowest=min(known, key=lambda pair: pair[0])[1],
        highest=max(known, key=lambda pair: pair[0])[1],
        faster=signs[1],
        slower=signs[-1],
        within=signs[0],
        unknown=signs[None],
        below=sum(speedup < 1 for speedup, _ in known),
    )


Side = Mapping[Setting, Sequence[Throughput]]
"""One method and stage, setting by setting, at the sites that all of these settings have."""


def side_by_side(cases: Iterable[Throughput]) -> dict[tuple[str, str], Side]:
    """Return, by stage and method, the cases with a speed-up at the sites that several settings share.

    Methods of a single setting are left out, and those whose settings have no site in common. Settings that
    share none with the others are left out too.
    """
    groups: defaultdict[tuple[str, str], defaultdict[Setting, dict[RunSite, Throughput]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for case in cases:
        if case.speedup is not None:
            groups[case.stage, case.method][case.setting][case.site] = case
    sides: dict[tuple[str, str], Side] = {}
    for key, settings in sorted(groups.items()):
        shared = _most_shared(settings)
        if shared:
            both = {name: own for name, own in settings.items() if all(site in own for site in shared)}
            sides[key] = {setting: [own[site] for site in shared] for setting, own in both.items()}
    return sides


def _most_shared(settings: Mapping[Setting, Mapping[RunSite, Throughput]]) -> list[RunSite]:
    """Return the sites that all settings share; without any, those of the pair that shares most."""
    if len(settings) < 2:
        return []
    everywhere = set.intersection(*map(set, settings.values()))
    pairs = [set(one) & set(other) for one, other in combinations(settings.values(), 2)]
    most = max(pairs, key=len)
    return sorted(everywhere or most)


def where(settings: Iterable[Setting]) -> str:
    """Say on which devices and hosts that was.

    Examples
    --------
    >>> where([Setting("openvino", "cpu", "lab"), Setting("llamacpp", "cpu", "lab")])
    'cpu (lab)'
    """
    places = sorted({f"{setting.device} ({setting.host or 'host not named'})" for setting in settings})
    return " and ".join(places)


@dataclass(frozen=True, slots=True)
class ThroughputViews:
    """What measured runs show.

    Parameters
    ----------
    model : str
    notes : tuple of str
        What a reader must know first, a sentence each.
    cases : tuple of Throughput
    names : mapping of Setting to str
        What to call each setting, by which they differ.
    sides : mapping
        See `side_by_side`.
    """

    model: str
    notes: tuple[str, ...]
    cases: tuple[Throughput, ...]
    names: Mapping[Setting, str]
    sides: Mapping[tuple[str, str], Side]

    def of(
        self, setting: Setting, *, stage: str | None = None, method: str | None = None
    ) -> list[Throughput]:
        """Return a setting's cases, of one stage or method where asked."""
        return [
            case
            for case in self.cases
            if case.setting == setting and stage in (None, case.stage) and method in (None, case.method)
        ]

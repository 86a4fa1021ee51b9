"""Samples that compression breaks: benign ones, which the baseline answers well, and the negative among them.

Algorithm 1 of the paper behind github.com/LLMkvsys/rethink-kv-compression (MLSys 2025).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from kvpred.data.longbench import DATASETS, Task
from kvpred.data.scores import ScoreRun
from kvpred.errors import DataError, UsageError

RESAMPLES = 1000
# The published script's list of datasets names this one twice, so each of its samples counts twice there.
_LISTED_TWICE = "passage_count"


class Center(StrEnum):
    """What a benign sample's baseline score reaches, of all in its dataset."""

    median = "median"
    mean = "mean"


class Definition(StrEnum):
    """How negative samples are counted: by the paper's algorithm, or as its published script does."""

    algorithm = "algorithm"
    artifact = "artifact"


_CENTERS: Mapping[Center, Callable[[Iterable[float]], float]] = {
    Center.median: statistics.median,
    # Exact, so that equal scores have their own value as the mean.
    Center.mean: statistics.mean,
}


@dataclass(frozen=True, slots=True)
class DatasetNegatives:
    """The negative samples of one dataset.

    Parameters
    ----------
    dataset : str
    ids : tuple of str
        Of all samples.
    samples : int
        How many these are.
    benign, negative : tuple of str
        Their ids; negative samples are benign.
    listed : int
        Times that the published script takes it: 2 for a dataset that it lists twice, else 1.
    """

    dataset: str
    ids: tuple[str, ...]
    samples: int
    benign: tuple[str, ...]
    negative: tuple[str, ...]
    listed: int


@dataclass(frozen=True, slots=True)
class Negatives:
    """The samples that every one of some methods breaks.

    Parameters
    ----------
    methods : tuple of str
        Names of the runs.
    threshold : float
        Share of the baseline's score, of which a negative sample loses at least as much.
    datasets : tuple of DatasetNegatives
        That all runs have, by name.
    missing : tuple of str
        Datasets that some of the runs have, but not all.
    """

    methods: tuple[str, ...]
    threshold: float
    datasets: tuple[DatasetNegatives, ...]
    missing: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of negative samples."""
        return sum(self.by_dataset().values())

    @property
    def listed_count(self) -> int:
        """Number as the published script adds it up: a dataset that it lists twice counts twice."""
        return sum(part.listed * len(part.negative) for part in self.datasets)

    @property
    def benign_count(self) -> int:
        """Number of benign samples."""
        return sum(len(part.benign) for part in self.datasets)

    @property
    def samples(self) -> int:
        """Number of all samples."""
        return sum(part.samples for part in self.datasets)

    def by_dataset(self) -> dict[str, int]:
        """Return the number of negative samples of each dataset."""
        return {part.dataset: len(part.negative) for part in self.datasets}

    def by_task(self) -> dict[Task, int]:
        """Return the number of negative samples of each task that there is a dataset of."""
        counts = self.by_dataset()
        return {
            task: sum(count for dataset, count in counts.items() if DATASETS[dataset].task is task)
            for task in Task
            if any(DATASETS[dataset].task is task for dataset in counts)
        }


def find_negatives(
    baseline: ScoreRun,
    methods: Sequence[ScoreRun],
    *,
    threshold: float,
    center: Center = Center.median,
    definition: Definition = Definition.algorithm,
) -> Negatives:
    """Find the benign samples, and those of them that every method breaks.

    A sample is benign if its baseline score b is at least the centre of its dataset and above 0 (by the
    published script: or 0), and negative if c <= b * (1 - threshold) for the score c of every method.

    Parameters
    ----------
    baseline : ScoreRun
    methods : sequence of ScoreRun
        With the baseline's samples in each dataset that both have.
    threshold : float
        Between 0 and 1.
    center : Center
        Of all the baseline's scores on a dataset.
    definition : Definition

    Raises
    ------
    UsageError
        If there is no method, or the threshold is out of range.
    DataError
        If no dataset is in every run, or a dataset's samples differ.

    Examples
    --------
    >>> fp16 = ScoreRun("fp16", {"trec": {"0": 1.0, "1": 0.5, "2": 0.0}})
    >>> kivi = ScoreRun("kivi", {"trec": {"0": 0.5, "1": 0.5, "2": 0.0}})
    >>> find_negatives(fp16, [kivi], threshold=0.1).by_dataset()
    {'trec': 1}
    """
    if not methods:
        raise UsageError("no method whose negative samples to find")
    if not 0 < threshold < 1:
        raise UsageError(f"threshold {threshold:g}: give a share above 0 and below 1")
    runs = (baseline, *methods)
    everywhere = [name for name in DATASETS if all(name in run.scores for run in runs)]
    if not everywhere:
        raise DataError(f"no dataset that all of {', '.join(run.name for run in runs)} have")
    return Negatives(
        methods=tuple(run.name for run in methods),
        threshold=threshold,
        datasets=tuple(
            _of_dataset(name, baseline, methods, threshold=threshold, center=center, definition=definition)
            for name in everywhere
        ),
        missing=tuple(
            name for name in DATASETS if name not in everywhere and any(name in run.scores for run in runs)
        ),
    )


def _of_dataset(
    dataset: str,
    baseline: ScoreRun,
    methods: Sequence[ScoreRun],
    *,
    threshold: float,
    center: Center,
    definition: Definition,
) -> DatasetNegatives:
    scores = baseline.scores[dataset]
    for run in methods:
        if differing := scores.keys() ^ run.scores[dataset].keys():
            raise DataError(
                f"{dataset}: only one of {baseline.name} and {run.name} has id {min(differing)!r}"
            )
    published = definition is Definition.artifact
    middle = _CENTERS[center](scores.values())
    benign = tuple(key for key, b in scores.items() if b >= middle and (published or b > 0))
    own = [run.scores[dataset] for run in methods]
    return DatasetNegatives(
        dataset=dataset,
        ids=tuple(scores),
        samples=len(scores),
        benign=benign,
        negative=tuple(key for key in benign if all(cs[key] <= scores[key] * (1 - threshold) for cs in own)),
        listed=2 if published and dataset == _LISTED_TWICE else 1,
    )


def mean_score(run: ScoreRun, datasets: Iterable[str]) -> float:
    """Return the mean of a run's mean scores on datasets."""
    return statistics.fmean(statistics.fmean(run.scores[dataset].values()) for dataset in datasets)


@dataclass(frozen=True, slots=True, eq=False)
class NegativeStudy:
    """The negative samples of several methods, alone and together, at several thresholds.

    Parameters
    ----------
    baseline : ScoreRun
    runs : mapping of str to ScoreRun
        The methods', by name.
    thresholds : tuple of float
    groups : mapping of str to tuple of str
        Of each label, the runs whose negative samples are counted together.
    cells : mapping of (str, float) to Negatives
        By label and threshold.
    intervals : mapping of (str, float) to (float, float)
        Of each count, from samples drawn anew within each dataset.
    level : float
        Of the intervals.
    center : Center
    definition : Definition
    notes : tuple of str
        What a reader must know, a sentence each.
    """

    baseline: ScoreRun
    runs: Mapping[str, ScoreRun]
    thresholds: tuple[float, ...]
    groups: Mapping[str, tuple[str, ...]]
    cells: Mapping[tuple[str, float], Negatives]
    intervals: Mapping[tuple[str, float], tuple[float, float]]
    level: float
    center: Center
    definition: Definition
    notes: tuple[str, ...]


def study_negatives(
    baseline: ScoreRun,
    runs: Mapping[str, ScoreRun],
    *,
    groups: Mapping[str, Sequence[str]],
    thresholds: Sequence[float],
    center: Center = Center.median,
    definition: Definition = Definition.algorithm,
    level: float = 0.9,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> NegativeStudy:
    """Count the negative samples of groups of methods at thresholds.

    Parameters
    ----------
    baseline : ScoreRun
    runs : mapping of str to ScoreRun
    groups : mapping of str to sequence of str
        Of each label, the names of runs; of a method alone, one name.
    thresholds : sequence of float
    center : Center
    definition : Definition
    level : float
        Of the intervals.
    seed : int
        Of the samples drawn anew.
    notes : sequence of str
        What else a reader must know.

    Raises
    ------
    UsageError, DataError
        See `find_negatives`.
    """
    chosen = tuple(dict.fromkeys(thresholds))
    cells = {
        (label, threshold): find_negatives(
            baseline,
            [runs[name] for name in names],
            threshold=threshold,
            center=center,
            definition=definition,
        )
        for label, names in groups.items()
        for threshold in chosen
    }
    return NegativeStudy(
        baseline=baseline,
        runs=runs,
        thresholds=chosen,
        groups={label: tuple(names) for label, names in groups.items()},
        cells=cells,
        intervals={key: _interval(found, level=level, seed=seed) for key, found in cells.items()},
        level=level,
        center=center,
        definition=definition,
        notes=(*notes, *_notes(baseline, runs, center=center, definition=definition, level=level)),
    )


def _interval(found: Negatives, *, level: float, seed: int) -> tuple[float, float]:
    """Return the interval of a count, the centres kept.

    Of n samples drawn anew from n with k negative ones, a binomial number is negative.
    """
    rng = np.random.default_rng(seed)
    drawn = np.zeros(RESAMPLES)
    for part in found.datasets:
        share = len(part.negative) / part.samples
        drawn += rng.binomial(part.samples, share, size=RESAMPLES)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _notes(
    baseline: ScoreRun,
    runs: Mapping[str, ScoreRun],
    *,
    center: Center,
    definition: Definition,
    level: float,
) -> Iterator[str]:
    everyone = {baseline.name: baseline, **runs}
    for dataset in DATASETS:
        lacking = [name for name, run in everyone.items() if dataset not in run.scores]
        if lacking and len(lacking) < len(everyone):
            yield f"{dataset} is missing from {', '.join(lacking)}: left out where one of these is counted."
    reach = f"the baseline's score reaches the {center} of its dataset"
    if definition is Definition.algorithm:
        yield f"Benign: {reach} and is above 0."
    else:
        yield f"Counted as the published script does. Benign: {reach}, be it 0."
        if _LISTED_TWICE in baseline.scores:
            yield f"The published list names {_LISTED_TWICE} twice; here it counts once."
    yield (
        f"Intervals of {100 * level:.0f} % come of samples drawn anew within each dataset; what counts as "
        "benign is kept."
    )

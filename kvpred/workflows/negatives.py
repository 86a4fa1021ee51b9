"""From a folder of scores to the samples that compression breaks, and to other runs' scores on these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from kvpred.data.scores import ScoreRun, find_run, read_score_runs, run_labels, score_files, score_path
from kvpred.errors import DataError, UsageError
from kvpred.evaluation.negative_benchmark import BenchmarkScore, missing_items, read_benchmark, score_on
from kvpred.evaluation.negatives import Center, Definition, NegativeStudy, study_negatives
from kvpred.predictors.crossval import check_level

ALL = "all"
"""Stands for every run but the baseline's."""

# Label of what all methods break.
_TOGETHER = "all methods"
# How runs of the uncompressed cache are named.
_BASELINES = ("hf", "fp16")
# Ids that are named where many could be.
_NAMED = 20


def study_folder(
    folder: Path,
    *,
    baseline: str | None = None,
    methods: Sequence[str] = (),
    groups: Mapping[str, Sequence[str]] | None = None,
    thresholds: Sequence[float],
    center: Center = Center.median,
    definition: Definition = Definition.algorithm,
    skip_missing: bool = False,
    level: float = 0.9,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> NegativeStudy:
    """Count the samples that runs break, each alone, all together, and in groups.

    Parameters
    ----------
    folder : Path
        Of files ``<run>_<dataset>_eval.json``.
    baseline : str, optional
        Run to compare with; the only one that is named hf... or fp16..., if not given.
    methods : sequence of str
        Runs, as `kvpred.data.scores.find_run` takes them; or `ALL`.
    groups : mapping of str to sequence of str, optional
        Runs whose common negative samples are counted, by a label; they are counted alone too.
    thresholds : sequence of float
        Shares of the baseline's score.
    center : Center
    definition : Definition
    skip_missing : bool
        Leave out samples and datasets that not all of these runs have.
    level : float
        Of the intervals.
    seed : int
        Of the samples drawn anew.
    progress : callable
        Told in a sentence what is read.

    Raises
    ------
    UsageError
        If a run is unknown, or the request makes no sense otherwise.
    DataError
        If a file is wrong, there is no baseline, or runs differ in their samples.
    """
    check_level(level)
    names = list(score_files(folder))
    base = _baseline(folder, names) if baseline is None else find_run(baseline, names)
    others = [name for name in names if name != base]
    given = _chosen(methods, names, every=others)
    named = {label: _chosen(members, names, every=others) for label, members in (groups or {}).items()}
    wanted = list(dict.fromkeys([*given, *(name for members in named.values() for name in members)]))
    if not wanted:
        raise UsageError("no method: give --method RUN, --method all, or --group NAME=RUN+RUN")
    if base in wanted:
        raise UsageError(f"{base} is the baseline, so it cannot be a method; --baseline names another")
    runs = read_score_runs(folder, [base, *wanted])
    n_files = sum(len(run.scores) for run in runs.values())
    progress(f"{len(wanted)} runs against {base}: {n_files} files of scores")
    runs, left_out = _same_samples(runs, folder=folder, skip_missing=skip_missing)
    together = given if _shared_datasets(runs, [base, *given]) else []
    if len(given) > len(together):
        left_out.append("No dataset is in every run: what all methods break is not counted.")
    labels = run_labels(names)
    try:
        return study_negatives(
            runs[base],
            {name: runs[name] for name in wanted},
            groups=_groups({labels[name]: [name] for name in wanted}, together, named),
            thresholds=thresholds,
            center=center,
            definition=definition,
            level=level,
            seed=seed,
            notes=left_out,
        )
    except DataError as error:
        raise DataError(str(error), path=folder) from error


def _baseline(folder: Path, names: Sequence[str]) -> str:
    found = [name for name in names if name.startswith(_BASELINES)]
    if not found:
        raise DataError(
            f"no baseline: no run is named {'... or '.join(_BASELINES)}..., only {', '.join(names)}; "
            "name one with --baseline",
            path=folder,
        )
    if len(found) > 1:
        raise UsageError(
            f"several runs could be the baseline: name one of {', '.join(found)} with --baseline"
        )
    return found[0]


def _chosen(specs: Iterable[str], names: Sequence[str], *, every: Sequence[str]) -> list[str]:
    """Return the runs that are meant, each once; `ALL` stands for `every`."""
    whole = ALL not in names
    found = [every if whole and spec == ALL else [find_run(spec, names)] for spec in specs]
    return list(dict.fromkeys(name for part in found for name in part))


def _shared_datasets(runs: Mapping[str, ScoreRun], names: Iterable[str]) -> set[str]:
    return set.intersection(*(set(runs[name].scores) for name in names))


def _groups(
    alone: Mapping[str, Sequence[str]], together: Sequence[str], named: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[str]]:
    """Return all groups by label: each run alone, all together, and those that have a name."""
    groups = dict(alone)
    if len(together) > 1 and _TOGETHER not in named:
        groups[_TOGETHER] = together
    for label, members in named.items():
        if label in alone:
            raise UsageError(f"--group {label}: this is a run's name; choose another")
        groups[label] = members
    return groups


def score_benchmark(
    folder: Path,
    benchmark: Path,
    methods: Sequence[str],
    *,
    skip_missing: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> list[BenchmarkScore]:
    """Average runs' scores on a benchmark of negative samples: over all, by task and by dataset.

    Parameters
    ----------
    folder : Path
        Of files ``<run>_<dataset>_eval.json``.
    benchmark : Path
        See `kvpred.evaluation.negative_benchmark.write_benchmark`.
    methods : sequence of str
        Runs; or `ALL`.
    skip_missing : bool
        Leave out samples that a run lacks.
    progress : callable
        Told in a sentence what is left out.

    Raises
    ------
    UsageError
        If a run is unknown, or none is given.
    DataError
        If a file is wrong, or a run lacks a sample and `skip_missing` is not set, or has none.
    """
    items = read_benchmark(benchmark)
    known = list(score_files(folder))
    every = [name for name in known if not name.startswith(_BASELINES)]
    names = _chosen(methods, known, every=every)
    if not names:
        raise UsageError("no method to score: give --method RUN, or --method all")
    found = []
    for run in read_score_runs(folder, names).values():
        if missing := missing_items(items, run):
            first = missing[0]
            what = f"{len(missing)} of {len(items)} samples of {benchmark}"
            if not skip_missing or len(missing) == len(items):
                hint = "; --skip-missing leaves such samples out" if len(missing) < len(items) else ""
                raise DataError(
                    f"{run.name} lacks {what}, id {first.id!r} of {first.dataset} first{hint}",
                    path=score_path(folder, run.name, first.dataset),
                )
            ids = _listed([f"{item.dataset} {item.id}" for item in missing])
            progress(f"left out of {run.name}'s scores: {what}: {ids}")
        found += score_on(items, run)
    return found


def _same_samples(
    runs: Mapping[str, ScoreRun], *, folder: Path, skip_missing: bool
) -> tuple[dict[str, ScoreRun], list[str]]:
    """Return runs with the same samples in each dataset, in the first one's order, and what was left out."""
    left_out: list[str] = []
    kept: dict[str, list[str]] = {}
    for dataset in dict.fromkeys(dataset for run in runs.values() for dataset in run.scores):
        own = {name: run.scores[dataset] for name, run in runs.items() if dataset in run.scores}
        every = list(dict.fromkeys(key for scores in own.values() for key in scores))
        lacking = [name for name in runs if name not in own]
        if skip_missing and lacking:
            count = f"{len(every)} sample{'s' * (len(every) > 1)}"
            left_out.append(f"Left out: {dataset} ({count}), missing from {', '.join(lacking)}.")
            continue
        shared = set.intersection(*(set(scores) for scores in own.values()))
        others = [key for key in every if key not in shared]
        if others and not skip_missing:
            raise _different(own, others, dataset, folder)
        if others:
            left_out.append(f"Left out: of {dataset} {_listed(others)} that not all runs have.")
        kept[dataset] = [key for key in every if key in shared]
    if not any(kept.values()):
        raise DataError(f"no sample that all of {', '.join(runs)} have", path=folder)
    return {
        name: ScoreRun(
            name,
            {
                dataset: {key: scores[key] for key in kept[dataset]}
                for dataset, scores in run.scores.items()
                if kept.get(dataset)
            },
        )
        for name, run in runs.items()
    }, left_out


def _different(
    own: Mapping[str, Mapping[str, float]], others: Sequence[str], dataset: str, folder: Path
) -> DataError:
    key = others[0]
    has = next(name for name, scores in own.items() if key in scores)
    lacks = next(name for name, scores in own.items() if key not in scores)
    more = f" ({len(others)} ids are like this)" if len(others) > 1 else ""
    return DataError(
        f"no id {key!r}, which {score_path(folder, has, dataset).name} has{more}; --skip-missing leaves out "
        "what not all runs have",
        path=score_path(folder, lacks, dataset),
    )


def _listed(ids: Sequence[str]) -> str:
    """Return ids with their count, the first ones by name."""
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"{len(ids)} id{'s' * (len(ids) > 1)} ({', '.join(ids[:_NAMED])}{more})"

"""What reports of negative samples say: short names, losses, scores on the samples, and findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from kvpred.data.longbench import DATASETS, Task
from kvpred.data.scores import run_labels
from kvpred.errors import UsageError
from kvpred.evaluation.negatives import Definition, Negatives, NegativeStudy, mean_score

ALL = "all"
_GOOD = {Definition.algorithm: "good answers", Definition.artifact: "benign samples"}


@dataclass(frozen=True, slots=True)
class Loss:
    """What a run's mean score tells, beside the samples that it breaks.

    Parameters
    ----------
    score, baseline_score : float
        Means of the datasets' means, over the datasets that both have.
    """

    score: float
    baseline_score: float

    @property
    def share(self) -> float | None:
        """Share of the baseline's mean score that is lost; None if that is 0."""
        return 1 - self.score / self.baseline_score if self.baseline_score else None


@dataclass(frozen=True, slots=True)
class SetScore:
    """Mean scores on the negative samples of a task type.

    Parameters
    ----------
    task : str
        `ALL` for all together.
    samples : int
        Each once, whatever it counts.
    scores : mapping of str to float
        Over the samples, by run, the baseline first.
    """

    task: str
    samples: int
    scores: Mapping[str, float]


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Shorten runs' labels: without the parts that all of one method share.

    A label's first part, its method, stays, and so does the first of the others.

    Examples
    --------
    >>> names = ["hf_m_b1", "kivi_m_b1_4bits_group32", "h2o_m_b1_c256_w64", "h2o_m_b1_c512_w64"]
    >>> list(short_names(names).values())
    ['hf', 'kivi 4bits', 'h2o c256', 'h2o c512']
    """
    parts = {name: label.split("_") for name, label in run_labels(names).items()}
    short = {}
    for name, (method, *rest) in parts.items():
        same = set.intersection(*(set(other) for other in parts.values() if other[0] == method))
        short[name] = " ".join([method, *rest[:1], *(part for part in rest[1:] if part not in same)])
    taken = Counter(short.values())
    return {name: one if taken[one] == 1 else name for name, one in short.items()}


def run_names(study: NegativeStudy) -> dict[str, str]:
    """Return the short names of the baseline and of the runs."""
    return short_names([study.baseline.name, *study.runs])


def label_names(study: NegativeStudy) -> dict[str, str]:
    """Return the labels as people see them: runs' names in them shortened."""
    single = [label for label, runs in study.groups.items() if len(runs) == 1]
    short = run_names(study) | short_names([study.baseline.name, *single])
    named = {}
    for label in study.groups:
        named[label] = short.get(label, label)
        for name in sorted(short, key=len, reverse=True) if label not in short else ():
            named[label] = named[label].replace(name, short[name])
    return named


def good_answers(study: NegativeStudy) -> str:
    """Return what benign samples are called."""
    return _GOOD[study.definition]


def cells_at(study: NegativeStudy, threshold: float) -> dict[str, Negatives]:
    """Return the negative samples of each label.

    Raises
    ------
    UsageError
        If this threshold was not studied.
    """
    if threshold not in study.thresholds:
        known = ", ".join(f"{100 * one:g} %" for one in study.thresholds)
        raise UsageError(f"nothing was counted at a threshold of {100 * threshold:g} %, only at {known}")
    return {label: study.cells[label, threshold] for label in study.groups}


def alone(study: NegativeStudy) -> list[str]:
    """Return the labels of one run each, or all if there is none."""
    return [label for label, runs in study.groups.items() if len(runs) == 1] or list(study.groups)


def together(study: NegativeStudy) -> str:
    """Return the label of the most runs."""
    return max(study.groups, key=lambda label: len(study.groups[label]))


def losses(study: NegativeStudy, threshold: float) -> dict[str, Loss]:
    """Return the loss of each label that is one run."""
    found = {}
    for label, cell in cells_at(study, threshold).items():
        if len(cell.methods) == 1:
            datasets = [part.dataset for part in cell.datasets]
            run = study.runs[cell.methods[0]]
            found[label] = Loss(mean_score(run, datasets), mean_score(study.baseline, datasets))
    return found


def benign_counts(study: NegativeStudy) -> dict[str, int]:
    """Return how many benign samples each dataset has, whichever label it was counted for."""
    return {part.dataset: len(part.benign) for cell in study.cells.values() for part in cell.datasets}


def per_task(counts: Mapping[str, int]) -> dict[Task, int]:
    """Add up datasets' counts by task type, of those that there is a dataset of."""
    added: Counter[Task] = Counter()
    for dataset, count in counts.items():
        added[DATASETS[dataset].task] += count
    return {task: added[task] for task in Task if task in added}


def set_scores(study: NegativeStudy, threshold: float) -> list[SetScore]:
    """Return the scores of the baseline and of each run on what all runs of the largest label break."""
    cell = cells_at(study, threshold)[together(study)]
    runs = [study.baseline, *(study.runs[name] for name in cell.methods)]
    tasks: dict[str, list[tuple[str, str]]] = {}
    for task in (*Task, ALL):
        parts = [part for part in cell.datasets if task in (DATASETS[part.dataset].task, ALL)]
        tasks[str(task)] = [(part.dataset, key) for part in parts for key in part.negative]
    return [
        SetScore(
            task,
            len(samples),
            {run.name: fmean(run.scores[dataset][key] for dataset, key in samples) for run in runs},
        )
        for task, samples in tasks.items()
        if samples
    ]


def finding(study: NegativeStudy, threshold: float) -> str:
    """Say how many good answers the run breaks that loses the least of the mean score."""
    names, cells = label_names(study), cells_at(study, threshold)
    lost = losses(study, threshold)
    shares = {label: loss.share for label, loss in lost.items() if loss.share is not None}
    label = min(shares, key=shares.__getitem__) if shares else next(iter(cells))
    cell, share = cells[label], shares.get(label)
    broken = f"breaks {cell.count:,} of {cell.benign_count:,} {good_answers(study)}"
    by = f"(by {100 * threshold:g} % of their score or more)"
    if share is None:
        return f"{names[label]} {broken} {by}"
    size = f"{100 * abs(share):.1f} %"
    if size == "0.0 %":
        change = "keeps the mean score"
    else:
        change = f"loses {size} of the mean score" if share > 0 else f"gains {size} on the mean score"
    joint = ", yet" if cell.count and (share <= 0 or size == "0.0 %") else " and"
    return f"{names[label]} {change}{joint} {broken} {by}"


def threshold_finding(study: NegativeStudy, threshold: float) -> str:
    """Say between which runs the counts lie, at one threshold and at the largest."""
    names = label_names(study)

    def counts(at: float, *, named: bool = True) -> str:
        by_label = {label: cells_at(study, at)[label].count for label in alone(study)}
        least, most = min(by_label, key=by_label.__getitem__), max(by_label, key=by_label.__getitem__)
        if least == most:
            return f"{by_label[most]:,}"
        whose = {label: f" ({names[label]})" if named else "" for label in (least, most)}
        return f"{by_label[least]:,}{whose[least]} to {by_label[most]:,}{whose[most]}"

    last = max(study.thresholds)
    said = f"{counts(threshold)} {good_answers(study)} lose {100 * threshold:g} % or more"
    more = f"{counts(last, named=False)} lose {100 * last:g} % or more"
    return said if last == threshold else f"{said}; {more}"


def tasks_finding(study: NegativeStudy, threshold: float) -> str:
    """Say which task type has more of the negative samples than of the benign ones."""
    cells, benign = cells_at(study, threshold), per_task(benign_counts(study))
    broken: Counter[Task] = Counter()
    for label in alone(study):
        broken.update(cells[label].by_task())
    if not broken.total():
        return f"No run breaks a sample at a threshold of {100 * threshold:g} %"
    shares = {task: (broken[task] / broken.total(), benign[task] / sum(benign.values())) for task in benign}
    task = max(shares, key=lambda one: shares[one][0] - shares[one][1])
    own, usual = (f"{100 * share:.0f} %" for share in shares[task])
    of = " of all runs" if len(alone(study)) > 1 else ""
    return f"{usual} of the {good_answers(study)} are {task}, but {own} of the negative samples{of}"


def loss_finding(study: NegativeStudy, threshold: float) -> str:
    """Say how much of the mean score is lost, and how much of the good answers breaks."""
    cells, shares = cells_at(study, threshold), losses(study, threshold)
    lost = sorted(100 * loss.share for loss in shares.values() if loss.share is not None)
    broken = sorted(
        100 * cells[label].count / cells[label].benign_count for label in shares if cells[label].benign_count
    )
    if not lost or not broken:
        return finding(study, threshold)
    changes = f"{-lost[0]:+.1f} %" + (f" to {-lost[-1]:+.1f} %" if len(lost) > 1 else "")
    breaks = f"{broken[0]:.0f} %" + (f" to {broken[-1]:.0f} %" if len(broken) > 1 else "")
    return f"The mean score changes by {changes}, but {breaks} of the {good_answers(study)} break"


def set_finding(study: NegativeStudy, threshold: float) -> str:
    """Say what the baseline scores on the negative samples, and the run that is best there."""
    label, rows = together(study), set_scores(study, threshold)
    n_runs = len(study.groups[label])
    every = "the run breaks" if n_runs == 1 else f"all {n_runs} runs break"
    if not rows:
        return f"There is no sample that {every}"
    names = run_names(study)
    (_, base), *others = rows[-1].scores.items()
    best, score = max(others, key=lambda item: item[1])
    reached = f"{names[best]} {score:.2f}" if n_runs == 1 else f"the best run, {names[best]}, {score:.2f}"
    samples = f"{rows[-1].samples:,} sample{'s' * (rows[-1].samples > 1)}"
    return f"On the {samples} that {every}, the baseline scores {base:.2f} and {reached}"

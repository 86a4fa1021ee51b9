"""Which share of requests a method breaks, as published: of all, or of a task type where that tells more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kvpred.data.longbench import Task
from kvpred.data.risk import ALL_TASKS, PublishedRisk
from kvpred.errors import unknown_name
from kvpred.evaluation.quality import QualityMatch


@dataclass(frozen=True, slots=True)
class Broken:
    """Shares of requests that methods break.

    Parameters
    ----------
    task : Task or None
        That was asked for.
    shares : mapping of str to PublishedRisk
        By full method string: of the run that speaks of the method. Methods of which none does are left
        out.
    """

    task: Task | None
    shares: Mapping[str, PublishedRisk]


def broken_requests(
    quality: Mapping[str, QualityMatch | None], risks: Iterable[PublishedRisk], *, task: Task | None = None
) -> Broken:
    """Return the share of requests that each method breaks.

    Parameters
    ----------
    quality : mapping of str to QualityMatch or None
        By full method string.
    risks : iterable of PublishedRisk
    task : Task, optional
        Whose share to return, where the task type beats the base rate on held-out datasets; that of all
        requests elsewhere.

    Examples
    --------
    >>> from kvpred.data.quality import read_quality
    >>> from kvpred.data.risk import read_risk
    >>> from kvpred.evaluation.quality import quality_of
    >>> from kvpred.methods import get_method
    >>> match = quality_of(get_method("kivi"), read_quality())
    >>> found = broken_requests({"kivi": match}, read_risk()).shares["kivi"]
    >>> found.broken, found.basis
    (102, 'base rate')
    """
    rows = {(row.method_params, row.task): row for row in risks}
    shares = {}
    for spec, match in quality.items():
        published = match.published.method_params if match else ""
        found = rows.get((published, ALL_TASKS))
        if found is not None and task is not None and found.beats_base_rate:
            found = rows.get((published, task.value), found)
        if found is not None:
            shares[spec] = found
    return Broken(task, shares)


def get_task(name: str) -> Task:
    """Return a task type by its name.

    Raises
    ------
    UsageError
        If there is none of this name.

    Examples
    --------
    >>> get_task("Few_Shot")
    <Task.few_shot: 'few-shot'>
    """
    key = name.strip().lower().replace("_", "-").replace(" ", "-")
    known = [task.value for task in Task]
    if key in known:
        return Task(key)
    raise unknown_name("task type", name, known)

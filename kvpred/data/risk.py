"""Risks that methods break requests: the shares that the package carries, and the sizes of requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from kvpred.data.files import format_table, read_table, write_text
from kvpred.data.longbench import Task

PACKAGED = Path(__file__).parent / "packaged" / "risk.csv"
FEATURES_FILE = "features.csv"
ALL_TASKS = "all"
# What is known of a request before any answer; its reference answers are not.
SIZES = ("prompt_tokens", "input_chars", "context_chars")

Sizes = Mapping[str, Mapping[str, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class PublishedRisk:
    """How many requests one run broke, of one task type or of all.

    Parameters
    ----------
    method_params : str
        Full method string.
    published_as : str
        The run's own name.
    model : str
        Catalogue name.
    task : str
        A value of `Task`, or ``all``.
    benign, broken : int
        Requests that fp16 answers well, and those of them whose score falls by a tenth or more.
    share, low, high : float
        The second over the first, and its interval.
    auc, auc_low, auc_high : float
        How well the task type ranks requests of held-out datasets by risk, with its interval; 0.5 is
        chance. The run's, so the same in all its rows.
    skill, skill_low, skill_high : float
        Share of the base rate's log loss that the task type saves there, with its interval; negative if it
        adds to it. The run's.
    level : float
        Of the intervals.
    source : str
    """

    method_params: str
    published_as: str
    model: str
    task: str
    benign: int
    broken: int
    share: float
    low: float
    high: float
    auc: float
    auc_low: float
    auc_high: float
    skill: float
    skill_low: float
    skill_high: float
    level: float
    source: str

    @property
    def beats_base_rate(self) -> bool:
        """Whether the task type tells more of a held-out dataset than the share of all requests does."""
        return self.skill_low > 0

    @property
    def basis(self) -> str:
        """What the share is of: ``base rate`` or ``task type``."""
        return "base rate" if self.task == ALL_TASKS else "task type"


COLUMNS = tuple(field.name for field in fields(PublishedRisk))
_TEXTS = ("method_params", "published_as", "model", "task", "source")
_COUNTS = ("benign", "broken")
# Those of a task type that misleads are negative.
_SIGNED = ("skill", "skill_low", "skill_high")
_SHARES = tuple(name for name in COLUMNS if name not in (*_TEXTS, *_COUNTS, *_SIGNED))


def write_risk(path: Path | str, rows: Iterable[PublishedRisk]) -> None:
    """Write shares as CSV, in one step; `read_risk` returns the same."""
    write_text(path, format_table(COLUMNS, (astuple(row) for row in rows)))


def read_risk(path: Path | str = PACKAGED) -> list[PublishedRisk]:
    """Read what `write_risk` wrote; the packaged table, if no other is named.

    Raises
    ------
    DataError
        If a column is missing or a cell is wrong.
    """
    table = read_table(path)
    table.require(COLUMNS)
    columns: dict[str, list[object]] = {name: table.texts(name).tolist() for name in _TEXTS}
    known = np.isin(table.texts("task"), (*Task, ALL_TASKS))
    table.check(known, "task", f"expected one of {', '.join((*Task, ALL_TASKS))}")
    counts = {name: table.integers(name) for name in _COUNTS}
    table.check(counts["broken"] <= counts["benign"], "broken", "expected at most as many as benign")
    columns |= {name: values.tolist() for name, values in counts.items()}
    for name in _SHARES:
        values = table.floats(name)
        table.check((values >= 0) & (values <= 1), name, "expected a share between 0 and 1")
        columns[name] = values.tolist()
    for name in _SIGNED:
        values = table.numbers(name)
        table.check(np.isfinite(values) & (values <= 1), name, "expected a number of at most 1")
        columns[name] = values.tolist()
    return [
        PublishedRisk(**dict(zip(COLUMNS, row, strict=True)))
        for row in zip(*(columns[name] for name in COLUMNS), strict=True)
    ]


def read_sizes(path: Path | str) -> Sizes:
    """Read the sizes of requests that ``kvpred collect-scores`` writes beside its scores.

    Parameters
    ----------
    path : Path or str
        CSV with the columns dataset, id and `SIZES`; others are not read.

    Returns
    -------
    mapping of str to mapping of str to tuple of int
        Dataset, id, and its sizes in the order of `SIZES`.

    Raises
    ------
    DataError
        If a column is missing, a cell is wrong or a request occurs twice.
    """
    table = read_table(path)
    table.require(("dataset", "id", *SIZES))
    datasets, ids = table.texts("dataset").tolist(), table.texts("id").tolist()
    sizes = zip(*(table.integers(name).tolist() for name in SIZES), strict=True)
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for row, (dataset, key, own) in enumerate(zip(datasets, ids, sizes, strict=True)):
        if key in found.setdefault(dataset, {}):
            raise table.bad_cell(row, "id", f"occurs twice in {dataset}")
        found[dataset][key] = own
    return found

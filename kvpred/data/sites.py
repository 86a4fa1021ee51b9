"""Sites: runs pooled to one median per grid point, with how many they were and how far apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvpred.data.files import format_table, read_table, write_text
from kvpred.errors import DataError, UsageError

if TYPE_CHECKING:
    from kvpred.data.runs import Run

# In the published decode rows 321, 577, 1089, 2113, 3137 and 4065 stand for 256 ... 4000: the generated
# tokens are most likely counted in.
GENERATED_TOKENS_COUNTED_IN = 65
# Repeats of one site under one label scatter by a few percent; three times apart is another experiment.
CONFLICT_FACTOR = 3.0


@dataclass(frozen=True, slots=True, order=True)
class RunSite:
    """One point to measure: a batch served from its prompts to its last token, which times both stages.

    Parameters
    ----------
    bsz : int
        Sequences.
    prompt_len : int
        Tokens of each prompt.
    output_len : int
        Tokens of each answer; the decode step is their mean.
    """

    bsz: int
    prompt_len: int
    output_len: int = 32

    def __str__(self) -> str:
        return f"{self.bsz} x {self.prompt_len:,}"


def farthest_first(places: NDArray[np.float64], *, first: int) -> list[int]:
    """Order points so that each next one is the farthest from all before it (farthest-point design).

    Parameters
    ----------
    places : array of float, shape (n_points, n_axes)
    first : int
        Index of the point to begin with.

    Returns
    -------
    list of int
        Indices of all points.
    """
    order, nearest = [first], np.full(len(places), np.inf)
    while len(order) < len(places):
        nearest = np.minimum(nearest, np.linalg.norm(places - places[order[-1]], axis=1))
        nearest[order] = -1
        order.append(int(nearest.argmax()))
    return order


@dataclass(frozen=True, slots=True, eq=False)
class SiteTable:
    """Medians of repeated runs: aligned arrays, one entry per site, all of shape (n_sites,).

    Parameters
    ----------
    method : array of str
        Full method strings, such as ``kivi:bits=4``.
    stage : array of str
        ``prefill`` or ``decode``.
    bsz, prompt_len : array of int
    output_len : array of int
        Tokens generated per sequence; 1 where the runs do not say, and for prefill.
    time_s : array of float
        Median seconds of the whole batch's prefill, or of one decode step.
    throughput_tok_s : array of float
        Median tokens per second of the whole batch.
    count : array of int
        Runs pooled.
    spread : array of float
        Standard deviation of the log of the times: the relative noise of one run. NaN for a single run.
    labels : array of int
        Different labels (published model names) among the runs; 0 if they carry none.
    moved : array of int
        Runs whose prompt length was aligned, see `pool_sites`.
    """

    method: NDArray[np.str_]
    stage: NDArray[np.str_]
    bsz: NDArray[np.int64]
    prompt_len: NDArray[np.int64]
    output_len: NDArray[np.int64]
    time_s: NDArray[np.float64]
    throughput_tok_s: NDArray[np.float64]
    count: NDArray[np.int64]
    spread: NDArray[np.float64]
    labels: NDArray[np.int64]
    moved: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.bsz)

    @property
    def kv_len(self) -> NDArray[np.float64]:
        """Mean tokens in the cache before a decode step; before prefill there are none."""
        return np.where(self.stage == "decode", mean_kv_len(self.prompt_len, self.output_len), 0.0)

    @classmethod
    def empty(cls) -> SiteTable:
        """Return a table without sites."""
        floats, integers, texts = np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype="U1")
        return cls(
            *(texts, texts), *(integers,) * 3, *(floats,) * 2, count=integers, spread=floats, labels=integers,
            moved=integers,
        )  # fmt: skip

    def select(self, mask: NDArray[np.bool_] | NDArray[np.int64]) -> SiteTable:
        """Return the sites that a mask or an array of indices picks."""
        return SiteTable(**{name: getattr(self, name)[mask] for name in SITE_COLUMNS})


SITE_COLUMNS = tuple(field.name for field in fields(SiteTable))
_Key = tuple[str, str, int, int, int]


def pool_sites(runs: Iterable[Run], *, align_lengths: bool = True) -> SiteTable:
    """Pool repeats, under whatever label, to the medians of their sites.

    Parameters
    ----------
    runs : iterable of Run
        Of one model, device, engine and tensor-parallel degree.
    align_lengths : bool
        Take a decode run's prompt length L for L - 65 where no prefill run among these has length L but one
        has L - 65. The result counts the runs moved so in `moved`.

    Returns
    -------
    SiteTable
        Sorted by method, stage, batch size and lengths.

    Raises
    ------
    UsageError
        If there are no runs, or they differ in model, device, engine or tensor-parallel degree.
    DataError
        If runs of one site, label and repeat disagree by more than `CONFLICT_FACTOR`.
    """
    runs = list(runs)
    _check_alike(runs)
    nominal = {run.prompt_len for run in runs if run.stage == "prefill"} if align_lengths else set()
    sites: defaultdict[_Key, list[Run]] = defaultdict(list)
    moved: defaultdict[_Key, int] = defaultdict(int)
    for run in runs:
        prompt_len = nominal_length(run, nominal)
        output_len = run.output_len if run.stage == "decode" and run.output_len is not None else 1
        key = (run.method_params, run.stage, run.bsz, prompt_len, output_len)
        sites[key].append(run)
        moved[key] += prompt_len != run.prompt_len
    return _table([_pooled(key, sites[key], moved[key]) for key in sorted(sites)])


def nominal_length(run: Run, nominal: Collection[int]) -> int:
    """Return a run's prompt length, less the generated tokens where a decode run counts them in.

    Parameters
    ----------
    run : Run
    nominal : collection of int
        Prompt lengths of the prefill runs beside it.
    """
    shorter = run.prompt_len - GENERATED_TOKENS_COUNTED_IN
    moved = run.stage == "decode" and run.prompt_len not in nominal and shorter in nominal
    return shorter if moved else run.prompt_len


def mean_kv_len(prompt_len: ArrayLike, output_len: ArrayLike) -> NDArray[np.float64]:
    """Return the mean tokens in the cache before the decode steps of a generation."""
    return np.asarray(prompt_len + (np.maximum(np.asarray(output_len) - 1, 1) - 1) / 2)


def _check_alike(runs: Sequence[Run]) -> None:
    if not runs:
        raise UsageError("no runs to pool")
    traits: dict[str, Callable[[Run], object]] = {
        "models": lambda run: run.model,
        "devices": lambda run: run.device,
        "engines": lambda run: run.engine,
        "tensor-parallel degrees": lambda run: run.tp,
    }
    for trait, of in traits.items():
        found = sorted({str(of(run)) for run in runs})
        if len(found) > 1:
            message = f"runs of {len(found)} {trait} ({', '.join(found)}): pool them one at a time"
            if trait == "models" and any(run.label is not None for run in runs):
                message += ", or take the names for labels of one --model's repeats (--pool-labels)"
            raise UsageError(message)


def _pooled(key: _Key, runs: Sequence[Run], moved: int) -> tuple[object, ...]:
    """Return one row of the site table, in the order of its columns."""
    _check_agreement(key, runs)
    times = np.array([run.time_s for run in runs])
    throughput = float(np.median([run.throughput_tok_s for run in runs]))
    spread = float(np.std(np.log(times), ddof=1)) if len(runs) > 1 else np.nan
    labels = len({run.label for run in runs} - {None})
    return (*key, float(np.median(times)), throughput, len(runs), spread, labels, moved)


def _check_agreement(key: _Key, runs: Sequence[Run]) -> None:
    twins: defaultdict[tuple[str | None, int], list[float]] = defaultdict(list)
    for run in runs:
        twins[run.label, run.repeat].append(run.throughput_tok_s)
    for (label, repeat), values in twins.items():
        if max(values) > CONFLICT_FACTOR * min(values):
            method, stage, bsz, prompt_len, _ = key
            of_label = f", label {label}" if label else ""
            raise DataError(
                f"duplicate runs disagree by more than {CONFLICT_FACTOR:g} times at {method} {stage}, "
                f"bsz {bsz}, prompt_len {prompt_len}{of_label}, repeat {repeat}: "
                f"{min(values):.4g} and {max(values):.4g} tok/s; delete the wrong one"
            )


def _table(rows: Sequence[tuple[object, ...]]) -> SiteTable:
    return SiteTable(*(np.array(column) for column in zip(*rows, strict=True)))


def write_site_table(path: Path | str, table: SiteTable) -> None:
    """Write a site table as CSV, in one step; `read_site_table` returns the same table."""
    rows = zip(*(getattr(table, name).tolist() for name in SITE_COLUMNS), strict=True)
    write_text(path, format_table(SITE_COLUMNS, rows))


def read_site_table(path: Path | str) -> SiteTable:
    """Read a site table.

    Raises
    ------
    DataError
        With file, line, column and value of what is wrong.
    """
    table = read_table(path)
    table.require(SITE_COLUMNS)
    stage = table.texts("stage")
    table.check(np.isin(stage, ("prefill", "decode")), "stage", "expected prefill or decode")
    time_s, throughput = table.floats("time_s"), table.floats("throughput_tok_s")
    for name, values in (("time_s", time_s), ("throughput_tok_s", throughput)):
        table.check(values > 0, name, "expected a positive number")
    return SiteTable(
        method=table.texts("method"),
        stage=stage,
        bsz=table.integers("bsz", minimum=1),
        prompt_len=table.integers("prompt_len", minimum=1),
        output_len=table.integers("output_len", minimum=1),
        time_s=time_s,
        throughput_tok_s=throughput,
        count=table.integers("count", minimum=1),
        spread=table.floats("spread"),
        labels=table.integers("labels"),
        moved=table.integers("moved"),
    )

"""From names on a command line to measured runs: engine, model, methods and sites, resolved and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvpred.data.runs import Run
from kvpred.data.sites import RunSite


@dataclass(frozen=True, slots=True)
class MeasureRequest:
    """What to measure, as a command line names it.

    Parameters
    ----------
    engine : str
    methods : mapping of str to sequence of RunSite
        The sites of each method, by method string; fp16 among them wherever the engine serves it.
    model : str
        Catalogue name, or the path of a ``config.json``.
    weights : Path or None
        Folder or GGUF file of real weights.
    device : str
        ``cpu``, ``cuda`` or ``cuda:1``.
    dtype : str
    repeats : int
        Times that every site is visited, each in another round.
    urls, served_name, options, seed
        See `kvpred.engines.base.Target`.
    """

    engine: str
    methods: Mapping[str, Sequence[RunSite]]
    model: str = "smollm2-135m"
    weights: Path | None = None
    device: str = "cpu"
    dtype: str = "bfloat16"
    repeats: int = 5
    urls: Mapping[str, str] = field(default_factory=dict)
    served_name: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0


RUNS = "runs.csv"


def measure(
    request: MeasureRequest,
    output: Path,
    *,
    resume: bool = True,
    budget_s: float | None = None,
    progress: Callable[[Any], None] = lambda _: None,
) -> list[Run]:
    """Measure runs, or go on where an earlier call ended.

    Parameters
    ----------
    request : MeasureRequest
    output : Path
        Folder of the journal, ``runs.csv`` (all runs so far, in kvpred's tidy columns) and ``manifest.json``.
    resume : bool
        If false, what lies there is deleted first.
    budget_s : float, optional
        Seconds after which no further run starts.
    progress : callable

    Returns
    -------
    list of Run
        All runs of the folder, prefill and decode.
    """
    raise NotImplementedError

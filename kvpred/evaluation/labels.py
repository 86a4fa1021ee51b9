"""Accuracy under one label alone: are the pooled figures an effect of pooling?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from kvpred.data.sites import pool_sites
from kvpred.errors import UsageError
from kvpred.predictors.calibration import canonical
from kvpred.predictors.crossval import SPLITS, hold_out
from kvpred.predictors.greybox import STAGES

if TYPE_CHECKING:
    from kvpred.data.runs import Run


def evaluate_label(runs: Iterable[Run], label: str) -> dict[str, float]:
    """Fit and score the runs of one label alone, as `kvpred.evaluation.accuracy.evaluate` does all together.

    Parameters
    ----------
    runs : iterable of Run
        Under several labels; see `kvpred.data.runs.read_runs` with `pool_labels`.
    label : str
        The label, or the end of exactly one of them: ``Llama-2-7b-hf``.

    Returns
    -------
    dict of str to float
        ``runs`` and ``sites``, and for each split ``<split> mean`` and ``<split> worst``: the mean over
        methods and stages of 1 - |error| / measured, and the lowest of a method and stage.

    Raises
    ------
    UsageError
        If no label, or more than one, ends so, or its sites are too few to hold any out.
    """
    labelled = [run for run in runs if run.label is not None and run.label.endswith(label)]
    found = sorted({run.label for run in labelled if run.label is not None})
    if len(found) != 1:
        names = ", ".join(found) if found else "none"
        raise UsageError(f"label {label!r} must be the end of exactly one label of the runs; found {names}")
    table = canonical(pool_sites(labelled))
    result = {"runs": float(len(labelled)), "sites": float(len(table))}
    for split in SPLITS:
        cells = []
        for stage in STAGES:
            held = hold_out(table, stage, split)
            share = 1.0 - np.abs(held.time_s / table.time_s[held.row] - 1.0)
            methods = table.method[held.row]
            cells += [float(np.mean(share[methods == name])) for name in np.unique(methods)]
        result |= {f"{split} mean": float(np.mean(cells)), f"{split} worst": min(cells)}
    return result

"""One predictor under several scoring definitions, the published tool's own among them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvpred.data.sites import SiteTable
from kvpred.errors import UsageError
from kvpred.evaluation.accuracy import copies
from kvpred.methods import BASELINE
from kvpred.predictors.calibration import canonical, fit_stage_methods, predict_sites
from kvpred.predictors.crossval import hold_out

Floats = NDArray[np.float64]

# Accuracy of the throughput predictor in the paper's public artifact, run as published on its own A6000 runs
# (https://github.com/LLMkvsys/rethink-kv-compression, folder 1_thr_predictor), by bare method name.
PUBLISHED_ACCURACY: Mapping[str, float] = MappingProxyType(
    {"fp16": 0.884, "kivi": 0.884, "gear": 0.877, "h2o": 0.858, "streamingllm": 0.866}
)
PUBLISHED_MAX_BSZ = 4
# Its evaluator shrinks the batch of a prefill until it holds no more tokens than this, and compares the
# predicted time of what is left with the measured time of the whole batch.
PUBLISHED_MAX_PREFILL_TOKENS = 4096

_IN_SAMPLE = "Fitted to the very sites it is scored on: shows how well the form bends, not what it foresees."
_SMALL = "The same without large batches, where compression is meant to pay and extrapolation starts."
_SHRUNK = (
    f"The same, but a prefill of over {PUBLISHED_MAX_PREFILL_TOKENS:,} tokens is predicted for a batch "
    "shrunk to that and compared with the time of the whole: even a perfect predictor loses those sites."
)
_HELD_OUT = (
    "Whole lengths and whole batch sizes that the fit has not seen, at every batch size: what a user meets."
)


@dataclass(frozen=True, slots=True)
class Scoring:
    """The accuracy that one scoring definition shows.

    Parameters
    ----------
    name : str
    meaning : str
        What the definition hides or shows.
    n_sites : int
        Sites scored.
    accuracy : float
        Mean over methods and stages, of our predictor.
    copy : float
        The same of fp16's fit copied to every method.
    by_method : mapping of str to float
        Mean over the stages, by full method string, of our predictor.
    """

    name: str
    meaning: str
    n_sites: int
    accuracy: float
    copy: float
    by_method: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PublishedScoring:
    """Scoring definitions side by side, on the same sites.

    Parameters
    ----------
    definitions : tuple of Scoring
    published : mapping of str to float
        What the published tool reports of itself, by bare method name; see `PUBLISHED_ACCURACY`.
    """

    definitions: tuple[Scoring, ...]
    published: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        definitions = [asdict(one) for one in self.definitions]
        return {"definitions": definitions, "published": dict(self.published)}


def published_scoring(sites: SiteTable) -> PublishedScoring:
    """Score one predictor and the copy of fp16 by the published definition, its parts, and on held-out sites.

    Definitions that the sites are too few for are left out.

    Parameters
    ----------
    sites : SiteTable
        Medians of one model, device and engine.

    Raises
    ------
    UsageError
        If they are too few for any.
    """
    table = canonical(sites)
    small = table.select(table.bsz <= PUBLISHED_MAX_BSZ)
    up_to = f"bsz <= {PUBLISHED_MAX_BSZ}"
    definitions = (
        partial(_in_sample, table, name="in sample", meaning=_IN_SAMPLE),
        partial(_in_sample, small, name=f"in sample, {up_to}", meaning=_SMALL),
        partial(_in_sample, small, name="as published", meaning=_SHRUNK, asked=_shrunk(small)),
        partial(_held_out, table, name="held out", meaning=_HELD_OUT),
    )
    scored: list[Scoring] = []
    for score in definitions:
        with suppress(UsageError):
            scored.append(score())
    if not scored:
        raise UsageError("too few sites for any scoring definition")
    return PublishedScoring(tuple(scored), dict(PUBLISHED_ACCURACY))


def _shrunk(table: SiteTable) -> SiteTable:
    """Return the sites as the published evaluator asks for them."""
    fitting = np.maximum(PUBLISHED_MAX_PREFILL_TOKENS // table.prompt_len, 1)
    bsz = np.where(table.stage == "prefill", np.minimum(table.bsz, fitting), table.bsz)
    return SiteTable(**{name: getattr(table, name) for name in table.__slots__} | {"bsz": bsz})


def _in_sample(table: SiteTable, *, name: str, meaning: str, asked: SiteTable | None = None) -> Scoring:
    """Score fits to all sites on these sites, or on what is asked in their place."""
    if not len(table):
        raise UsageError(f"there are no sites to score {name}")
    times = []
    for train in (np.ones(len(table), dtype=bool), table.method == BASELINE):
        time_s = np.empty(len(table))
        for stage in np.unique(table.stage):
            fits, rows = fit_stage_methods(table, str(stage), train=train), table.stage == stage
            time_s[rows], _ = predict_sites(fits, asked or table, rows)
        times.append(time_s)
    return _scoring(table, *times, name=name, meaning=meaning)


def _held_out(table: SiteTable, *, name: str, meaning: str) -> Scoring:
    """Score every site twice: from folds without its length and from folds without its batch size.

    What the sites are too few for is left out, and the meaning says so.
    """
    rows, ours, copied, left_out = [], [], [], []
    for stage in np.unique(table.stage):
        for split in ("lengths", "batches"):
            try:
                held = hold_out(table, str(stage), split)
            except UsageError:
                left_out.append(f"{split} of {stage}")
                continue
            rows.append(held.row)
            ours.append(held.time_s)
            copied.append(copies(table, str(stage), split, held))
    if not rows:
        raise UsageError("too few sites to hold lengths or batches out and fit the others")
    if left_out:
        meaning += f" The sites are too few to hold out {', '.join(left_out)}."
    tested = table.select(np.concatenate(rows))
    return _scoring(tested, np.concatenate(ours), np.concatenate(copied), name=name, meaning=meaning)


def _scoring(table: SiteTable, ours: Floats, copied: Floats, *, name: str, meaning: str) -> Scoring:
    cells = _by_cell(table, ours)
    methods = sorted({method for method, _ in cells}, key=lambda method: (method != BASELINE, method))
    return Scoring(
        name=name,
        meaning=meaning,
        n_sites=len(table),
        accuracy=float(np.mean(list(cells.values()))),
        copy=float(np.mean(list(_by_cell(table, copied).values()))),
        by_method={
            method: float(np.mean([value for (owner, _), value in cells.items() if owner == method]))
            for method in methods
        },
    )


def _by_cell(table: SiteTable, time_s: Floats) -> dict[tuple[str, str], float]:
    """Return the mean accuracy by method and stage."""
    share = 1.0 - np.abs(time_s / table.time_s - 1.0)
    keys = sorted(set(zip(table.method.tolist(), table.stage.tolist(), strict=True)))
    return {
        (method, stage): float(np.mean(share[(table.method == method) & (table.stage == stage)]))
        for method, stage in keys
    }

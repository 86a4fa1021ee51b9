"""Predictions of a whole grid of requests, as one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import numpy as np

from kvpred.errors import KvpredError, NotCoveredError, UsageError
from kvpred.methods import get_method
from kvpred.predictors.estimate import Estimate, predict
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.steps import BASES
from kvpred.workflows.sweep_text import Sweep


@dataclass(frozen=True, slots=True)
class Swept:
    """A sweep's answer.

    Parameters
    ----------
    columns : mapping of str to list
        The fields of `Estimate`, nested ones as ``interval.ttft_s.low``, and ``reason``: why there is no
        estimate.
    reasons : mapping of str to int
        Cells without estimate, by reason.
    dropped : mapping of str to int
        Cells left out because their basis is too weak, by what they are of.
    unfit : mapping of str to int
        Cells that do not fit in memory, by method; those left out count too.
    """

    columns: Mapping[str, list[Any]]
    reasons: Mapping[str, int]
    dropped: Mapping[str, int]
    unfit: Mapping[str, int]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.columns["reason"])

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield rows as `Estimate.as_dict` writes them, each with its reason."""
        paths = [name.split(".") for name in self.columns]
        for values in zip(*self.columns.values(), strict=True):
            row: dict[str, Any] = {}
            for path, value in zip(paths, values, strict=True):
                inner = row
                for key in path[:2][:-1]:
                    inner = inner.setdefault(key, {})
                if len(path) == 3:
                    inner.setdefault(path[1], []).append(value)
                else:
                    inner[path[-1]] = value
            yield row


def run_sweep(sweep: Sweep, predictor: Predictor, *, min_basis: str | None = None, **options: Any) -> Swept:
    """Predict every cell, all requests of one method at one place at once.

    Parameters
    ----------
    sweep : Sweep
    predictor : Predictor
    min_basis : str, optional
        Weaker rows are left out.
    options
        Those of `kvpred.predictors.estimate.predict`.

    Raises
    ------
    NotCoveredError, UsageError
        If no cell has an estimate: why the first one has none.
    """
    axes = ("bsz", "prompt_len", "output_len")
    grid = np.meshgrid(*(sweep.numbers[key] for key in axes), indexing="ij")
    request: dict[str, Any] = dict(zip(axes, (values.ravel() for values in grid), strict=True))
    n_cells, weakest = grid[0].size, BASES.index(min_basis) if min_basis else len(BASES)
    blocks: list[dict[str, list[Any]]] = []
    failures: list[KvpredError] = []
    dropped: Counter[str] = Counter()
    unfit: Counter[str] = Counter()
    for place in sweep.places():
        try:
            found = predict(predictor=predictor, **place, **request, **options)
        except (NotCoveredError, UsageError) as error:
            # Names and numbers are good by themselves: it is this combination that has no estimate.
            failures.append(error)
            compression = get_method(place["method"])
            known = place | {"method": compression.name, "method_params": compression.spec} | request
            blocks.append(_block(known | {"reason": str(error)}, n_cells))
            continue
        if not found.fits.all():
            unfit[found.method_params] += int(np.count_nonzero(~found.fits))
        if BASES.index(found.basis) > weakest:
            dropped[_named(found)] += n_cells
        else:
            blocks.append(_block(dict(_flat(found)), n_cells))
    estimated = [block for block in blocks if "reason" not in block]
    if not estimated and dropped:
        raise NotCoveredError(
            f"no cell has a basis of {min_basis} or better: measure some runs and fit them with "
            "`kvpred train --runs`"
        )
    if not estimated:
        raise failures[0]
    reasons = {reason: n_cells * count for reason, count in Counter(map(str, failures)).items()}
    empty = [None] * n_cells
    columns = {
        name: list(chain.from_iterable(block.get(name, empty) for block in blocks))
        for name in (*estimated[0], "reason")
    }
    return Swept(columns, reasons, dropped, unfit)


def _named(found: Estimate) -> str:
    """Say what the cells of one place are of, and on which basis."""
    devices = found.device if found.tp == 1 else f"{found.tp} x {found.device}"
    where = f"{found.model} on {devices} with {found.engine}"
    return f"{found.method_params} for {where}, whose basis is {found.basis}"


def _flat(found: Estimate) -> Iterator[tuple[str, Any]]:
    """Yield the fields of an estimate, nested ones by their path."""
    for field in fields(found):
        value = getattr(found, field.name)
        if not isinstance(value, Mapping):
            yield field.name, value
            continue
        for key, inner in value.items():
            ends = zip(("low", "high"), inner, strict=True) if isinstance(inner, tuple) else [("", inner)]
            for end, numbers in ends:
                yield f"{field.name}.{key}{f'.{end}' if end else ''}", numbers


def _block(values: Mapping[str, Any], n_cells: int) -> dict[str, list[Any]]:
    """Return columns of one length."""
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else [value] * n_cells
        for name, value in values.items()
    }

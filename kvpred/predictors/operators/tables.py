"""From a profile to one table per operator: what each depends on, and its times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvpred.data.profiles import Columns, Profile, time_column, timed_operators
from kvpred.errors import NotCoveredError
from kvpred.predictors.operators.features import DECODE, PREFILL, TOKENS, Family, FloatArray, family_of


@dataclass(frozen=True, slots=True, eq=False)
class OperatorTable:
    """One operator's measurements.

    Parameters
    ----------
    operator : str
    family : Family
    inputs : array, shape (n, n_inputs)
        Columns as in the family's `inputs`.
    time_ms : array, shape (n,)
        Median times in ms per layer.
    """

    operator: str
    family: Family
    inputs: FloatArray
    time_ms: FloatArray


def operator_tables(profile: Profile, *, tp: int = 1) -> list[OperatorTable]:
    """Return a table for each operator of a profile that has times.

    Parameters
    ----------
    profile : Profile
    tp : int
        Tensor-parallel degree whose rows to take.

    Raises
    ------
    NotCoveredError
        If the profile has no rows at that degree.
    """
    tables = [
        _operator_table(operator, columns, columns["num_tensor_parallel_workers"] == tp)
        for columns in profile.tables().values()
        for operator in timed_operators(columns)
    ]
    filled = [table for table in tables if len(table.time_ms)]
    if not filled:
        raise NotCoveredError(
            f"the profile of {profile.model} on {profile.device} has no operator times at tp={tp}: profile it"
        )
    return filled


def _operator_table(operator: str, columns: Columns, rows: NDArray[np.bool_]) -> OperatorTable:
    family = family_of(operator) if "is_prefill" in columns else TOKENS
    rows = rows & ~np.isnan(columns[time_column(operator)])
    if family in (DECODE, PREFILL):
        rows = rows & (columns["is_prefill"] == (family is PREFILL))
    inputs = _inputs(columns)
    chosen = [inputs[name][rows].astype(np.float64) for name in family.inputs]
    return OperatorTable(operator, family, np.stack(chosen, axis=1), columns[time_column(operator)][rows])


def _inputs(columns: Columns) -> Columns:
    """Return a table's inputs by their names here; attention tables count tokens as batch x chunk (or 1)."""
    if "num_tokens" in columns:
        return {"num_tokens": columns["num_tokens"]}
    bsz, chunk = columns["batch_size"], columns["prefill_chunk_size"]
    return {
        "num_tokens": bsz * np.maximum(chunk, 1),
        "batch_size": bsz,
        "prefill_chunk_size": chunk,
        "kv_len": columns["kv_cache_size"],
    }

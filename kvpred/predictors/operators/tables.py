"""From a profile to one table per operator: what each depends on, and its times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvpred.data.profiles import SCHEMAS, Columns, Profile, time_column, timed_operators
from kvpred.errors import NotCoveredError
from kvpred.methods import get_method
from kvpred.predictors.operators.features import DECODE, PREFILL, TOKENS, Family, FloatArray, family_of

ATTENTION_OPERATORS = frozenset(SCHEMAS["attention"].operators)
"""Operators of the attention table, which belong to the method; all others are shared by all methods."""

UNSTEADY, UNSTEADY_TIMES = 0.3, 3.0
"""Repeats that scatter by this share of their median, and by so many times the usual share, do not agree."""


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


def operator_tables(profile: Profile, *, tp: int = 1, steady: bool = False) -> list[OperatorTable]:
    """Return a table for each operator of a profile that has times.

    Where whole steps were timed along with the operators (`Profile.steps`), attention's operators were timed
    in place, in real batches, and what they do differs between the stages: each gives one table per stage,
    named ``<operator>_<stage>`` (unless its name ends so already), whose decode lengths are the tokens that
    the method attends to. Elsewhere only the operators named after a stage depend on more than the number of
    tokens, and decode lengths are taken as they are.

    Parameters
    ----------
    profile : Profile
    tp : int
        Tensor-parallel degree whose rows to take.
    steady : bool
        Leave out what was timed in place across a change of what the method does.

    Raises
    ------
    NotCoveredError
        If the profile has no rows at that degree.
    """
    tables = [
        table
        for columns in profile.tables().values()
        for operator in timed_operators(columns)
        for table in _operator_tables(operator, columns, profile, tp, steady)
    ]
    filled = [table for table in tables if len(table.time_ms)]
    if not filled:
        raise NotCoveredError(
            f"the profile of {profile.model} on {profile.device} has no operator times at tp={tp}: profile it"
        )
    return filled


def stage_operator(operator: str, stage: str) -> str:
    """Return the name under which an operator of an in-place profile is fitted for one stage.

    Examples
    --------
    >>> stage_operator("attn_decode", "decode"), stage_operator("attn_kv_cache_save", "decode")
    ('attn_decode', 'attn_kv_cache_save_decode')
    """
    return operator if operator.endswith(f"_{stage}") else f"{operator}_{stage}"


def _operator_tables(
    operator: str, columns: Columns, profile: Profile, tp: int, steady: bool
) -> Iterator[OperatorTable]:
    time_ms = columns[time_column(operator)]
    timed = (columns["num_tensor_parallel_workers"] == tp) & ~np.isnan(time_ms)
    inputs = _inputs(columns, profile)
    for name, family in _families(operator, columns, profile):
        rows = timed & _of_stage(family, columns)
        if steady and profile.steps:
            rows &= _is_steady(operator, columns, rows)
        chosen = [inputs[column][rows].astype(np.float64) for column in family.inputs]
        yield OperatorTable(name, family, np.stack(chosen, axis=1), time_ms[rows])


def _families(operator: str, columns: Columns, profile: Profile) -> list[tuple[str, Family]]:
    """Return the tables that an operator gives: their names and families."""
    if "is_prefill" not in columns:
        return [(operator, TOKENS)]
    own = family_of(operator)
    if not profile.steps or own is not TOKENS:
        return [(operator, own)]
    return [(stage_operator(operator, family.name), family) for family in (DECODE, PREFILL)]


def _of_stage(family: Family, columns: Columns) -> NDArray[np.bool_]:
    if family is TOKENS:
        return np.ones(len(columns["num_tensor_parallel_workers"]), dtype=bool)
    return np.asarray(columns["is_prefill"] == (family is PREFILL))


def _is_steady(operator: str, columns: Columns, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which rows' repeats agree, as far as they usually do for this operator.

    Where a cache fills up or a first group is compressed among the timed steps, repeats before and after do
    different work, and their median is that of neither.
    """
    if (std := time_column(operator, "std")) not in columns:
        return rows
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = columns[std] / columns[time_column(operator)]
    usual = np.nanmedian(spread[rows]) if np.isfinite(spread[rows]).any() else np.nan
    return np.asarray(~(spread > max(UNSTEADY, UNSTEADY_TIMES * usual)))


def _inputs(columns: Columns, profile: Profile) -> Columns:
    """Return a table's inputs by their names here; attention tables count tokens as batch x chunk (or 1)."""
    if "num_tokens" in columns:
        return {"num_tokens": columns["num_tokens"]}
    bsz, chunk, kv_len = (columns[n] for n in ("batch_size", "prefill_chunk_size", "kv_cache_size"))
    if profile.steps:
        attended = get_method(profile.method).attended_tokens(kv_len)
        kv_len = np.where(columns["is_prefill"], kv_len, attended)
    return {
        "num_tokens": bsz * np.maximum(chunk, 1),
        "batch_size": bsz,
        "prefill_chunk_size": chunk,
        "kv_len": kv_len,
    }

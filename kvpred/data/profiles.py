"""One operator profile in Vidur's CSV schema: times of a layer's operators on a grid, and the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvpred.data.files import Table, format_table, read_table, read_text
from kvpred.errors import DataError

if TYPE_CHECKING:
    from kvpred.data.collectives import CollectiveTimes

SCHEMA_VERSION = 1
STATISTICS = ("min", "max", "mean", "median", "std")
# Duplicate grid points disagree wildly beyond this factor, once past Vidur's own resolution of microseconds.
CONFLICT_FACTOR = 3.0
CONFLICT_SLACK_MS = 0.01

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of one of Vidur's profile tables.

    Parameters
    ----------
    integers, booleans, texts : tuple of str
        Columns that say which model and which grid point a row is about.
    operators : tuple of str
        Operators whose ``time_stats.<operator>.median`` must be there.
    key : tuple of str
        Columns that together name a grid point.
    """

    integers: tuple[str, ...]
    booleans: tuple[str, ...]
    texts: tuple[str, ...]
    operators: tuple[str, ...]
    key: tuple[str, ...]

    @property
    def required(self) -> tuple[str, ...]:
        """All columns that a table must have."""
        times = tuple(time_column(operator) for operator in self.operators)
        return (*self.integers, *self.booleans, *self.texts, *times)


# As vidur 0.0.26 reads them: vidur/execution_time_predictor/sklearn_execution_time_predictor.py.
SCHEMAS: Mapping[str, Schema] = {
    "attention": Schema(
        integers=(
            "n_embd",
            "n_q_head",
            "n_kv_head",
            "block_size",
            "num_tensor_parallel_workers",
            "max_model_len",
            "batch_size",
            "prefill_chunk_size",
            "kv_cache_size",
        ),
        booleans=("is_prefill",),
        texts=("attention_backend",),
        operators=(
            "attn_input_reshape",
            "attn_kv_cache_save",
            "attn_prefill",
            "attn_decode",
            "attn_output_reshape",
        ),
        key=("num_tensor_parallel_workers", "batch_size", "prefill_chunk_size", "kv_cache_size"),
    ),
    "mlp": Schema(
        integers=(
            "n_head",
            "n_kv_head",
            "n_embd",
            "n_expanded_embd",
            "vocab_size",
            "num_tokens",
            "num_tensor_parallel_workers",
        ),
        booleans=("use_gated_mlp",),
        texts=(),
        operators=(
            "emb",
            "input_layernorm",
            "attn_pre_proj",
            "attn_rope",
            "attn_post_proj",
            "post_attention_layernorm",
            "mlp_up_proj",
            "mlp_act",
            "mlp_down_proj",
            "add",
        ),
        key=("num_tensor_parallel_workers", "num_tokens"),
    ),
}
STEPS = "steps"
"""kvpred's own table: whole steps of the stack that the operators were timed in, in ms."""

STEPS_SCHEMA = Schema(
    integers=("num_tensor_parallel_workers", "n_layers", "batch_size", "prefill_chunk_size", "kv_cache_size"),
    booleans=("is_prefill",),
    texts=(),
    # Without hooks; with them; and the operators' sum, each as often as a step runs it.
    operators=("step", "hooked_step", "operators"),
    key=("num_tensor_parallel_workers", "batch_size", "prefill_chunk_size", "kv_cache_size"),
)
ALL_SCHEMAS: Mapping[str, Schema] = {**SCHEMAS, STEPS: STEPS_SCHEMA}
_MAY_BE_ZERO = ("prefill_chunk_size", "kv_cache_size")


class _SchemaVersion(BaseModel):
    schema_version: int = SCHEMA_VERSION


class Manifest(BaseModel):
    """What a profile's tables do not say: where, with what and how carefully they were measured.

    Parameters
    ----------
    schema_version : int
    model, device, engine : str
    method, method_params : str
        Bare name and full string of the compression method.
    driver : str or None
    versions : dict of str to str
        Library versions by name.
    dtype : str
    seed, repeats : int
    noise : dict of str to float
        Relative spread between repeats (standard deviation over median), by operator: its median over points.
    n_layers : int or None
        Layers of the stack that was timed; None where the profile does not say.
    weights : str or None
        ``random``, or the name of the file that they came from; None where the profile does not say.
    threads : int or None
        Processor threads that torch used.
    host : str or None
        The processor's or card's own name.
    roofline : dict of str to float
        What a large read and a large matrix product reached on the device, just before the sweep:
        ``bytes_s`` and ``flops_s``.
    not_fitting : int
        Points that needed more memory than there was.
    cache_state : {"cold", "warm"} or None
        Whether weights and KV cache were in the processor's caches when an operator began; None where the
        profile does not say.
    status : {"finished", "partial"}
    created_at : datetime or None
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: int = SCHEMA_VERSION
    model: str = Field(min_length=1)
    device: str = Field(min_length=1)
    method: str = Field(min_length=1)
    method_params: str = Field(min_length=1)
    engine: str | None = None
    driver: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    dtype: str = "float16"
    seed: int = 0
    repeats: int = Field(default=1, ge=1)
    noise: dict[str, float] = Field(default_factory=dict)
    n_layers: int | None = Field(default=None, ge=1)
    weights: str | None = None
    threads: int | None = Field(default=None, ge=1)
    host: str | None = None
    roofline: dict[str, float] = Field(default_factory=dict)
    not_fitting: int = Field(default=0, ge=0)
    cache_state: Literal["cold", "warm"] | None = None
    status: Literal["finished", "partial"] = "finished"
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """Operator times of one layer of a model on a device under a method.

    Parameters
    ----------
    model, device : str
    method : str
        Full method string.
    attention, mlp : dict of str to array, each of shape (n_rows,)
        Tables by their CSV column names; times in ms per layer and operator, NaN where an operator does not
        apply. Empty if that table is missing.
    steps : dict of str to array
        Whole steps of the stack that the operators were timed in, likewise; empty if nobody timed them.
    collectives : mapping of str to CollectiveTimes
        Communication between devices of this kind, by collective; empty if nobody timed it.
    manifest : Manifest or None
    path : Path or None
        The folder it was read from.
    """

    model: str
    device: str
    method: str
    attention: Columns
    mlp: Columns
    manifest: Manifest | None = None
    path: Path | None = None
    steps: Columns = field(default_factory=dict)
    collectives: Mapping[str, CollectiveTimes] = field(default_factory=dict)

    def tables(self) -> dict[str, Columns]:
        """Return the tables of operators that are there, by the name of their file."""
        return {name: table for name in SCHEMAS if (table := getattr(self, name))}


def time_column(operator: str, statistic: str = "median") -> str:
    """Return the CSV column of an operator's time.

    Examples
    --------
    >>> time_column("attn_decode")
    'time_stats.attn_decode.median'
    """
    return f"time_stats.{operator}.{statistic}"


def timed_operators(columns: Iterable[str]) -> list[str]:
    """Return the operators that have a median among `columns`, in their order."""
    parts = [name.split(".") for name in columns]
    return [part[1] for part in parts if len(part) == 3 and part[0] == "time_stats" and part[2] == "median"]


def read_profile_table(path: Path | str) -> Columns:
    """Read ``attention.csv``, ``mlp.csv`` or ``steps.csv``.

    Columns beyond the schema are kept if they are times, and left out otherwise: Vidur derives them.

    Parameters
    ----------
    path : path
        Its stem says which of them it is.

    Raises
    ------
    DataError
        With file, line, column and value of what is wrong.
    """
    path = Path(path)
    schema = ALL_SCHEMAS[path.stem]
    table = read_table(path)
    table.require(schema.required)
    columns: Columns = {
        name: table.integers(name, minimum=0 if name in _MAY_BE_ZERO else 1) for name in schema.integers
    }
    columns |= {name: table.booleans(name) for name in schema.booleans}
    columns |= {name: table.texts(name) for name in schema.texts}
    columns |= {name: table.floats(name) for name in table.columns if _is_time(name)}
    if "is_prefill" in columns:
        _check_stages(table, columns)
    for operator in schema.operators:
        name = time_column(operator)
        table.check(_is_timed(columns, operator), name, "expected a time, found nothing")
    _check_duplicates(table, columns, schema)
    return columns


def _is_time(name: str) -> bool:
    parts = name.split(".")
    return len(parts) == 3 and parts[0] == "time_stats" and parts[2] in STATISTICS


def _check_stages(table: Table, columns: Columns) -> None:
    chunked = columns["prefill_chunk_size"] > 0
    table.check(chunked == columns["is_prefill"], "is_prefill", "contradicts prefill_chunk_size (0 = decode)")


def _is_timed(columns: Columns, operator: str) -> NDArray[np.bool_]:
    """Return which rows are in order: they have a time, or the operator belongs to the other stage."""
    there = ~np.isnan(columns[time_column(operator)])
    if operator == "attn_prefill":
        there |= ~columns["is_prefill"]
    elif operator == "attn_decode":
        there |= columns["is_prefill"]
    return np.asarray(there)


def _check_duplicates(table: Table, columns: Columns, schema: Schema) -> None:
    """Refuse grid points that occur several times with wildly different times."""
    key = np.column_stack([columns[name] for name in schema.key])
    _, site = np.unique(key, axis=0, return_inverse=True)
    for operator in schema.operators:
        times = columns[time_column(operator)]
        least = np.full(site.max() + 1, np.inf)
        np.fmin.at(least, site.ravel(), times)
        allowed = CONFLICT_FACTOR * least[site.ravel()] + CONFLICT_SLACK_MS
        message = (
            f"more than {CONFLICT_FACTOR:g} times another row of the same grid point: delete the wrong one"
        )
        table.check(np.isnan(times) | (times <= allowed), time_column(operator), message)


def format_profile_table(columns: Columns) -> str:
    """Return a table as CSV text; `read_profile_table` reads the same table."""
    return format_table(list(columns), zip(*(values.tolist() for values in columns.values()), strict=True))


def read_manifest(path: Path | str) -> Manifest:
    """Read a profile's ``manifest.json``.

    Raises
    ------
    DataError
        If it is not a manifest, or one of a newer schema.
    """
    text = read_text(path)
    try:
        # A newer schema may have fields unknown here, so its version is looked at first.
        version = _SchemaVersion.model_validate_json(text).schema_version
        if version > SCHEMA_VERSION:
            raise DataError(
                f"schema {version} is newer than the {SCHEMA_VERSION} that this kvpred knows: upgrade kvpred",
                path=path,
            )
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or None
        raise DataError(f"not a profile's manifest: {first['msg']}", path=path, column=where) from None

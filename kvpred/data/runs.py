"""Runs: real end-to-end measurements of throughput, one row each, in kvpred's tidy form or as published.

Rows are validated with pydantic rather than pandera: pandera needs pandas, which reading runs must not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from kvpred.data.files import Table, format_table, is_folder, read_table, write_text
from kvpred.errors import DataError, UsageError

Stage = Literal["prefill", "decode"]

# Names in the tables published with the paper, https://github.com/LLMkvsys/rethink-kv-compression.
PUBLISHED_METHODS = {
    "None-16": "fp16",
    "KIVI-2": "kivi:bits=2",
    "KIVI-4": "kivi:bits=4",
    "GEAR-4": "gear:bits=4",
    "H2O-16": "h2o",
    "StreamingLLM-16": "streamingllm",
}
PUBLISHED_STAGES = {"prefill": "prefill", "decoding": "decode"}
_PUBLISHED_COLUMNS = {
    "model": "label",
    "method": "method",
    "bsz": "bsz",
    "prompt_len": "prompt_len",
    "stage": "stage",
    "thr": "throughput_tok_s",
}
Canonical = Callable[[str, str], str]
_GIVEN = ("model", "device", "engine")
_SHOWN_LINES = 5

Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=400, pattern=r"^[^\x00-\x1f\x7f]+$"),
]
Length = Annotated[int, Field(ge=1, le=100_000_000)]


class Run(BaseModel):
    """One measured stage of one batch.

    Parameters
    ----------
    model, engine, device : str
        What ran, on which engine, where.
    method : str
        Bare name of the compression method, upper and lower case alike. A full string is split:
        ``KIVI:bits=4`` gives ``kivi``.
    method_params : str
        The full method string; the bare name if the row does not say more.
    tp : int
        Tensor-parallel degree.
    bsz, prompt_len : int
        Sequences in the batch, tokens of each prompt.
    stage : {"prefill", "decode"}
    throughput_tok_s : float
        Of the whole batch: prompt tokens per second of prefill, generated tokens per second of decode.
    output_len : int or None
        Tokens generated per sequence.
    latency_s : float or None
        Duration of the stage as measured, in seconds, if it was recorded beside the throughput.
    repeat : int
        Number of the repeat.
    peak_memory_bytes : int or None
    host, versions : str or None
        The machine and the software it ran.
    measured_at : datetime or None
    label : str or None
        The model name that a published table gives, where `model` says what it is taken to be.
    mark : str or None
        Why the run deserves less trust, in a word or two: ``busy host`` or ``drift``.

    Examples
    --------
    >>> run = Run(model="llama-2-7b", engine="lmdeploy", device="a6000", method="kivi:bits=4", bsz=4,
    ...           prompt_len=512, stage="decode", throughput_tok_s=100.0)
    >>> run.method, run.method_params, run.time_s
    ('kivi', 'kivi:bits=4', 0.04)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: Name
    method: Name
    method_params: Name
    engine: Name
    device: Name
    tp: int = Field(default=1, ge=1, le=1024)
    bsz: int = Field(ge=1, le=1_000_000)
    prompt_len: Length
    output_len: Length | None = None
    stage: Stage
    throughput_tok_s: float = Field(gt=1e-9, le=1e12)
    latency_s: float | None = Field(default=None, gt=0)
    repeat: int = Field(default=0, ge=0, le=1_000_000_000)
    peak_memory_bytes: int | None = Field(default=None, ge=0, le=2**60)
    host: Name | None = None
    versions: Name | None = None
    measured_at: datetime | None = None
    label: Name | None = None
    mark: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _complete_method(cls, fields: object) -> object:
        if isinstance(fields, dict) and isinstance(fields.get("method"), str):
            method = _small_name(fields["method"])
            params = fields.get("method_params") or method
            params = _small_name(params) if isinstance(params, str) else params
            return fields | {"method": method.partition(":")[0], "method_params": params}
        return fields

    @model_validator(mode="after")
    def _check_method(self) -> Run:
        if self.method_params.partition(":")[0] != self.method:
            raise ValueError(
                f"method_params {self.method_params!r} is not a full string of method {self.method!r}"
            )
        return self

    @property
    def time_s(self) -> float:
        """Seconds that the throughput stands for: the batch's whole prefill, or one decode step."""
        tokens = self.bsz * (self.prompt_len if self.stage == "prefill" else 1)
        return tokens / self.throughput_tok_s


def _small_name(method: str) -> str:
    """Return a method string with its name as `kvpred.methods` writes it; parameters stay as they are."""
    name, colon, params = method.strip().partition(":")
    return f"{name.strip().lower().replace('_', '-')}{colon}{params}"


RUN_COLUMNS = tuple(Run.model_fields)
REQUIRED_RUN_COLUMNS = (
    "model",
    "method",
    "engine",
    "device",
    "bsz",
    "prompt_len",
    "stage",
    "throughput_tok_s",
)


def read_runs(
    *paths: Path | str,
    model: str | None = None,
    device: str | None = None,
    engine: str | None = None,
    pool_labels: bool = False,
    known_methods: Collection[str] | None = None,
    canonical: Canonical = lambda _, name: name,
) -> list[Run]:
    """Read runs from CSV files, tidy or with the published columns ``model,method,bsz,prompt_len,stage,thr``.

    Parameters
    ----------
    *paths : path
        Files, or folders whose ``*.csv`` are all read, in order of their names.
    model, device, engine : str, optional
        What the columns do not say; published tables name neither device nor engine. Where a tidy column says
        something else, that is an error.
    pool_labels : bool
        Take the model names of published tables as labels only: every row is a run of `model`. Without it,
        each name is its row's model, and `model` may rename a single one.
    known_methods : collection of str, optional
        Bare method names to accept; any by default.
    canonical : callable
        ``canonical("model", name)`` returns the one name that stands for all spellings of a model, and so for
        a device; what a column says contradicts an argument only if these differ.

    Returns
    -------
    list of Run
        In the order of files and rows.

    Raises
    ------
    DataError
        With file, line, column and value of the first bad row, and the lines of others.
    UsageError
        If no path is given, or `pool_labels` without `model`.
    """
    if not paths:
        raise UsageError("no runs given: name a CSV file or a folder of them")
    if pool_labels and model is None:
        raise UsageError("pooling labels needs the model that they are taken for: give --model")
    arguments = zip(_GIVEN, (model, device, engine), strict=True)
    given = {name: value for name, value in arguments if value is not None}
    runs = [run for path in _expand(paths) for run in _read_file(path, given, known_methods, canonical)]
    labels = sorted({run.label for run in runs if run.label is not None})
    if model is not None and len(labels) > 1 and not pool_labels:
        raise DataError(
            f"the tables carry {len(labels)} model names ({', '.join(labels)}), not only {model}: "
            "pool them as repeats of it on purpose (--pool-labels), or leave the model out",
            path=paths[0],
        )
    return runs


def write_runs(path: Path | str, runs: Iterable[Run]) -> None:
    """Write runs as a tidy CSV, in one step; `read_runs` returns the same runs."""
    rows = [[_cell(getattr(run, name)) for name in RUN_COLUMNS] for run in runs]
    write_text(path, format_table(RUN_COLUMNS, rows))


def _cell(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def _expand(paths: Sequence[Path | str]) -> list[Path]:
    files = []
    for path in map(Path, paths):
        found = sorted(path.glob("*.csv")) if is_folder(path) else [path]
        if not found:
            raise DataError("the folder holds no CSV files", path=path)
        files += found
    return files


def _read_file(
    path: Path, given: dict[str, str], known_methods: Collection[str] | None, canonical: Canonical
) -> list[Run]:
    table = read_table(path)
    fields = _fields(table, given)
    published = "thr" in fields
    runs: list[Run] = []
    bad: list[tuple[int, _FieldError]] = []
    for index, cells in enumerate(zip(*(table.columns[name] for name in fields), strict=True)):
        row = {
            field: cell.strip() for field, cell in zip(fields.values(), cells, strict=True) if cell.strip()
        }
        try:
            row = _translated(row) if published else _undisputed(row, given, canonical)
            runs.append(_checked(row | given, known_methods))
        except _FieldError as problem:
            bad.append((index, problem))
    if bad:
        raise _together(table, {field: name for name, field in fields.items()}, bad)
    return runs


def _fields(table: Table, given: Collection[str]) -> dict[str, str]:
    """Return the field of a run that each column stands for, once all the needed columns are there."""
    if "thr" in table.columns:
        table.require(_PUBLISHED_COLUMNS)
        if unsaid := [f"--{name}" for name in ("device", "engine") if name not in given]:
            message = f"a published table does not say where it ran: give {', '.join(unsaid)}"
            raise DataError(message, path=table.path)
        return _PUBLISHED_COLUMNS
    missing = [name for name in REQUIRED_RUN_COLUMNS if name not in table.columns and name not in given]
    if missing:
        options = ", ".join(f"--{name}" for name in missing if name in _GIVEN)
        hint = f"; {options} can say it for the whole table" if options else ""
        raise DataError(f"missing columns: {', '.join(missing)}{hint}", path=table.path)
    return {name: name for name in RUN_COLUMNS if name in table.columns}


class _FieldError(Exception):
    """A field that a row got wrong."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


def _translated(row: dict[str, str]) -> dict[str, str]:
    """Return a published row in kvpred's words."""
    method, stage = row.get("method", ""), row.get("stage", "")
    if method not in PUBLISHED_METHODS:
        raise _FieldError("method", f"unknown method; published tables know {', '.join(PUBLISHED_METHODS)}")
    if stage not in PUBLISHED_STAGES:
        raise _FieldError("stage", f"unknown stage; published tables know {', '.join(PUBLISHED_STAGES)}")
    renamed = {"method": PUBLISHED_METHODS[method], "stage": PUBLISHED_STAGES[stage]}
    return row | renamed | ({"model": row["label"]} if "label" in row else {})


def _undisputed(row: dict[str, str], given: dict[str, str], canonical: Canonical) -> dict[str, str]:
    """Return the row, unless it contradicts an argument."""
    for name, value in given.items():
        said = row.get(name, value)
        if said != value and canonical(name, said) != canonical(name, value):
            raise _FieldError(name, f"contradicts --{name} {value}")
    return row


def _checked(row: dict[str, str], known_methods: Collection[str] | None) -> Run:
    try:
        run = Run.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0]) if first["loc"] else "method_params"
        message = "expected a value, found nothing" if first["type"] == "missing" else first["msg"]
        raise _FieldError(field if field != "method_params" or field in row else "method", message) from None
    if known_methods is not None and run.method not in known_methods:
        raise _FieldError("method", f"unknown method; known are {', '.join(sorted(known_methods))}")
    return run


def _together(table: Table, columns: dict[str, str], bad: Sequence[tuple[int, _FieldError]]) -> DataError:
    """Return one error for all bad rows: the first in full, the next by line, and their count."""
    index, problem = bad[0]
    message = str(problem)
    if len(bad) > 1:
        lines = ", ".join(str(table.lines[index]) for index, _ in bad[:_SHOWN_LINES])
        more = ", ..." if len(bad) > _SHOWN_LINES else ""
        message += f" ({len(bad)} rows are bad: lines {lines}{more})"
    if problem.field not in columns:
        raise UsageError(f"--{problem.field}: {message}")
    return table.bad_cell(index, columns[problem.field], message)

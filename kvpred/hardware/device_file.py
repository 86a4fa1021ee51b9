"""Read a user's own device from a TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvpred.errors import DataError
from kvpred.hardware.spec import DeviceSpec, LinkSpec

Positive = Annotated[float, Field(gt=0, le=1e20, allow_inf_nan=False)]


class _LinkFile(BaseModel):
    """The ``[link]`` table."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str
    bandwidth_bytes_s: Positive
    latency_s: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _DeviceFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: Annotated[str, Field(min_length=1)]
    memory_bytes: Annotated[int, Field(gt=0, le=10**15)]
    memory_bandwidth_bytes_s: Positive | None = None
    peak_flops_16bit: Positive | None = None
    title: str | None = None
    source: str | None = None
    link: _LinkFile | None = None


def read_device(path: Path) -> DeviceSpec:
    """Read a device from a TOML file.

    The file names `name` and `memory_bytes`, if known `memory_bandwidth_bytes_s` and `peak_flops_16bit`, and
    optionally `title`, `source` and a table ``[link]`` with `name`, `bandwidth_bytes_s` (one direction) and
    `latency_s`; all as in `DeviceSpec`.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    DeviceSpec
        The device.

    Raises
    ------
    DataError
        If the file is missing, no TOML, or lacks, garbles or does not know a field.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror}).", path=path) from error
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text; a TOML file is.", path=path) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not TOML ({error}).", path=path) from error
    try:
        found = _DeviceFile.model_validate(raw)
    except ValidationError as error:
        raise _first_problem(error, path) from error
    link = LinkSpec(**found.link.model_dump()) if found.link else None
    return DeviceSpec(
        name=found.name,
        title=found.title or found.name,
        memory_bytes=found.memory_bytes,
        memory_bandwidth_bytes_s=found.memory_bandwidth_bytes_s,
        peak_flops_16bit=found.peak_flops_16bit,
        link=link,
        source=found.source or str(path),
    )


def _first_problem(error: ValidationError, path: Path) -> DataError:
    first = error.errors()[0]
    field, kind = ".".join(map(str, first["loc"])), first["type"]
    if kind == "missing":
        return DataError("is missing.", path=path, column=field)
    known = ", ".join(_DeviceFile.model_fields)
    message = (
        f"is not a field of a device; known are {known}." if kind == "extra_forbidden" else f"{first['msg']}."
    )
    return DataError(message, path=path, column=field, value=repr(first["input"]))

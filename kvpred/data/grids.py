"""Read a grid from a TOML file: what is wrong with it is named by file, field and value."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from kvpred.data.files import read_text
from kvpred.errors import DataError

G = TypeVar("G", bound=BaseModel)


def read_grid_file(path: Path, grid: type[G]) -> G:
    """Return the grid that a file holds.

    Parameters
    ----------
    path : Path
    grid : type of BaseModel
        What it must hold.

    Raises
    ------
    DataError
        If it cannot be read, is no TOML, or no such grid.
    """
    try:
        return grid.model_validate(tomllib.loads(read_text(path)))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"not TOML: {error}", path=path) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or None
        message = first["msg"].removeprefix("Value error, ")
        value = first["input"] if isinstance(first["input"], int | float | str) else None
        raise DataError(message, path=path, column=where, value=value) from None

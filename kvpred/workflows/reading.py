"""Read measured runs of known methods, and blame on their files whatever keeps them from being used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kvpred.data.runs import Run, read_runs
from kvpred.errors import DataError, UsageError
from kvpred.methods import get_method, list_methods


def read_measured_runs(
    paths: Sequence[Path],
    *,
    model: str | None = None,
    device: str | None = None,
    engine: str | None = None,
    pool_labels: bool = False,
) -> list[Run]:
    """Read runs whose methods and parameters are all known; arguments are those of `read_runs`.

    Raises
    ------
    DataError
        If a file is wrong, or names a method or a parameter that there is not.
    """
    known = [method.name for method in list_methods()]
    runs = read_runs(
        *paths, model=model, device=device, engine=engine, pool_labels=pool_labels, known_methods=known
    )
    for spec in sorted({run.method_params for run in runs}):
        with blamed_on(paths, column="method", value=spec):
            get_method(spec)
    return runs


@contextmanager
def blamed_on(paths: Sequence[Path], *, column: str | None = None, value: object = None) -> Iterator[None]:
    """Turn an error that names no file into one of these files: what they hold is wrong, not the request."""
    try:
        yield
    except (UsageError, DataError) as error:
        if isinstance(error, DataError) and error.path is not None:
            raise
        where = ", ".join(map(str, paths))
        raise DataError(str(error), path=where, column=column, value=value) from error

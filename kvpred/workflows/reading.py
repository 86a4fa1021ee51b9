"""Read profiles and runs of known methods, and blame on their files whatever keeps them from being used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from kvpred.data.profiles import Profile
from kvpred.data.runs import Run, read_runs
from kvpred.data.store import find_profiles, read_profile
from kvpred.errors import DataError, KvpredError, UsageError
from kvpred.hardware import get_device
from kvpred.hardware.engine_specs import engine_key
from kvpred.methods import get_method, list_methods
from kvpred.models import get_model

_FINDERS: Mapping[str, Callable[[str], object]] = MappingProxyType(
    {"model": get_model, "device": get_device, "engine": engine_key}
)


def read_measured_runs(
    paths: Sequence[Path],
    *,
    model: str | None = None,
    device: str | None = None,
    engine: str | None = None,
    pool_labels: bool = False,
) -> list[Run]:
    """Read runs whose methods and parameters are all known; arguments are those of `read_runs`.

    Models, devices and engines have the names of the catalogues, however they are spelt.

    Raises
    ------
    DataError
        If a file is wrong, or names a method or a parameter that there is not.
    """
    known = [method.name for method in list_methods()]
    runs = read_runs(
        *paths,
        model=model,
        device=device,
        engine=engine,
        pool_labels=pool_labels,
        known_methods=known,
        canonical=_canonical,
    )
    for spec in sorted({run.method_params for run in runs}):
        with blamed_on(paths, column="method", value=spec):
            get_method(spec)
    return _renamed(runs)


def _canonical(kind: str, name: str) -> str:
    """Return the one name of a model, device or engine, however it is spelt; unknown ones stay."""
    with suppress(KvpredError):
        found = _FINDERS[kind](name)
        return str(getattr(found, "name", found))
    return name


def _renamed(runs: Sequence[Run]) -> list[Run]:
    """Give models, devices and engines their catalogue's names, so that spellings of one are one."""
    spelt = {(kind, str(getattr(run, kind))) for run in runs for kind in _FINDERS}
    names = {(kind, name): _catalogued(kind, name) for kind, name in spelt}
    return [
        run.model_copy(update={kind: names[kind, str(getattr(run, kind))] for kind in _FINDERS})
        for run in runs
    ]


def _catalogued(kind: str, name: str) -> str:
    """Return the name under which the very same is found again; of a file, its path."""
    canonical = _canonical(kind, name)
    with suppress(KvpredError):
        if _FINDERS[kind](canonical) == _FINDERS[kind](name):
            return canonical
    return name


def read_profiles(
    roots: Sequence[Path],
    *,
    device: str | None = None,
    model: str | None = None,
    method: str | None = None,
) -> list[Profile]:
    """Read every profile under the given folders, each once; options say what a folder's names do not.

    Raises
    ------
    DataError
        If there is none, or a table is wrong.
    """
    known = [method.name for method in list_methods()]
    found = [key.path for root in roots for key in find_profiles(root, known_methods=known)]
    if roots and not found:
        raise DataError("no profile here: no attention.csv or mlp.csv", path=roots[0])
    return [
        read_profile(folder, device=device, model=model, method=method, known_methods=known)
        for folder in {path.resolve(): path for path in found}.values()
    ]


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

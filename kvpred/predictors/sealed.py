"""Bundles: folders with an index that states their kind, files and digests; nothing in them runs code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from kvpred._version import __version__
from kvpred.data.files import is_folder, read_text, write_text
from kvpred.errors import DataError, UsageError

SCHEMA_VERSION = 1
INDEX = "bundle.json"
# Of a bundle that states none: all were of this kind once.
_FIRST_KIND = "throughput"

T = TypeVar("T")


def seal(folder: Path, index: dict[str, Any], *, kind: str | None = None) -> None:
    """Write the index of a bundle, with versions and the digest of every file that lies in the folder."""
    stated = {"schema_version": SCHEMA_VERSION, "kvpred_version": __version__}
    stated |= {} if kind is None else {"kind": kind}
    stated |= index
    stated["files"] = {
        path.relative_to(folder).as_posix(): _digest(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    stated["digest"] = _digest(_canonical(stated))
    write_text(folder / INDEX, json.dumps(stated, indent=1) + "\n")


def kind_of(folder: Path | str) -> str:
    """Return a bundle's kind.

    Raises
    ------
    DataError
        If there is none, or it is of a newer schema.
    """
    return str(_read(Path(folder)).get("kind", _FIRST_KIND))


def opened(folder: Path | str, kind: str, build: Callable[[Path, dict[str, Any]], T]) -> T:
    """Return what `build` makes of a bundle's folder and its checked index.

    Raises
    ------
    DataError
        If it is no bundle, of a newer schema, truncated or changed after it was written.
    UsageError
        If it is of another kind.
    """
    root = Path(folder)
    index = _read(root)
    path = root / INDEX
    if (found := index.get("kind", _FIRST_KIND)) != kind:
        raise UsageError(f"{root} is a bundle of the kind {found}, expected one of the kind {kind}.")
    try:
        _check_digests(root, index)
        return build(root, index)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError) as error:
        version = index["schema_version"]
        raise DataError(f"not a valid bundle of schema version {version}: {error!r}", path=path) from None


def _read(root: Path) -> dict[str, Any]:
    path = root / INDEX
    if not (is_folder(root) and path.is_file()):
        raise DataError(
            f"no predictor bundle: there is no {INDEX} in it; `kvpred train` makes one", path=root
        )
    try:
        index = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error}); the bundle is truncated or damaged", path=path) from None
    version = index.get("schema_version") if isinstance(index, dict) else None
    if not isinstance(version, int):
        raise DataError("not a predictor bundle: it states no schema_version", path=path)
    if version > SCHEMA_VERSION:
        raise DataError(
            f"the bundle has schema version {version}, this kvpred {__version__} reads up to "
            f"{SCHEMA_VERSION}: upgrade kvpred or train the bundle again",
            path=path,
        )
    found: dict[str, Any] = index
    return found


def _check_digests(root: Path, index: dict[str, Any]) -> None:
    stated = {key: value for key, value in index.items() if key != "digest"}
    if index.get("digest") != _digest(_canonical(stated)):
        raise DataError("the bundle was changed after it was written; train it again", path=root / INDEX)
    for name, digest in index["files"].items():
        path = root / name
        if not path.resolve().is_relative_to(root.resolve()):
            raise DataError(f"the bundle names a file outside itself: {name}", path=root / INDEX)
        if not path.is_file():
            raise DataError("the bundle lacks this file; it is incomplete", path=path)
        if _digest(path.read_bytes()) != digest:
            raise DataError("this file was changed after the bundle was written; train it again", path=path)


def _canonical(index: dict[str, Any]) -> bytes:
    return json.dumps(index, sort_keys=True, separators=(",", ":")).encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

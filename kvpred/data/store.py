"""Where profiles lie on disk: ``<root>/compute/<device>/<model>/<method>/``, and Vidur's plain layout.

Times of communication lie beside them: ``<root>/network/<device>/``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from kvpred.data.collectives import FILES as NETWORK_FILES
from kvpred.data.collectives import CollectiveTimes, read_collectives
from kvpred.data.files import check_replaceable, is_folder, read_text, replaced_folder, write_text
from kvpred.data.profiles import (
    ALL_SCHEMAS,
    SCHEMA_VERSION,
    SCHEMAS,
    STEPS,
    Columns,
    Manifest,
    Profile,
    format_profile_table,
    read_manifest,
    read_profile_table,
)
from kvpred.errors import DataError, UsageError

MANIFEST = "manifest.json"
COMPUTE, NETWORK = "compute", "network"
_FILES = (*(f"{name}.csv" for name in ALL_SCHEMAS), MANIFEST)


@dataclass(frozen=True, slots=True)
class ProfileKey:
    """What a profile's folder and manifest say it is about; None where they do not say.

    Parameters
    ----------
    path : Path
        The folder with the tables.
    device, model, method : str or None
    """

    path: Path
    device: str | None
    model: str | None
    method: str | None


def find_profiles(root: Path | str, *, known_methods: Collection[str] = ()) -> list[ProfileKey]:
    """List the profiles anywhere under a folder, in order of their paths.

    Parameters
    ----------
    root : path
    known_methods : collection of str
        Bare method names. Without a manifest, they tell ``<model>/<method>`` from Vidur's ``<org>/<model>``.

    Raises
    ------
    DataError
        If the folder does not exist, or a manifest is broken.
    """
    root = Path(root)
    if not is_folder(root):
        raise DataError("no such folder", path=root)
    folders = {path.parent for name in SCHEMAS for path in root.rglob(f"{name}.csv")}
    return [
        _key(folder, _manifest(folder), known_methods)
        for folder in sorted(folders)
        if not any(part.startswith(".") for part in folder.relative_to(root).parts)
    ]


def read_profile(
    folder: Path | str,
    *,
    device: str | None = None,
    model: str | None = None,
    method: str | None = None,
    known_methods: Collection[str] = (),
) -> Profile:
    """Read the profile in a folder.

    Parameters
    ----------
    folder : path
        Holds ``attention.csv``, ``mlp.csv`` or both, and perhaps ``manifest.json``.
    device, model, method : str, optional
        What folder names and manifest do not say, or say wrongly; they must not contradict a manifest.
    known_methods : collection of str
        See `find_profiles`.

    Returns
    -------
    Profile

    Raises
    ------
    DataError
        If no table is there, a table is wrong, or device, model or method stay unknown.
    """
    folder = Path(folder)
    files = [folder / f"{name}.csv" for name in SCHEMAS]
    if not is_folder(folder):
        raise DataError("no such folder; a profile is a folder with attention.csv and mlp.csv", path=folder)
    if not any(file.exists() for file in files):
        raise DataError("no profile here: neither attention.csv nor mlp.csv", path=folder)
    manifest = _manifest(folder)
    given = {"device": device, "model": model, "method": method}
    if manifest is not None:
        _check_against(manifest, given, folder)
    methods = {*known_methods, method.partition(":")[0]} if method else known_methods
    key = _key(folder, manifest, methods)
    names = {name: value or getattr(key, name) for name, value in given.items()}
    unknown = [f"--{name}" for name, value in names.items() if value is None]
    if unknown:
        raise DataError(f"the folder does not say everything: give {', '.join(unknown)}", path=folder)
    tables: dict[str, Columns] = {
        file.stem: read_profile_table(file) if file.exists() else {} for file in files
    }
    return Profile(
        device=str(names["device"]),
        model=str(names["model"]),
        method=str(names["method"]),
        attention=tables["attention"],
        mlp=tables["mlp"],
        manifest=manifest,
        path=folder,
        steps=read_profile_table(steps) if (steps := folder / f"{STEPS}.csv").exists() else {},
        collectives=_collectives_beside(folder),
    )


def write_profile(root: Path | str, profile: Profile) -> Path:
    """Write a profile under a root, replacing an older one of the same device, model and method in one step.

    The manifest holds what is known of the profile, and no defaults for the rest. Times of communication are
    not the profile's own: `write_network` stores them.

    Returns
    -------
    Path
        Its folder, ``<root>/compute/<device>/<model>/<method>``.

    Raises
    ------
    UsageError
        If a name cannot be a folder's, the profile is empty, or the place cannot be written to or holds
        other files.
    """
    names = (profile.device, profile.model, profile.method)
    folder = Path(root) / COMPUTE
    for name in names:
        folder /= _as_path(name)
    check_replaceable(folder, ours=_FILES)
    manifest = profile.manifest or Manifest(
        device=profile.device,
        model=profile.model,
        method=profile.method.partition(":")[0],
        method_params=profile.method,
    )
    if names != (manifest.device, manifest.model, manifest.method_params):
        raise UsageError(f"the manifest is not about {', '.join(names)}")
    with replaced_folder(folder) as draft:
        _write_tables(draft, profile)
        if profile.steps:
            write_text(draft / f"{STEPS}.csv", format_profile_table(profile.steps))
        dated = manifest.model_copy(update={"schema_version": SCHEMA_VERSION})
        write_text(draft / MANIFEST, dated.model_dump_json(indent=2, exclude_unset=True) + "\n")
    return folder


def is_network(folder: Path) -> bool:
    """Whether a folder holds times of communication, and no profile."""
    tables = [f"{name}.csv" for name in SCHEMAS]
    found = {name for name in (*NETWORK_FILES, *tables) if (folder / name).exists()}
    return bool(found) and found.isdisjoint(tables)


def write_network(root: Path | str, source: Path, *, device: str | None = None) -> Path:
    """Check a folder of collectives and copy it under a root, replacing that device's older one in one step.

    Parameters
    ----------
    root : path
    source : Path
        Holds ``all_reduce.csv``, ``send_recv.csv`` or both, as `read_collectives` reads them.
    device : str, optional
        The device that communicates; named by the folder's own name, if not given.

    Returns
    -------
    Path
        Its folder, ``<root>/network/<device>``.

    Raises
    ------
    DataError
        If a table is wrong.
    UsageError
        If the name cannot be a folder's, or the place cannot be written to or holds other files.
    """
    folder = Path(root) / NETWORK / _as_path(device or source.absolute().name)
    texts = {name: read_text(source / f"{name}.csv") for name in read_collectives(source)}
    check_replaceable(folder, ours=NETWORK_FILES)
    with replaced_folder(folder) as draft:
        for name, text in texts.items():
            write_text(draft / f"{name}.csv", text)
    return folder


def export_vidur(root: Path | str, profile: Profile, *, model: str | None = None) -> Path:
    """Write a profile in Vidur's plain layout, replacing an older one of device and model in one step.

    Prompts that were timed in batches are left out: Vidur takes every prefill row for one prompt, and adds a
    batch's prompts up.

    Parameters
    ----------
    root : path
        Vidur's profiling folder.
    profile : Profile
    model : str, optional
        The model's name as Vidur knows it, such as ``meta-llama/Llama-2-7b-hf``; the profile's, if not given.

    Returns
    -------
    Path
        Its folder, ``<root>/compute/<device>/<model>``: that layout has no place for a method.

    Raises
    ------
    UsageError
        If a name cannot be a folder's, the profile is empty, or the place cannot be written to or holds
        other files.
    """
    folder = Path(root) / COMPUTE / _as_path(profile.device) / _as_path(model or profile.model)
    check_replaceable(folder, ours=_FILES)
    with replaced_folder(folder) as draft:
        _write_tables(draft, replace(profile, attention=_without_batched_prompts(profile.attention)))
    return folder


def _without_batched_prompts(attention: Columns) -> Columns:
    if not attention:
        return {}
    rows = ~attention["is_prefill"] | (attention["batch_size"] == 1)
    return {name: values[rows] for name, values in attention.items()}


def _write_tables(folder: Path, profile: Profile) -> None:
    tables = profile.tables()
    if not tables:
        raise UsageError("the profile holds no table")
    for name, columns in tables.items():
        write_text(folder / f"{name}.csv", format_profile_table(columns))


def _as_path(name: str) -> PurePosixPath:
    """Return a name as the folders it stands for (``org/model`` is two), none of them outside the root."""
    path = PurePosixPath(name)
    odd = path.is_absolute() or ".." in path.parts or not path.parts or str(path) != name
    if odd or not name.isprintable() or any(part.startswith(".") for part in path.parts):
        raise UsageError(f"{name!r} cannot name a folder")
    return path


def _manifest(folder: Path) -> Manifest | None:
    path = folder / MANIFEST
    return read_manifest(path) if path.exists() else None


def _check_against(manifest: Manifest, given: dict[str, str | None], folder: Path) -> None:
    says = {"device": manifest.device, "model": manifest.model, "method": manifest.method_params}
    for name, value in given.items():
        if value not in (None, says[name]):
            raise DataError(
                f"--{name} {value} contradicts the manifest, which says {says[name]}", path=folder / MANIFEST
            )


def _key(folder: Path, manifest: Manifest | None, known_methods: Collection[str]) -> ProfileKey:
    if manifest is not None:
        return ProfileKey(folder, manifest.device, manifest.model, manifest.method_params)
    _, below = _split(folder)
    device, names = (below[0], list(below[1:])) if below else (None, [])
    named = len(names) > 1 and names[-1].partition(":")[0] in known_methods
    method = names.pop() if named else None
    return ProfileKey(folder, device, "/".join(names) or None, method)


def _split(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the root that a profile's folder lies under, and its path below ``compute``; empty elsewhere."""
    parts = folder.absolute().parts
    if COMPUTE not in parts:
        return folder, ()
    place = len(parts) - parts[::-1].index(COMPUTE)
    return Path(*parts[: place - 1]), parts[place:]


def _collectives_beside(folder: Path) -> dict[str, CollectiveTimes]:
    """Read what was measured of the communication between the devices of a profile, under its own root."""
    root, below = _split(folder)
    network = root / NETWORK / below[0] if below else None
    return read_collectives(network) if network is not None and is_network(network) else {}

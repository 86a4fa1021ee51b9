"""Audit whatever measurements lie at the given paths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from kvpred.data.files import is_folder
from kvpred.data.profiles import Profile
from kvpred.data.store import find_profiles, read_profile
from kvpred.errors import DataError, UsageError
from kvpred.evaluation.audit import Finding, audit_profiles, audit_runs
from kvpred.hardware import get_device
from kvpred.methods import list_methods
from kvpred.models import ModelSpec, get_model
from kvpred.workflows.reading import blamed_on, read_measured_runs


def audit(
    paths: Sequence[Path],
    *,
    device: str | None = None,
    engine: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Finding]:
    """Audit operator profiles and runs.

    Parameters
    ----------
    paths : sequence of Path
        Folders are searched for profiles; a folder without any, and files, are read as runs.
    device, engine : str, optional
        What the data do not say.
    progress : callable
        Told in a sentence what is read.

    Returns
    -------
    list of Finding
        Of the profiles together, then of the runs; the gravest first in each.

    Raises
    ------
    DataError
        If a path holds neither, or a table is wrong.
    """
    known = [method.name for method in list_methods()]
    profiles: list[Profile] = []
    tables: list[Path] = []
    for path in paths:
        keys = find_profiles(path, known_methods=known) if is_folder(path) else []
        profiles += [_profile(key.path, device, known) for key in keys]
        if not keys:
            tables.append(path)
    progress(f"auditing {len(profiles)} profiles and {len(tables)} tables of runs")
    findings = audit_profiles(profiles)
    if tables:
        runs = read_measured_runs(tables, device=device, engine=engine)
        devices = sorted({run.device for run in runs})
        with blamed_on(tables):
            if len(devices) > 1:
                message = f"the runs name {len(devices)} devices ({', '.join(devices)}); audit one at a time"
                raise DataError(message)
            models = _known_models({run.label or run.model for run in runs})
            findings += audit_runs(runs, models, get_device(devices[0]))
    return findings


def _known_models(names: Iterable[str]) -> dict[str, ModelSpec]:
    """Return the models that the catalogue knows; the audit notes the others."""
    known = {}
    for name in names:
        with suppress(UsageError):
            known[name] = get_model(name)
    return known


def _profile(folder: Path, device: str | None, known: Sequence[str]) -> Profile:
    """Read a profile; what its folders do not say is taken from their last name, for an audit compares."""
    from kvpred.data.store import ProfileKey

    key: ProfileKey = next(iter(find_profiles(folder, known_methods=known)))
    hidden = next((name for name in known if folder.name.endswith(f"-{name}")), "fp16")
    return read_profile(
        folder,
        device=None if key.device else device or "unknown",
        model=key.model or folder.name.removesuffix(f"-{hidden}"),
        method=key.method or hidden,
        known_methods=known,
    )

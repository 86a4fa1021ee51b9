"""From measured files to a predictor: read, check, pool, fit and judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kvpred.data.files import check_replaceable
from kvpred.data.profiles import Profile
from kvpred.data.runs import Run
from kvpred.data.sites import pool_sites
from kvpred.data.store import MANIFEST
from kvpred.errors import DataError, UsageError
from kvpred.hardware import get_device, measured_engine
from kvpred.hardware.host import HOST_CPU
from kvpred.methods import BASELINE
from kvpred.models import get_model
from kvpred.predictors.bundle import FILES
from kvpred.predictors.calibration import Profiles
from kvpred.predictors.estimate import DEFAULT_ENGINE
from kvpred.predictors.predictor import Predictor, fit_predictor
from kvpred.predictors.scaling import Place
from kvpred.workflows.reading import blamed_on, read_measured_runs, read_profiles

# What a profile's tables say of the model, and the model's own numbers.
_ARCHITECTURE = {
    "n_embd": "hidden_size",
    "n_head": "n_q_heads",
    "n_q_head": "n_q_heads",
    "n_kv_head": "n_kv_heads",
    "n_expanded_embd": "intermediate_size",
}


@dataclass(frozen=True, slots=True)
class Measurements:
    """Where the measurements lie, and what they do not say of themselves.

    Parameters
    ----------
    runs : sequence of Path
        CSV files of runs of one model, device and engine, or folders of them.
    profiles : sequence of Path
        Folders of operator profiles, or roots that are searched for them.
    model, device, engine, method : str, optional
        What files and folders do not say; `method` is the profile's.
    tp : int
        Tensor-parallel degree of the profiles' rows to take.
    pool_labels : bool
        Take a published table's model names as labels of repeats of `model`.
    """

    runs: Sequence[Path] = ()
    profiles: Sequence[Path] = ()
    model: str | None = None
    device: str | None = None
    engine: str | None = None
    method: str | None = None
    tp: int = 1
    pool_labels: bool = False


def train(
    measured: Measurements,
    *,
    regressor: str = "physics",
    label: str | None = None,
    provenance: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Predictor:
    """Fit a predictor to runs, to operator profiles, or to runs on top of profiles.

    Parameters
    ----------
    measured : Measurements
    regressor : str
        Of the operators: ``physics``, ``forest``, ``lightgbm``, ``hybrid`` or ``auto``.
    label : str, optional
        Also state the accuracy of the runs under this label alone.
    provenance : str, optional
        One sentence on whose measurements these are; made of files and counts if not given.
    progress : callable
        Told in a sentence what is being done.

    Raises
    ------
    DataError, UsageError
        If the files are wrong, contradict each other, or are too few for a fit.
    """
    measured = _checked(measured)
    profiles = read_profiles(
        measured.profiles, device=measured.device, model=measured.model, method=measured.method
    )
    if not measured.runs:
        return _from_profiles(profiles, measured, regressor, provenance, progress)
    runs = read_runs_of_baseline(measured)
    first = runs[0]
    with blamed_on(measured.runs):
        sites = pool_sites(runs)
        place = place_of(first)
        engine = measured_engine(first.engine).name
    progress(f"{len(runs)} runs at {len(sites)} sites; fitting and holding sites out")
    if moved := int(sites.moved.sum()):
        progress(f"{moved} decode runs labelled 65 tokens longer were taken for their nominal length")
    steps = profiled_operators(profiles, place, regressor)
    with blamed_on(measured.runs):
        predictor = fit_predictor(
            sites,
            place=place,
            engine=engine,
            provenance=provenance or provenance_of(place, measured, f"{len(runs)} runs under {engine}"),
            profiles=steps,
        )
    if label is None:
        return predictor
    from kvpred.evaluation.labels import evaluate_label

    progress(f"judging the runs labelled {label} alone")
    alone = {f"label {label} alone": evaluate_label(runs, label)}
    return replace(predictor, accuracy={**predictor.accuracy, **alone})


def place_of(run: Run) -> Place:
    """Return what a run was measured on.

    A run of another host's processor keeps that one's name: ``host-cpu`` stands for this host's.
    """
    device = get_device(run.device)
    if device.name == HOST_CPU and run.host not in (None, device.title):
        device = replace(device, title=str(run.host), cores=None, source="the runs, made on another host")
    return Place(get_model(run.model), device, run.tp)


def check_bundle_folder(folder: Path) -> None:
    """Refuse a folder that a bundle cannot be written to without taking other files' place."""
    check_replaceable(folder, ours=FILES)


def _checked(measured: Measurements) -> Measurements:
    """Refuse unknown names among the options, before files are read that might be blamed for them.

    The engine gets its one name, however it is spelt.
    """
    if measured.model is not None:
        get_model(measured.model)
    if measured.device is not None:
        get_device(measured.device)
    if measured.engine is None:
        return measured
    return replace(measured, engine=measured_engine(measured.engine).name)


def _from_profiles(
    profiles: Sequence[Profile],
    measured: Measurements,
    regressor: str,
    provenance: str | None,
    progress: Callable[[str], None],
) -> Predictor:
    if not profiles:
        raise UsageError("nothing to learn from: give --runs, --profile or both")
    place = _place(profiles, measured.tp)
    engine = _engine_of_steps(profiles)
    if engine is not None and measured.engine in (None, engine):
        return _from_steps(profiles, place, engine, measured, regressor, provenance, progress)
    from kvpred.predictors.profiled import predictor_of_profile

    progress(
        f"fitting the operators of {len(profiles)} profiles; without runs the step overhead stays unknown"
    )
    return predictor_of_profile(
        profiles,
        place=place,
        engine=measured.engine or _engine_of_all(profiles),
        provenance=provenance
        or provenance_of(place, measured, f"operator profiles of {len(profiles)} methods"),
        kind=regressor,
    )


def _engine_of_all(profiles: Sequence[Profile]) -> str:
    """Return the engine that the profiles' manifests name; the usual one where none names any.

    Raises
    ------
    DataError
        If they name several.
    """
    engines = sorted({engine for profile in profiles if (engine := _engine_of(profile)) is not None})
    if len(engines) > 1:
        raise DataError(f"the profiles are of {' and '.join(engines)}: give those of one, or say --engine")
    return engines[0] if engines else DEFAULT_ENGINE


def _engine_of_steps(profiles: Sequence[Profile]) -> str | None:
    """Return the engine whose whole steps all the profiles hold, or None if there is no such engine."""
    engines = {_engine_of(profile) if profile.steps else None for profile in profiles}
    return engines.pop() if len(engines) == 1 else None


def _engine_of(profile: Profile) -> str | None:
    """Return the engine that a profile's manifest names, or None."""
    if profile.manifest is None or profile.manifest.engine is None:
        return None
    files = [profile.path / MANIFEST] if profile.path is not None else []
    with blamed_on(files, column="engine", value=profile.manifest.engine):
        return measured_engine(profile.manifest.engine).name


def _from_steps(
    profiles: Sequence[Profile],
    place: Place,
    engine: str,
    measured: Measurements,
    regressor: str,
    provenance: str | None,
    progress: Callable[[str], None],
) -> Predictor:
    from kvpred.predictors.in_place import predictor_of_steps

    progress(
        f"fitting the operators of {len(profiles)} profiles and the whole steps under {engine} that they "
        "were timed in, and holding sites out of both"
    )
    with blamed_on(measured.profiles):
        return predictor_of_steps(
            profiles,
            place=place,
            engine=engine,
            provenance=provenance
            or provenance_of(
                place, measured, f"steps of {len(profiles)} methods and their operators under {engine}"
            ),
            kind=regressor,
        )


def profiled_operators(profiles: Sequence[Profile], place: Place, regressor: str) -> Profiles:
    """Fit the profiles' operators for the place that the runs are of; none without profiles.

    Raises
    ------
    DataError
        If the profiles are of another model or device.
    """
    if not profiles:
        return {}
    from kvpred.predictors.profiled import profiled_steps

    if _place(profiles, place.tp) != place:
        raise DataError(
            f"the runs are of {place.model.name} on {place.device.name}, the profiles of "
            f"{profiles[0].model} on {profiles[0].device}"
        )
    return profiled_steps(profiles, place=place, kind=regressor)


def _place(profiles: Sequence[Profile], tp: int) -> Place:
    places = {Place(get_model(profile.model), get_device(profile.device), tp) for profile in profiles}
    for profile in profiles:
        _check_model(profile)
    if len(places) > 1:
        raise DataError(f"the profiles are of {len(places)} models or devices; give those of one")
    return places.pop()


def _check_model(profile: Profile) -> None:
    """Refuse the tables of another model than the profile is said to be of.

    The vocabulary is left out: Vidur's own profiles of LLaMA-2 count 32,768 where the model has 32,000.
    """
    model = get_model(profile.model)
    for name, table in profile.tables().items():
        for column, field in _ARCHITECTURE.items():
            values, expected = table.get(column, np.zeros(0)), getattr(model, field)
            others = values[values != expected]
            if others.size:
                raise DataError(
                    f"the profile is of another model: {model.name} has {expected}",
                    path=profile.path / f"{name}.csv" if profile.path is not None else None,
                    column=column,
                    value=int(others[0]),
                )


def read_runs_of_baseline(measured: Measurements) -> list[Run]:
    """Read the runs.

    Raises
    ------
    DataError
        If a file is wrong, or none of the runs is of fp16.
    """
    runs = read_measured_runs(
        measured.runs,
        model=measured.model,
        device=measured.device,
        engine=measured.engine,
        pool_labels=measured.pool_labels,
    )
    if BASELINE not in {run.method for run in runs}:
        message = f"no runs of {BASELINE}; every method is fitted relative to it, so measure that first"
        raise DataError(message, path=", ".join(map(str, measured.runs)))
    return runs


def provenance_of(place: Place, measured: Measurements, what: str) -> str:
    """Return a sentence on which files hold what was measured of which place."""
    names = ", ".join(path.name for path in (*measured.runs, *measured.profiles))
    return f"{what} of {place.model.name} on {place.device.title} ({names})"

"""Predictor bundles: a folder of JSON and CSV, with digests; never anything that runs code when opened."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from kvpred._version import __version__
from kvpred.data.files import is_folder, read_text, replaced_folder, write_text
from kvpred.data.sites import SiteTable, read_site_table, write_site_table
from kvpred.errors import DataError
from kvpred.hardware import DeviceSpec, LinkSpec
from kvpred.methods import BASELINE
from kvpred.models import ModelSpec
from kvpred.predictors.calibration import Profiles, StageFits
from kvpred.predictors.domain import Domain
from kvpred.predictors.greybox import STAGES, StageFit, StageForm
from kvpred.predictors.predictor import Predictor, StageCalibration
from kvpred.predictors.scaling import Place

if TYPE_CHECKING:
    from kvpred.predictors.profiled import ProfiledStep

SCHEMA_VERSION = 1
_INDEX, _SITES, _OPERATORS = FILES = ("bundle.json", "sites.csv", "operators")


def save(predictor: Predictor, folder: Path | str) -> None:
    """Write a predictor as a bundle, in one step; `load` returns an equal one.

    Parameters
    ----------
    predictor : Predictor
    folder : Path or str
        Replaced as a whole if it is a bundle already.
    """
    with replaced_folder(folder) as draft:
        if len(predictor.sites):
            write_site_table(draft / _SITES, predictor.sites)
        index: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "kvpred_version": __version__,
            "model": asdict(predictor.place.model),
            "device": asdict(predictor.place.device),
            "tp": predictor.place.tp,
            "engine": predictor.engine,
            "provenance": predictor.provenance,
            "stages": {name: _stage_to_json(stage) for name, stage in predictor.stages.items()},
            "accuracy": predictor.accuracy,
            "profiles": _save_profiles(predictor, draft),
        }
        index["files"] = {
            path.relative_to(draft).as_posix(): _digest(path.read_bytes())
            for path in sorted(draft.rglob("*"))
            if path.is_file()
        }
        index["digest"] = _digest(_canonical(index))
        write_text(draft / _INDEX, json.dumps(index, indent=1) + "\n")


def load(folder: Path | str) -> Predictor:
    """Open a bundle.

    Parameters
    ----------
    folder : Path or str
        As `save` wrote it.

    Raises
    ------
    DataError
        If it is no bundle, of a newer schema, truncated or changed after it was written.
    """
    root = Path(folder)
    path = root / _INDEX
    if not (is_folder(root) and path.is_file()):
        raise DataError(
            f"no predictor bundle: there is no {_INDEX} in it; `kvpred train` makes one", path=root
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
    try:
        _check_digests(root, index)
        return _from_json(root, index)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError) as error:
        raise DataError(f"not a valid bundle of schema version {version}: {error!r}", path=path) from None


def _check_digests(root: Path, index: dict[str, Any]) -> None:
    stated = {key: value for key, value in index.items() if key != "digest"}
    if index.get("digest") != _digest(_canonical(stated)):
        raise DataError("the bundle was changed after it was written; train it again", path=root / _INDEX)
    for name, digest in index["files"].items():
        path = root / name
        if not path.resolve().is_relative_to(root.resolve()):
            raise DataError(f"the bundle names a file outside itself: {name}", path=root / _INDEX)
        if not path.is_file():
            raise DataError("the bundle lacks this file; it is incomplete", path=path)
        if _digest(path.read_bytes()) != digest:
            raise DataError("this file was changed after the bundle was written; train it again", path=path)


def _canonical(index: dict[str, Any]) -> bytes:
    return json.dumps(index, sort_keys=True, separators=(",", ":")).encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _save_profiles(predictor: Predictor, draft: Path) -> dict[str, Any]:
    """Write each method's profiled operators into a folder of its own; return how to put them together."""
    saved: dict[str, Any] = {}
    for number, (name, profile) in enumerate(sorted(predictor.profiles.items())):
        step = cast("ProfiledStep", profile)
        place = f"{_OPERATORS}/{number:02d}"
        step.own.to_state(draft / place)
        saved[name] = {"operators": place, "n_layers": step.n_layers, "cold": step.cold}
    return saved


def _load_profiles(root: Path, saved: dict[str, Any]) -> Profiles:
    if not saved:
        return {}
    from kvpred.predictors.operators import OperatorSet
    from kvpred.predictors.profiled import ProfiledStep

    sets = {name: OperatorSet.from_state(root / entry["operators"]) for name, entry in saved.items()}
    return {
        name: ProfiledStep(sets[BASELINE], sets[name], int(entry["n_layers"]), bool(entry["cold"]))
        for name, entry in saved.items()
    }


def _stage_to_json(stage: StageCalibration) -> dict[str, Any]:
    fits = stage.fits
    return {
        "form": {"stage": fits.form.stage, "overlap": fits.form.overlap, "hinge": fits.form.hinge}
        | ({"crowded": True} if fits.form.crowded else {}),
        "methods": {
            name: {
                "coef": fit.coef.tolist(),
                "covariance": fit.covariance.tolist(),
                "site_error": fits.site_error[name],
                "run_noise": fits.run_noise[name],
            }
            for name, fit in fits.fits.items()
        },
        "typical_count": fits.typical_count,
        "domain": stage.domain.corners.tolist(),
        "scores": stage.scores.tolist(),
        "growth_per_octave": stage.growth_per_octave,
    }


def _stage_from_json(stage: dict[str, Any], profiles: Profiles) -> StageCalibration:
    form = StageForm(**stage["form"], profile=profiles.get(BASELINE))
    methods = stage["methods"]
    fits = StageFits(
        form=form,
        fits={
            name: StageFit(
                replace(form, profile=profiles.get(name, form.profile)),
                np.array(entry["coef"]),
                np.array(entry["covariance"]),
            )
            for name, entry in methods.items()
        },
        site_error={name: float(entry["site_error"]) for name, entry in methods.items()},
        run_noise={name: float(entry["run_noise"]) for name, entry in methods.items()},
        typical_count=float(stage["typical_count"]),
    )
    return StageCalibration(
        fits=fits,
        domain=Domain(np.array(stage["domain"])),
        scores=np.array(stage["scores"]),
        growth_per_octave=float(stage["growth_per_octave"]),
    )


def _from_json(root: Path, index: dict[str, Any]) -> Predictor:
    device = dict(index["device"])
    profiles = _load_profiles(root, index["profiles"])
    link = LinkSpec(**device.pop("link")) if device["link"] else device.pop("link")
    return Predictor(
        place=Place(ModelSpec(**index["model"]), DeviceSpec(**device, link=link), int(index["tp"])),
        engine=str(index["engine"]),
        stages={stage: _stage_from_json(index["stages"][stage], profiles) for stage in STAGES},
        sites=read_site_table(root / _SITES) if _SITES in index["files"] else SiteTable.empty(),
        provenance=str(index["provenance"]),
        accuracy=index["accuracy"],
    )

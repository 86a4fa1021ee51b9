"""Throughput predictors as bundles of JSON and CSV."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from kvpred.data.files import replaced_folder
from kvpred.data.sites import SiteTable, read_site_table, write_site_table
from kvpred.hardware import DeviceSpec, LinkSpec, measured_engine
from kvpred.methods import BASELINE
from kvpred.models import ModelSpec
from kvpred.predictors.calibration import Profiles, StageFits
from kvpred.predictors.domain import Domain
from kvpred.predictors.greybox import STAGES, StageFit, StageForm
from kvpred.predictors.predictor import Predictor, StageCalibration
from kvpred.predictors.scaling import Place
from kvpred.predictors.sealed import INDEX, opened, seal

if TYPE_CHECKING:
    from kvpred.predictors.profiled import ProfiledStep

KIND = "throughput"
_SITES, _OPERATORS = "sites.csv", "operators"
FILES = (INDEX, _SITES, _OPERATORS)


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
            "model": asdict(predictor.place.model),
            "device": asdict(predictor.place.device),
            "tp": predictor.place.tp,
            "engine": predictor.engine,
            "provenance": predictor.provenance,
            "basis": predictor.basis,
            "stages": {name: _stage_to_json(stage) for name, stage in predictor.stages.items()},
            "accuracy": predictor.accuracy,
            "profiles": _save_profiles(predictor, draft),
        }
        seal(draft, index)


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
    return opened(folder, KIND, _from_json)


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
        | {flag: True for flag in ("crowded", "batched", "joint") if getattr(fits.form, flag)},
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
        engine=measured_engine(str(index["engine"])).name,
        stages={stage: _stage_from_json(index["stages"][stage], profiles) for stage in STAGES},
        sites=read_site_table(root / _SITES) if _SITES in index["files"] else SiteTable.empty(),
        provenance=str(index["provenance"]),
        accuracy=index["accuracy"],
    )

"""Predictions of sites, written down before anything is measured there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import kvpred
from kvpred.data.files import is_folder, read_text, write_text
from kvpred.data.sites import RunSite
from kvpred.errors import DataError, UsageError
from kvpred.evaluation.live_report import LivePrediction
from kvpred.methods import BASELINE
from kvpred.predictors.calibration import mean_attended
from kvpred.predictors.predictor import Predictor

PREDICTIONS, MEASURED = "predictions.json", "measured"
_STAGE_FIELDS = {"prefill": "prefill_time_s", "decode": "decode_step_time_s"}
_DIGITS = 9


def predict_sites(
    predictor: Predictor, sites: Mapping[str, Sequence[RunSite]], *, level: float
) -> list[LivePrediction]:
    """Predict both stages of every method at its sites.

    Times are rounded to `_DIGITS` digits, so that they survive a file and another release of numpy.
    """
    place, found = predictor.place, []
    for method, own in sites.items():
        bsz, prompt_len, output_len = (
            np.array([getattr(site, name) for site in own]) for name in ("bsz", "prompt_len", "output_len")
        )
        estimate = kvpred.predict(
            method=method, bsz=bsz, prompt_len=prompt_len, output_len=output_len, predictor=predictor,
            model=place.model, device=place.device, engine=predictor.engine, tp=place.tp, level=level,
        )  # fmt: skip
        attended = mean_attended(method, prompt_len=prompt_len, output_len=output_len)
        for stage, name in _STAGE_FIELDS.items():
            length = attended if stage == "decode" else prompt_len
            copy_s = predictor.stages[stage].fits.fits[BASELINE].times(bsz=bsz, length=length)
            times = np.stack([getattr(estimate, name), *estimate.interval[name], copy_s], axis=1).tolist()
            found += [
                LivePrediction(
                    method, stage, site.bsz, site.prompt_len, site.output_len,
                    *(float(f"{time_s:.{_DIGITS}g}") for time_s in row),
                )
                for site, row in zip(own, times, strict=True)
            ]  # fmt: skip
    return found


@dataclass(frozen=True, slots=True)
class Frozen:
    """Predictions on disk: when they were written, and the SHA-256 of their file."""

    written_at: datetime
    digest: str


def freeze(stated: Mapping[str, Any], output: Path) -> Frozen:
    """Write predictions down before anything is measured, or find the same ones there.

    Parameters
    ----------
    stated : mapping
        The predictions and all that they rest on, as JSON holds it.
    output : Path

    Raises
    ------
    UsageError
        If there are others, or runs without predictions.
    DataError
        If the file is damaged.
    """
    path = output / PREDICTIONS
    if path.exists():
        _check_same(path, stated)
    elif is_folder(output / MEASURED) and any((output / MEASURED).iterdir()):
        raise UsageError(
            f"{output} holds runs but no {PREDICTIONS}: whoever predicts now could know them; name another "
            "--output"
        )
    else:
        written = {"written_at": datetime.now(UTC).isoformat(timespec="seconds"), **stated}
        write_text(path, json.dumps(written, indent=1) + "\n")
    content = path.read_bytes()
    written_at = datetime.fromisoformat(json.loads(content)["written_at"]).astimezone(UTC)
    return Frozen(written_at, hashlib.sha256(content).hexdigest())


def _check_same(path: Path, stated: Mapping[str, Any]) -> None:
    try:
        there = json.loads(read_text(path))
        datetime.fromisoformat(there["written_at"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"no predictions of kvpred ({error!r}); name another --output", path=path) from None
    if changed := [name for name in stated if there.get(name) != stated[name]]:
        raise UsageError(
            f"{path} holds other predictions (another {', '.join(changed)}), and what was said before "
            "measuring stays: repeat the same call to go on, or name another --output"
        )

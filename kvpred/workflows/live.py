"""Predict first, then measure: sites drawn at random, predictions on disk before the first run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvpred.data.files import read_text
from kvpred.engines.registry import engine_class
from kvpred.errors import DataError, UsageError
from kvpred.evaluation.host_drift import N_CONTROLS, control_sites, host_drift, without_drift
from kvpred.evaluation.live import judge_live, live_verdict
from kvpred.evaluation.live_report import LivePrediction, LiveValidation
from kvpred.evaluation.unseen import draw_sites
from kvpred.hardware import detect_host
from kvpred.hardware.host import HOST_CPU, detect_cpu
from kvpred.methods import BASELINE, get_method, split_methods
from kvpred.models import get_model
from kvpred.predictors.bundle import FILES, load
from kvpred.predictors.crossval import check_level
from kvpred.predictors.predictor import Predictor
from kvpred.workflows.calibrating import trusted
from kvpred.workflows.frozen import MEASURED, PREDICTIONS, freeze, predict_sites
from kvpred.workflows.measure_sites import spread
from kvpred.workflows.measuring import MeasureRequest, measure

if TYPE_CHECKING:
    from kvpred.data.journal import Progress

REPORT = "report"


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """What to predict and then to measure.

    Parameters
    ----------
    predictor : Path
        The bundle; its model, device and engine say what runs where.
    n_sites : int
        Drawn at random, the same for every method.
    methods : str
        Of the bundle's, separated by commas, or ``all``; fp16 is added.
    model : str or None
        Path of the ``config.json``, for a model that the catalogue does not have.
    level : float
        Of the intervals.
    seed : int
        Of the sites, and of what the engine draws.
    weights, dtype, repeats, urls, served_name, options
        See `kvpred.workflows.measuring.MeasureRequest`.
    """

    predictor: Path
    n_sites: int = 12
    methods: str = "all"
    model: str | None = None
    weights: Path | None = None
    dtype: str = "bfloat16"
    repeats: int = 5
    level: float = 0.9
    seed: int = 0
    urls: Mapping[str, str] = field(default_factory=dict)
    served_name: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


def validate_live(
    request: LiveRequest,
    output: Path,
    *,
    budget_s: float | None = None,
    least_rounds: int = 0,
    progress: Callable[[str], None] = lambda _: None,
    measuring: Callable[[Progress], None] = lambda _: None,
) -> LiveValidation:
    """Judge a bundle by measurements that are made after its predictions; called again, go on.

    Parameters
    ----------
    request : LiveRequest
    output : Path
        Folder of ``predictions.json``, and of the runs in ``measured``.
    budget_s : float, optional
        Seconds after which no further run starts; what was measured until then is judged.
    least_rounds : int
        Rounds that are made even so.
    progress : callable
        Told in a sentence what is being done.
    measuring : callable
        Told of each run.

    Raises
    ------
    UsageError
        If this host is not the bundle's device, the engine or a method is not there, or the folder holds
        other predictions, or runs without any.
    NotCoveredError
        If the bundle rests on no runs.
    DataError
        If the bundle or the predictions are damaged, or nothing was measured.
    """
    check_level(request.level)
    predictor = load(request.predictor)
    wanted = _measure_request(request, predictor)
    predictions = predict_sites(predictor, wanted.methods, level=request.level)
    frozen = freeze(_stated(request, predictor, predictions), output)
    progress(f"{len(predictions)} predictions in {output / PREDICTIONS} (SHA-256 {frozen.digest}); measuring")
    runs = measure(
        _with_controls(wanted, predictor),
        output / MEASURED,
        budget_s=budget_s,
        least_rounds=least_rounds,
        progress=measuring,
    )
    if early := [run for run in runs if run.measured_at is not None and run.measured_at < frozen.written_at]:
        raise DataError(
            f"{len(early)} runs are older than the predictions of {frozen.written_at.isoformat()}: they may "
            "have been known; name another --output",
            path=output / MEASURED,
        )
    kept, notes = trusted(runs)
    report = judge_live(predictions, kept, level=request.level)
    drift = host_drift(predictor.sites, kept)
    steady = judge_live(predictions, without_drift(kept, drift), level=request.level)
    return LiveValidation(
        name=request.predictor.name,
        provenance=predictor.provenance,
        written_at=frozen.written_at,
        digest=frozen.digest,
        seed=request.seed,
        report=report,
        verdict=live_verdict(report),
        drift=drift,
        steady_accuracy={stage.stage: stage.accuracy for stage in steady.stages},
        notes=tuple(notes),
    )


def _measure_request(request: LiveRequest, predictor: Predictor) -> MeasureRequest:
    place = predictor.place
    if place.tp != 1:
        raise UsageError(f"the predictor is of tp {place.tp}; kvpred measures tp 1")
    # In an order in which an early end leaves the range covered.
    sites = spread(draw_sites(predictor, n_sites=request.n_sites, seed=request.seed))
    engine = engine_class(predictor.engine)
    model = request.model or place.model.name
    found, known = get_model(model), place.model
    if replace(found, name=known.name, hf_id=known.hf_id, source=known.source) != known:
        raise UsageError(f"--model {model} is another model than the predictor's {place.model.name}")
    return MeasureRequest(
        engine=predictor.engine,
        methods=dict.fromkeys(_methods(request.methods, predictor), sites),
        model=model,
        weights=request.weights,
        device=_name_of_device(predictor) if engine.remote else device_here(predictor),
        dtype=request.dtype,
        repeats=request.repeats,
        urls=request.urls,
        served_name=request.served_name,
        options=request.options,
        seed=request.seed,
    )


def _with_controls(wanted: MeasureRequest, predictor: Predictor) -> MeasureRequest:
    """Add sites of fp16 that calibration knows, amid the others: they tell whether the host drifted."""
    sites = list(wanted.methods[BASELINE])
    for place, control in enumerate(control_sites(predictor.sites), start=1):
        sites.insert(place * len(sites) // (N_CONTROLS + 1), control)
    return replace(wanted, methods={**wanted.methods, BASELINE: sites})


def _name_of_device(predictor: Predictor) -> str:
    """Return what `MeasureRequest` calls the device of a server."""
    return "cpu" if predictor.place.device.name == HOST_CPU else predictor.place.device.name


def _methods(asked: str, predictor: Predictor) -> list[str]:
    """Return full method strings, fp16 first."""
    if asked.strip().lower() == "all":
        return sorted(predictor.methods, key=lambda method: (method != BASELINE, method))
    chosen = [get_method(name).spec for name in (BASELINE, *split_methods(asked))]
    if unknown := sorted(set(chosen) - set(predictor.methods)):
        raise UsageError(
            f"the predictor was not calibrated on {', '.join(unknown)}; "
            f"it knows {', '.join(predictor.methods)}"
        )
    return list(dict.fromkeys(chosen))


def device_here(predictor: Predictor) -> str:
    """Return torch's name of the predictor's device on this host.

    Raises
    ------
    UsageError
        If this host does not have it.
    """
    device = predictor.place.device
    own = detect_cpu()
    if device.name == HOST_CPU:
        if (device.title, device.cores) == (own.title, own.cores):
            return "cpu"
        here = f"{own.title} ({own.cores} cores)"
    else:
        cards = [card.title for card in detect_host()[1:]]
        if device.title in cards:
            return f"cuda:{cards.index(device.title)}"
        here = ", ".join([own.title, *cards])
    cores = f" ({device.cores} cores)" if device.cores else ""
    raise UsageError(
        f"the predictor speaks of {device.title}{cores}, this host has {here}: its predictions can only be "
        "checked where it was calibrated"
    )


def _stated(
    request: LiveRequest, predictor: Predictor, predictions: Sequence[LivePrediction]
) -> dict[str, Any]:
    """Return all that must not change between one call and the next, as JSON holds it."""
    place = predictor.place
    return {
        "bundle_digest": json.loads(read_text(request.predictor / FILES[0]))["digest"],
        "model": place.model.name,
        "device": place.device.title,
        "engine": predictor.engine,
        "seed": request.seed,
        "level": request.level,
        "repeats": request.repeats,
        "predictions": [asdict(one) for one in predictions],
    }

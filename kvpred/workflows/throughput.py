"""From tables of measured runs to what their throughput shows: read, check, compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from kvpred.data.runs import Run
from kvpred.errors import DataError
from kvpred.evaluation.throughput import Setting, Throughput, throughputs
from kvpred.evaluation.throughput_views import ThroughputViews, side_by_side, where
from kvpred.methods import BASELINE
from kvpred.workflows.reading import blamed_on, read_measured_runs

_RULE = (
    "A speed-up counts as faster or slower where its logarithm differs from 0 by more than two standard "
    "errors. Repeats of the same number are compared in pairs, which share the state of the machine; where "
    "there are fewer than two pairs, the medians are compared, with the noise of both."
)


def view_throughput(
    paths: Sequence[Path],
    *,
    model: str | None = None,
    device: str | None = None,
    engine: str | None = None,
    pool_labels: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> ThroughputViews:
    """Read runs of one model on any engines and machines, and work out what they show.

    Parameters
    ----------
    paths : sequence of Path
        CSV files, or folders of them.
    model, device, engine, pool_labels
        See `kvpred.data.runs.read_runs`.
    progress : callable
        Told in a sentence what is read.

    Raises
    ------
    DataError
        If a table is wrong, or the runs are of several models or tensor-parallel degrees.
    """
    runs = read_measured_runs(paths, model=model, device=device, engine=engine, pool_labels=pool_labels)
    with blamed_on(paths):
        _check_together(runs)
        cases = throughputs(runs)
    names = setting_names({case.setting for case in cases})
    progress(f"{_count(len(runs), 'run')} of {runs[0].model}: {'; '.join(names.values())}")
    return ThroughputViews(
        model=runs[0].model,
        notes=tuple(_notes(runs, cases, names)),
        cases=tuple(cases),
        names=names,
        sides=side_by_side(cases),
    )


def _check_together(runs: Sequence[Run]) -> None:
    models = sorted({run.model for run in runs})
    if len(models) > 1:
        hint = "give the runs of one"
        if any(run.label for run in runs):
            hint += ", or --model and --pool-labels if the names stand for the same model"
        raise DataError(f"the runs are of {len(models)} models ({', '.join(models)}): {hint}")
    degrees = sorted({run.tp for run in runs})
    if len(degrees) > 1:
        found = ", ".join(map(str, degrees))
        raise DataError(
            f"the runs are of {len(degrees)} tensor-parallel degrees ({found}): give those of one"
        )


def setting_names(settings: Iterable[Setting]) -> dict[Setting, str]:
    """Return what to call each setting: its engine, with the device and host where others have another.

    Examples
    --------
    >>> a, b = Setting("openvino", "cpu", "lab"), Setting("llamacpp", "cpu", "lab")
    >>> setting_names([a, b])[a]
    'openvino'
    """
    ordered = sorted(settings)
    devices, hosts = ({getattr(s, name) for s in ordered} for name in ("device", "host"))
    return {
        setting: setting.engine
        + (f" on {setting.device}" if len(devices) > 1 else "")
        + (f" ({setting.host or 'host not named'})" if len(hosts) > 1 else "")
        for setting in ordered
    }


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'s' * (number != 1)}"


def _notes(runs: Sequence[Run], cases: Sequence[Throughput], names: Mapping[Setting, str]) -> Iterable[str]:
    repeats = sorted({case.runs for case in cases})
    least = f"{repeats[0]} to " if len(repeats) > 1 else ""
    yield (
        f"Measured: {runs[0].model} on {where(names)}; {', '.join(names.values())}; "
        f"medians of {least}{_count(repeats[-1], 'repeat')}."
    )
    if any(case.speedup is not None for case in cases):
        yield _RULE
    yield from _labels(runs)
    yield from _marks(runs, cases)
    for setting, name in names.items():
        own = [case for case in cases if case.setting == setting]
        if all(case.method != BASELINE for case in own):
            yield f"{name}: no runs of {BASELINE}, so no speed-ups."
        elif lonely := sum(case.method != BASELINE and case.speedup is None for case in own):
            yield f"{name}: no {BASELINE} where {_count(lonely, 'case')} would need it for a speed-up."
        for stage in sorted({case.stage for case in own}):
            if all(case.error is None for case in own if case.stage == stage):
                yield (
                    f"{name}: nothing of {stage} was measured twice, so its noise is unknown: no bars, "
                    "no verdicts."
                )
        versions = {run.versions for run in runs if Setting.of(run) == setting}
        if len(versions) > 1:
            yield f"{name}: the runs are of {len(versions)} different versions of the software, pooled here."
    if len(names) > 1 and not side_by_side(cases):
        yield "Nothing stands side by side: no method has a speed-up at one site of two engines."


def _labels(runs: Sequence[Run]) -> Iterable[str]:
    labels = {run.label for run in runs if run.label is not None}
    if len(labels) > 1:
        yield (
            f"{len(labels)} model names of the table ({', '.join(sorted(labels))}) are pooled as repeats: "
            "the spread of a median is theirs, and pairs are of the same name."
        )


def _marks(runs: Sequence[Run], cases: Sequence[Throughput]) -> Iterable[str]:
    marks = Counter(run.mark for run in runs if run.mark is not None)
    if marks:
        found = ", ".join(f"{mark}: {number}" for mark, number in sorted(marks.items()))
        doubtful = sum(case.doubtful for case in cases)
        used = f"at {doubtful} of {len(cases)} points, ringed in the figures" if doubtful else "nowhere here"
        yield (
            f"{marks.total():,} of {_count(len(runs), 'run')} are marked ({found}). They count only where a "
            f"site has no others: {used}."
        )

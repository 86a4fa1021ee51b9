"""Which published measurements come nearest to a question, and in what they differ from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import log2

from kvpred.data.evidence import Evidence, read_evidence
from kvpred.data.field import device_name, engine_name, model_name
from kvpred.errors import UsageError
from kvpred.hardware import DeviceSpec, EngineSpec, get_device, get_engine_spec
from kvpred.methods import get_method
from kvpred.models import ModelSpec, get_model
from kvpred.predictors.estimate import Estimate

# What differing in each costs. A choice, not a measurement: each weighs more than all that come after it
# together, so the method comes first, then engine, device, model, and last the sizes.
METHOD, PARAMETERS, ENGINE, DEVICE, MODEL, LENGTH, BATCH = 32.0, 16.0, 8.0, 4.0, 2.0, 1.0, 0.5
# Lengths are published rounded: within this share they count as the same.
SAME_SIZE = 0.1


@dataclass(frozen=True, slots=True)
class Wanted:
    """What published measurements are looked for; what is not given is not compared.

    Parameters
    ----------
    method : str
        Method string of ours, or a method's name as a source has it.
    engine, device, model : str
        Catalogue names or published ones, upper and lower case alike.
    prompt_len, bsz : int or None
    """

    method: str = ""
    engine: str = ""
    device: str = ""
    model: str = ""
    prompt_len: int | None = None
    bsz: int | None = None


@dataclass(frozen=True, slots=True)
class Near:
    """A published measurement and how far it is from what was asked.

    Parameters
    ----------
    row : Evidence
    distance : float
        32 for another method (16 for other parameters of the same one), plus 8 for another engine, 4 for
        another device, 2 for another model, ``d / (1 + d)`` for a prompt ``d`` octaves longer or shorter, and
        half as much for the batch. What the source does not say counts as different.
    differs : tuple of str
        What is different or not said, such as ``device`` or ``model unknown``.
    """

    row: Evidence
    distance: float
    differs: tuple[str, ...]


def wanted(
    *,
    method: str = "",
    engine: str = "",
    device: str = "",
    model: str = "",
    prompt_len: int | None = None,
    bsz: int | None = None,
    rows: Sequence[Evidence] | None = None,
) -> Wanted:
    """Return a question in the words of the evidence.

    Raises
    ------
    UsageError
        If a name is neither in the catalogues nor in any row.
    """
    known = read_evidence() if rows is None else rows
    for name, value in (("prompt_len", prompt_len), ("bsz", bsz)):
        if value is not None and value < 1:
            raise UsageError(f"{name} {value}: give a whole number of at least 1")
    return Wanted(
        _method(method, known),
        _name(engine, [row.engine for row in known], lambda name: engine_name(name)[0], get_engine_spec),
        _name(device, [row.device for row in known], device_name, get_device),
        _name(model, [row.model for row in known], model_name, get_model),
        prompt_len,
        bsz,
    )


def _method(given: str, rows: Sequence[Evidence]) -> str:
    if not given or given in {row.published_method.partition(" (")[0] for row in rows}:
        return given
    return get_method(given).spec


def _name(
    given: str,
    names: Sequence[str],
    curated: Callable[[str], str],
    known: Callable[[str], EngineSpec | DeviceSpec | ModelSpec],
) -> str:
    """Return a name as the rows have it, else as the catalogue; nothing for nothing.

    `curated` makes of a source's spelling what the rows were given, `known` finds it in the catalogue.
    """
    if not given:
        return ""
    for spelling in (given, curated(given)):
        for name in names:
            if name and _alike(name) == _alike(spelling):
                return name
    with suppress(UsageError):
        return known(curated(given)).name
    return known(given).name


def _alike(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(" ", "-")


def nearest(
    question: Wanted,
    *,
    rows: Sequence[Evidence] | None = None,
    stage: str | None = None,
    limit: int = 10,
    per_source: int | None = None,
) -> list[Near]:
    """Return the published measurements that come nearest to a question, the nearest first.

    Parameters
    ----------
    question : Wanted
    rows : sequence of Evidence, optional
        The packaged ones if not given.
    stage : {"prefill", "decode", "e2e", "memory"}, optional
        Only such rows.
    limit : int
        Rows at most.
    per_source : int, optional
        Rows at most of one source and stage: half of all rows come from a few sources.

    Examples
    --------
    >>> near = nearest(Wanted(method="kv-fp8", engine="vllm", device="h100"), stage="decode", limit=1)
    >>> near[0].row.ratio_better, near[0].differs
    (1.174, ())
    """
    found = [
        _near(row, question)
        for row in (read_evidence() if rows is None else rows)
        if stage is None or row.stage == stage
    ]
    # Of equally near ones those that say more, then the newer.
    found.sort(key=lambda near: near.row.date, reverse=True)
    found.sort(key=lambda near: (near.distance, near.row.quality))
    taken: Counter[tuple[str, str]] = Counter()
    kept = []
    for near in found:
        key = (near.row.source_url, near.row.stage)
        taken[key] += 1
        if per_source is None or taken[key] <= per_source:
            kept.append(near)
    return kept[:limit]


def beside(estimate: Estimate, *, rows: Sequence[Evidence] | None = None, limit: int = 3) -> list[Near]:
    """Return what others measured of an estimate's method, the nearest first; nothing if nobody did.

    Speed only, whatever the method's parameters, and one row per source and stage at most, so that no source
    speaks twice.

    Parameters
    ----------
    estimate : Estimate
        Of one request.
    rows : sequence of Evidence, optional
        The packaged ones if not given.
    limit : int
    """
    known = read_evidence() if rows is None else rows
    own = [row for row in known if row.stage != "memory" and row.method.partition(":")[0] == estimate.method]
    question = Wanted(
        method=estimate.method_params,
        engine=estimate.engine,
        device=estimate.device,
        model=estimate.model,
        prompt_len=estimate.prompt_len,
        bsz=estimate.bsz,
    )
    return nearest(question, rows=own, limit=limit, per_source=1)


def _near(row: Evidence, question: Wanted) -> Near:
    differs: list[str] = []
    distance = _method_distance(row, question.method, differs)
    names = (
        ("engine", row.engine, question.engine, ENGINE),
        ("device", row.device, question.device, DEVICE),
        ("model", row.model, question.model, MODEL),
    )
    for name, published, asked, cost in names:
        if asked and _alike(published) != _alike(asked):
            distance += cost
            differs.append(name if published else f"{name} unknown")
    for name, size, asked_size, cost in (
        ("prompt_len", row.prompt_len, question.prompt_len, LENGTH),
        ("bsz", row.bsz, question.bsz, BATCH),
    ):
        if asked_size is None:
            continue
        if size is None:
            distance += cost
            differs.append(f"{name} unknown")
        else:
            octaves = abs(log2(max(size, 1) / asked_size))
            distance += cost * octaves / (1 + octaves)
            if octaves > log2(1 + SAME_SIZE):
                differs.append(name)
    return Near(row, distance, tuple(differs))


def _method_distance(row: Evidence, asked: str, differs: list[str]) -> float:
    if not asked or asked in (row.method, row.published_method.partition(" (")[0]):
        return 0.0
    if row.method.partition(":")[0] == asked.partition(":")[0]:
        differs.append("parameters")
        return PARAMETERS
    differs.append("method")
    return METHOD

"""Published measurements as tables: the nearest to a question, and beside a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kvpred.evaluation.evidence import Near, Wanted
from kvpred.methods import BASELINE
from kvpred.predictors.estimate import Estimate
from kvpred.predictors.steps import Coverage
from kvpred.reports.sheets import Column, Sheet, sheet

if TYPE_CHECKING:
    from rich.console import RenderableType

# What an estimate rests on, by its basis and whether the method itself was ever measured.
_RESTS_ON = {
    ("calibrated", True): "runs of this very model, device, engine and method",
    ("profiled", True): "operators timed for this model, device and method, without what an engine adds",
    ("transferred", True): "runs of the method on another model or device, scaled by bytes and FLOPs",
    ("roofline", True): "runs of the method under another engine, scaled by bytes and FLOPs if elsewhere",
    ("roofline", False): "fp16's time and what the method's bytes and FLOPs add or save with ideal kernels; "
    "no run of it is known to the predictor, and real kernels are often slower",
}


def rests_on(known: Coverage) -> str:
    """Say in words what an estimate rests on."""
    return _RESTS_ON[known.basis, known.measured]


def _times(ratio: float) -> str:
    return f"{ratio:.2f}×"


def _whole(count: int) -> str:
    return f"{count:,}"


def _words(near: Near) -> str:
    """Return what differs; that something is unknown shows as a dash in its own column."""
    return ", ".join(part.removesuffix(" unknown") for part in near.differs) or "nothing"


_SITE = (
    Column("engine", "Engine"),
    Column("device", "Device"),
    Column("model", "Model"),
    Column("bsz", "bsz", _whole),
    Column("prompt_len", "Prompt", _whole),
)
_NEAR = (
    Column("stage", "Stage"),
    Column("published_method", "Method as published"),
    Column("ratio_better", "vs 16 bit", _times),
    *_SITE,
    Column("differs", "Differs in"),
    Column("source", "Source", "[{}]".format),
)
_BESIDE = (
    Column("method", "Method"),
    Column("stage", "Stage"),
    Column("predicted_ratio", "Predicted", _times),
    Column("ratio_better", "Published", _times),
    *_SITE,
    Column("differs", "Differs in"),
    Column("source", "Source", "[{}]".format),
)


def near_records(found: Sequence[Near]) -> list[dict[str, Any]]:
    """Return each measurement whole, with its distance and what differs."""
    return [
        {**asdict(near.row), "distance": round(near.distance, 4), "differs": list(near.differs)}
        for near in found
    ]


def near_sheet(found: Sequence[Near], question: Wanted) -> Sheet:
    """Return the nearest measurements, the nearest first; above 1 the compressed cache is better."""
    numbers = _numbered(found)
    rows = [
        (
            near.row.stage,
            near.row.published_method.partition(" (")[0],
            near.row.ratio_better,
            *_site(near),
            _words(near),
            numbers[near.row.source_url],
        )
        for near in found
    ]
    asked = [str(value) for value in asdict(question).values() if value]
    return sheet("nearest", f"Published measurements nearest to: {', '.join(asked) or 'any'}", _NEAR, rows)


def source_notes(found: Sequence[Near]) -> list[str]:
    """Return the address of each source by its number, with the versions that were measured."""
    notes = []
    for url, number in _numbered(found).items():
        versions = dict.fromkeys(near.row.version for near in found if near.row.source_url == url)
        said = "; ".join(filter(None, versions))
        notes.append(f"[{number}] {url}" + (f" ({said})" if said else ""))
    return notes


def _numbered(found: Sequence[Near]) -> dict[str, int]:
    urls = dict.fromkeys(near.row.source_url for near in found)
    return {url: number for number, url in enumerate(urls, 1)}


def _site(near: Near) -> tuple[Any, ...]:
    row = near.row
    return row.engine, row.device or None, row.model or None, row.bsz, row.prompt_len


@dataclass(frozen=True, slots=True)
class Explained:
    """An estimate with what it rests on and what others measured.

    Parameters
    ----------
    estimate : Estimate
        Of one request.
    rests_on : str
        In words.
    found : tuple of Near
        From `kvpred.evaluation.evidence.beside`.
    """

    estimate: Estimate
    rests_on: str
    found: tuple[Near, ...]


def explanation(explained: Explained, *, brief: bool = False) -> dict[str, Any]:
    """Return what an estimate rests on and what others measured, for JSON and CSV.

    Parameters
    ----------
    explained : Explained
    brief : bool
        One line of text per measurement, for a cell of a CSV file, instead of an object.
    """
    found, speedups = explained.found, explained.estimate.speedup_vs_fp16
    evidence: list[Any] = [
        f"{near.row.stage} {_times(near.row.ratio_better)} {near.row.source_url}"
        if brief
        else {"predicted_ratio": speedups[near.row.stage], **record}
        for near, record in zip(found, near_records(found), strict=True)
    ]
    return {"rests_on": explained.rests_on, "evidence": evidence}


def explanation_tables(explained: Sequence[Explained]) -> RenderableType:
    """Draw what others measured beside the predictions, and say what each prediction rests on."""
    from kvpred.reports.style import method_label
    from kvpred.reports.tables import rich_tables

    every = [near for one in explained for near in one.found]
    numbers = _numbered(every)
    rows = [
        (
            method_label(one.estimate.method_params),
            near.row.stage,
            one.estimate.speedup_vs_fp16[near.row.stage],
            near.row.ratio_better,
            *_site(near),
            _words(near),
            numbers[near.row.source_url],
        )
        for one in explained
        for near in one.found
    ]
    title = "What others measured: speed over 16 bit, the nearest of each method"
    by_words: dict[str, list[str]] = {}
    for one in explained:
        by_words.setdefault(one.rests_on, []).append(method_label(one.estimate.method_params))
    notes = source_notes(every)
    notes += [f"{', '.join(names)}: predicted from {words}." for words, names in by_words.items()]
    silent = [
        method_label(one.estimate.method_params)
        for one in explained
        if not one.found and one.estimate.method_params != BASELINE
    ]
    notes += [f"No published measurement of {', '.join(silent)} is known."] if silent else []
    return rich_tables([sheet("evidence", title, _BESIDE, rows)] if rows else [], notes=notes)


def curation_sheet(kept: int, left_out: Mapping[str, int]) -> Sheet:
    """Return how many rows of a collection were kept, and left out by reason."""
    columns = (Column("outcome", "Rows"), Column("n_rows", "n", str))
    rows = [("kept", kept), *((f"left out: {reason}", count) for reason, count in left_out.items())]
    return sheet("curated", "Published measurements, curated", columns, rows)

"""A recommendation as tables for people and as one record per method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kvpred.data.limits import Limit, shown_s
from kvpred.data.risk import PublishedRisk
from kvpred.evaluation.published_risk import Broken
from kvpred.evaluation.quality import MODEL, SOURCE, QualityMatch
from kvpred.evaluation.recommendation import Recommendation
from kvpred.evaluation.risk import THRESHOLD
from kvpred.methods import BASELINE
from kvpred.predictors.recommend import Candidate
from kvpred.reports.evidence import Explained, explanation
from kvpred.reports.sheets import Column, Sheet, decimal, percent, sheet, signed_percent
from kvpred.reports.style import method_label

if TYPE_CHECKING:
    from rich.console import RenderableType


def recommend_records(
    found: Recommendation, explained: Sequence[Explained], broken: Broken, *, brief: bool = False
) -> list[dict[str, Any]]:
    """Return one record per method: its place, its batch, latencies, costs, quality, and why not.

    Parameters
    ----------
    found : Recommendation
    explained : sequence of Explained
        What others measured of the first two.
    broken : Broken
    brief : bool
        See `kvpred.reports.evidence.explanation`.
    """
    beside = {one.estimate.method_params: explanation(one, brief=brief) for one in explained}
    places = {candidate.method.spec: place for place, candidate in enumerate(found.ranked, 1)}
    return [
        _record(candidate, found, broken, places.get(candidate.method.spec))
        | beside.get(candidate.method.spec, {"rests_on": None, "evidence": []})
        for candidate in found.candidates
    ]


def _record(candidate: Candidate, found: Recommendation, broken: Broken, place: int | None) -> dict[str, Any]:
    best, standing, shift = candidate.best, candidate.standing, candidate.shift
    ratio, limits = standing.vs_fp16 if standing else None, found.terms.limits
    return {
        "rank": place,
        "method": candidate.method.name,
        "method_params": candidate.method.spec,
        "model": found.place.model.name,
        "device": found.place.device.name,
        "engine": found.engine,
        "tp": found.place.tp,
        "rejected": candidate.rejected or None,
        "bsz": best.bsz if best else None,
        "max_bsz": candidate.max_bsz,
        "limit_s": {limit.name: limit.seconds for limit in limits},
        "reached_s": _by_limit(limits, best.reached_s if best else None),
        "predicted_s": _by_limit(limits, best.predicted_s if best else None),
        "ttft_s": float(best.times.prefill.time_s.mean()) if best else None,
        "tpot_s": float(best.times.decode.time_s.mean()) if best else None,
        "e2e_latency_s": float(best.times.e2e_s.mean()) if best else None,
        "price_per_hour_usd": found.terms.price_per_hour,
        "usd_per_request": standing.usd_per_request if standing else None,
        "usd_per_million_output_tokens": standing.usd_per_million_output_tokens if standing else None,
        "usd_per_request_predicted": best.usd_per_request if best else None,
        "usd_per_million_output_tokens_predicted": best.usd_per_million_output_tokens if best else None,
        "usd_vs_fp16": ratio[0] if ratio else None,
        "usd_vs_fp16_interval": list(ratio[1:]) if ratio else None,
        "interval_level": found.terms.level,
        "cheapest_probability": standing.chance if standing else None,
        "output_multiplier": shift.multiplier,
        "output_multiplier_interval": [shift.low, shift.high],
        "output_multiplier_basis": shift.basis,
        "output_multiplier_provenance": shift.provenance,
        "basis": candidate.basis,
        "in_domain": best.in_domain if best else None,
        "published_quality": _quality(candidate, found.quality.get(candidate.method.spec))
        | {"broken": _broken(broken.shares.get(candidate.method.spec))},
    }


def _by_limit(limits: Sequence[Limit], values_s: Sequence[float] | None) -> dict[str, float | None]:
    return dict(zip((limit.name for limit in limits), values_s or (None,) * len(limits), strict=True))


def _quality(candidate: Candidate, match: QualityMatch | None) -> dict[str, Any]:
    run = match.published if match else None
    return {
        "status": _status(candidate, match),
        "loss": run.loss if run else None,
        "loss_interval": [run.loss_low, run.loss_high] if run else None,
        "method_params": run.method_params if run else None,
        "score": run.score if run else None,
        "fp16_score": run.baseline_score if run else None,
        "model": run.model if run else None,
        "datasets": run.datasets if run else None,
        "source": run.source if run else None,
    }


def _broken(risk: PublishedRisk | None) -> dict[str, Any]:
    names = ("share", "low", "high", "basis", "auc", "beats_base_rate")
    return {name: getattr(risk, name) if risk else None for name in names}


def _status(candidate: Candidate, match: QualityMatch | None) -> str:
    if match is None:
        return "reference" if candidate.method.spec == BASELINE else "unknown"
    return "published" if match.exact else "published for another division of as large a cache"


def recommend_tables(found: Recommendation, explained: Sequence[Explained], broken: Broken) -> RenderableType:
    """Draw the ranking, the rejected methods with the reason, published quality apart, and the evidence."""
    from rich.console import Group
    from rich.text import Text

    from kvpred.reports.evidence import explanation_tables
    from kvpred.reports.tables import rich_tables

    sheets = [table for table in (_ranked(found), _rejected(found), _qualities(found, broken)) if table.rows]
    parts: list[RenderableType] = [rich_tables(sheets)]
    if explained:
        parts += [explanation_tables(explained), Text()]
    said = (*found.notes, *broken_notes(broken), *_shifts(found))
    notes = [f"{note[:1].upper()}{note[1:]}." for note in said]
    return Group(*parts, *(Text(note, style="dim") for note in notes))


def _thousandth(usd: float) -> str:
    return f"{1e3 * usd:.3g}"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}×"


def _ranked(found: Recommendation) -> Sheet:
    limits = found.terms.limits
    columns = [
        Column("rank", "#", str),
        Column("method", "Method"),
        Column("bsz", "Batch", str),
        *(Column(one.name, f"{one.metric.upper()} P{one.percentile:g}", shown_s) for one in limits),
        Column("usd_per_request", "$/1k req", _thousandth),
        Column("usd_per_million_output_tokens", "$/M tokens", decimal),
        Column("usd_vs_fp16", "$ vs fp16", _with_interval),
        Column("cheapest_probability", "Cheapest %", percent),
        Column("output_multiplier", "Answers", _times),
        Column("basis", "Basis"),
    ]
    place = found.place
    where = place.device.name + (f" x {place.tp}" if place.tp > 1 else "")
    price = f"${found.terms.price_per_hour:g} per device-hour"
    title = f"{found.finding} ({place.model.name} on {where}, {found.engine}, {price})"
    return sheet("ranked", title, columns, [_row(n, one, found) for n, one in enumerate(found.ranked, 1)])


def _row(place: int, candidate: Candidate, found: Recommendation) -> tuple[Any, ...]:
    best, standing = candidate.best, candidate.standing
    assert best is not None and standing is not None
    return (
        place,
        method_label(candidate.method.spec),
        best.bsz,
        *best.reached_s,
        standing.usd_per_request,
        standing.usd_per_million_output_tokens,
        standing.vs_fp16,
        standing.chance,
        candidate.shift.multiplier,
        candidate.basis + ("" if best.in_domain else " *"),
    )


def _with_interval(ratio: tuple[float, float, float]) -> str:
    return "{:.2f} ({:.2f}-{:.2f})".format(*ratio)


def _rejected(found: Recommendation) -> Sheet:
    columns = (Column("method", "Rejected"), Column("reason", "Why"), Column("basis", "Basis"))
    rows = [(method_label(one.method.spec), one.rejected, one.basis) for one in found.rejected]
    return sheet("rejected", "Rejected, the nearest to the limits first", columns, rows)


def _qualities(found: Recommendation, broken: Broken) -> Sheet:
    columns = (
        Column("method", "Method"),
        Column("loss", "Loss %", signed_percent),
        Column("loss_low", "from", signed_percent),
        Column("loss_high", "to", signed_percent),
        Column("broken", "Broken %", percent),
        Column("broken_low", "from", percent),
        Column("broken_high", "to", percent),
        Column("broken_of", "of"),
        Column("published_for", "Published for"),
    )
    rows = []
    for one in found.candidates:
        if one.method.spec == BASELINE:
            continue
        match = found.quality.get(one.method.spec)
        run = match.published if match else None
        risk = broken.shares.get(one.method.spec)
        losses = (run.loss, run.loss_low, run.loss_high) if run else (None,) * 3
        shares = (risk.share, risk.low, risk.high, risk.task) if risk else (None,) * 4
        known = run.method_params if run else "unknown"
        rows.append((method_label(one.method.spec), *losses, *shares, known))
    title = (
        f"Beside the ranking: published LongBench scores of {MODEL} against fp16's; not predicted ({SOURCE})"
    )
    return sheet("quality", title, columns, rows)


def broken_notes(broken: Broken) -> list[str]:
    """Say what a broken request is, and of which methods the task type tells nothing."""
    if not broken.shares:
        return []
    notes = [
        f"broken: of the published requests that fp16 answers no worse than half of their dataset, those "
        f"whose score falls by {THRESHOLD:.0%} or more; intervals are over datasets"
    ]
    unhelped = {spec: risk for spec, risk in broken.shares.items() if not risk.beats_base_rate}
    if broken.task is not None and unhelped:
        methods = ", ".join(f"{method_label(spec)} (AUC {risk.auc:.2f})" for spec, risk in unhelped.items())
        notes.append(
            f"on held-out datasets the task type did not help beyond the base rate, so the share of all "
            f"requests stands for {broken.task}: {methods}"
        )
    return notes


def _shifts(found: Recommendation) -> list[str]:
    """Say what the lengths of the first two's answers rest on."""
    lines = [
        f"answers of {one.method.name}, {one.shift.basis}: {one.shift.provenance}".rstrip(".")
        for one in found.ranked[:2]
        if one.method.spec != BASELINE
    ]
    if any(one.best and not one.best.in_domain for one in found.ranked):
        lines.append("* outside the range measured for this method: trust it less")
    return lines

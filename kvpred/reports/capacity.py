"""Capacities as a table for people, as one record per method, and as a folder with a page and its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kvpred.data.limits import shown_s
from kvpred.reports.capacity_figures import capacity_figure, curve_figure
from kvpred.reports.folder import Written, write_report
from kvpred.reports.sheets import Column, Sheet, decimal, sheet
from kvpred.reports.style import method_label
from kvpred.simulation.capacity import TOLERANCE, WAITING_GROWTH, Probe
from kvpred.simulation.fleet import CapacityStudy, MethodCapacity

_BANDED = ("qps_per_replica", "replicas", "usd_per_hour")


def capacity_records(study: CapacityStudy) -> list[dict[str, Any]]:
    """Return one record per method: its capacity with the band, what binds, replicas and dollars."""
    return [_record(study, one) for one in study.capacities]


def _record(study: CapacityStudy, one: MethodCapacity) -> dict[str, Any]:
    low, high = one.band
    price, at = study.price_per_hour, one.at
    return {
        "method": one.name,
        "method_params": one.estimate.method_params,
        "model": study.place.model.name,
        "device": study.place.device.name,
        "engine": study.engine,
        "tp": study.place.tp,
        "scheduler": study.scheduler,
        "requests": len(one.trace),
        "qps_per_replica": one.qps,
        "binding": one.usual.capacity.binding if one.usual and one.qps else None,
        "rejected": one.refusal(study.limits),
        "limit_s": {limit.name: limit.seconds for limit in study.limits},
        "reached_s": _by_limit(study, at),
        "alone_s": _by_limit(study, one.usual.alone if one.usual else None),
        "throughput_tok_s": at.throughput_tok_s if at else None,
        "traffic_qps": study.traffic_qps,
        "replicas": study.replicas(one.qps),
        "price_per_hour_usd": price,
        "usd_per_hour": study.usd_per_hour(one.qps),
        "usd_per_million_output_tokens": None if price is None else one.usd_per_million_tokens(price),
        "interval": {
            "qps_per_replica": [low, high],
            "replicas": [study.replicas(high), study.replicas(low)],
            "usd_per_hour": [study.usd_per_hour(high), study.usd_per_hour(low)],
        },
        "interval_level": study.level,
        "qps_tolerance": TOLERANCE,
        "mean_prompt_tokens": float(one.trace.prompt_tokens.mean()),
        "mean_output_tokens": float(one.trace.output_tokens.mean()),
        "output_multiplier": one.shift.multiplier,
        "output_multiplier_interval": [one.shift.low, one.shift.high],
        "output_multiplier_basis": one.shift.basis,
        "output_multiplier_provenance": one.shift.provenance,
        "basis": one.estimate.basis,
        "in_domain": bool(one.estimate.in_domain.all()),
        "provenance": one.estimate.provenance,
    }


def _by_limit(study: CapacityStudy, probe: Probe | None) -> dict[str, float | None]:
    values = probe.values_s if probe else (None,) * len(study.limits)
    return dict(zip((limit.name for limit in study.limits), values, strict=True))


def _three(value: float) -> str:
    return f"{value:,.3g}"


def _banded(values: tuple[float | None, float | None, float | None]) -> str:
    """Show a value with its band; None where no number of replicas suffices."""
    value, low, high = ("∞" if one is None else _three(one) for one in values)
    return f"{value} ({low}-{high})"


def capacity_sheet(study: CapacityStudy) -> Sheet:
    """Return the table for people, most served first; without the methods that serve nothing."""
    traffic, price = study.traffic_qps is not None, study.price_per_hour is not None
    columns = [
        Column("method", "Method"),
        Column("qps_per_replica", "Requests/s", _banded),
        Column("binding", "Bound by"),
        *(Column(one.name, f"{one.metric.upper()} P{one.percentile:g}", shown_s) for one in study.limits),
        *[Column("replicas", "Replicas", _banded)] * traffic,
        *[Column("usd_per_hour", "$/h", _banded)] * (traffic and price),
        *[Column("usd_per_million_output_tokens", "$/M tokens", decimal)] * price,
        Column("output_multiplier", "Answers", "{:.2f}×".format),
        Column("basis", "Basis"),
    ]
    served = sorted((one for one in study.capacities if one.qps), key=lambda one: -one.qps)
    return sheet("summary", study.finding, columns, [_row(study, one) for one in served])


def _row(study: CapacityStudy, one: MethodCapacity) -> tuple[Any, ...]:
    assert one.usual is not None and one.at is not None
    low, high = one.band
    rates = (one.qps, high, low)
    row: list[Any] = [method_label(one.estimate.method_params), (one.qps, low, high)]
    row += [one.usual.capacity.binding, *one.at.values_s]
    if study.traffic_qps is not None:
        row.append(tuple(map(study.replicas, rates)))
        if study.price_per_hour is not None:
            row.append(tuple(map(study.usd_per_hour, rates)))
    if study.price_per_hour is not None:
        row.append(one.usd_per_million_tokens(study.price_per_hour))
    marked = "" if one.estimate.in_domain.all() else " *"
    return *row, one.shift.multiplier, one.estimate.basis + marked


def capacities_sheet(study: CapacityStudy) -> Sheet:
    """Return one row per method with every number on its own, for the CSV file."""
    columns = ["method_params", "basis", "binding"]
    columns += [f"{name}{end}" for name in _BANDED for end in ("", "_low", "_high")]
    columns += [f"{limit.name}_s" for limit in study.limits]
    rows = []
    for record in capacity_records(study):
        row = [record[name] for name in columns[:3]]
        for name in _BANDED:
            row += [record[name], *record["interval"][name]]
        rows.append((*row, *record["reached_s"].values()))
    return sheet("capacity", study.finding, [Column(name, name, str) for name in columns], rows)


def rejected_sheet(study: CapacityStudy) -> Sheet:
    """Return the methods that serve nothing, with the reason."""
    columns = (Column("method", "Rejected"), Column("rejected", "Why"), Column("basis", "Basis"))
    rows = [
        (method_label(one.estimate.method_params), one.refusal(study.limits), one.estimate.basis)
        for one in study.capacities
        if not one.qps
    ]
    return sheet("rejected", "Rejected", columns, rows)


def probes_sheet(study: CapacityStudy) -> Sheet:
    """Return every rate that was tried, for every method at predicted, slow and fast steps."""
    columns = (
        Column("method", "Method"),
        Column("steps", "Steps"),
        Column("qps", "Requests/s", _three),
        *(Column(f"{one.name}_s", str(one), shown_s) for one in study.limits),
        Column("waiting_growth", "Waiting grows, s/s", decimal),
        Column("throughput_tok_s", "Tokens/s", _three),
        Column("missed", "Missed"),
    )
    rows = [
        (one.estimate.method_params, steps, probe.qps, *probe.values_s, probe.waiting_growth,
         probe.throughput_tok_s, " ".join(probe.missed) or None)
        for one in study.capacities
        for steps, found in (("predicted", one.usual), ("slow", one.slow), ("fast", one.fast))
        for probe in (found.capacity.probes if found else ())
    ]  # fmt: skip
    return sheet("probes", "Every rate that was tried", columns, rows)


def capacity_notes(study: CapacityStudy) -> list[str]:
    """Return what a reader must know, a sentence each."""
    level = f"{100 * study.level:g} %"
    notes = [
        *study.notes,
        f"the largest rate, to {100 * TOLERANCE:g} %, that meets every limit over all requests while answers "
        f"keep up: the wait for the first token grows by no more than {WAITING_GROWTH:g} s per second",
        f"in brackets: with steps at the slow and the fast end of their {level} interval",
    ]
    if any(not one.estimate.in_domain.all() for one in study.capacities):
        notes.append("* at its capacity outside the range measured for this method: trust it less")
    return notes


def capacity_tables(study: CapacityStudy) -> Any:
    """Draw the capacities, the rejected methods and the notes for a terminal."""
    from kvpred.reports.tables import rich_tables

    sheets = [table for table in (capacity_sheet(study), rejected_sheet(study)) if table.rows]
    notes = [f"{note[:1].upper()}{note[1:]}." for note in capacity_notes(study)]
    return rich_tables(sheets, notes=notes)


def write_capacity_report(study: CapacityStudy, folder: Path) -> Written:
    """Write the page, its tables as CSV and its figures as PNG into a folder, in one step.

    Raises
    ------
    UsageError, MissingExtraError
        See `kvpred.reports.folder.write_report`.
    """
    tables = [table for table in (capacity_sheet(study), rejected_sheet(study)) if table.rows]
    return write_report(
        folder,
        title="How much traffic does one replica serve within the limits?",
        notes=capacity_notes(study),
        parts=[*tables[:1], capacity_figure(study), curve_figure(study), *tables[1:]],
        data=[capacities_sheet(study), probes_sheet(study)],
    )

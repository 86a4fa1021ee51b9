"""Simulated traffic as tables, as JSON objects, and as a folder with a page and its data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Any

from kvpred.data.requests import COLUMNS as REQUEST_COLUMNS
from kvpred.reports.folder import Written, write_report
from kvpred.reports.requests import distinct, short
from kvpred.reports.sheets import Column, Sheet, Show, percent, sheet
from kvpred.reports.simulation_figures import (
    LATENCIES,
    band_figure,
    cdf_figure,
    cdf_sheet,
    in_service_figure,
    in_service_sheet,
)
from kvpred.reports.style import method_label
from kvpred.simulation.outcome import (
    METRICS,
    STATISTICS,
    Band,
    Outcome,
    Simulations,
    TrafficStudy,
    latency_band,
    qps_served,
    statistic_s,
)
from kvpred.simulation.simulate import Simulation

_COMPARED = tuple(LATENCIES)


def traffic_rows(study: TrafficStudy) -> list[dict[str, Any]]:
    """Return one object per method that JSON can hold; what is not known is None."""
    return [_row(study, outcome) for outcome in study.outcomes]


def _row(study: TrafficStudy, outcome: Outcome) -> dict[str, Any]:
    estimate, trace, runs = outcome.estimate, outcome.trace, outcome.runs
    row: dict[str, Any] = {
        "method": estimate.method,
        "method_params": estimate.method_params,
        "model": estimate.model,
        "device": estimate.device,
        "engine": estimate.engine,
        "tp": estimate.tp,
        "scheduler": study.scheduler,
        "max_bsz": study.max_bsz,
        "replicas": study.replicas,
        "requests": len(trace),
        "qps": trace.qps,
        "prompt_tokens_mean": float(trace.prompt_tokens.mean()),
        "output_tokens_mean": float(trace.output_tokens.mean()),
        "output_shift": asdict(outcome.shift),
        "fits": runs is not None,
        "unfit": outcome.unfit,
    }
    if runs is not None:
        row |= _measured(study, runs, outcome)
    return row | {
        "interval_level": estimate.interval_level,
        "basis": estimate.basis,
        "in_domain": estimate.in_domain,
        "provenance": estimate.provenance,
    }


def _measured(study: TrafficStudy, runs: Simulations, outcome: Outcome) -> dict[str, Any]:
    bands = {
        f"{name}_s": {which: latency_band(runs, name, which) for which in STATISTICS} for name in METRICS
    }
    numbers: dict[str, Callable[[Simulation], float]] = {
        "throughput_tok_s": lambda one: one.served.throughput_tok_s,
        "throughput_req_s": qps_served,
        "busy": lambda one: one.busy,
        "mean_bsz": lambda one: one.mean_bsz,
    }
    if study.usd_per_hour is not None:
        numbers["usd_per_request"] = study.usd_per_request
        numbers["usd_per_request_rented"] = study.usd_per_request_rented
    more = {name: runs.band(number) for name, number in numbers.items()}
    usual = runs.usual
    return {
        **{name: {which: band.value for which, band in own.items()} for name, own in bands.items()},
        **{name: band.value for name, band in more.items()},
        "peak_bsz": usual.peak_bsz,
        "peak_cache": usual.peak_cache,
        "restarts": int(usual.served.restarts.sum()),
        "restarted_requests": int((usual.served.restarts > 0).sum()),
        "queue_grows": outcome.grows,
        "speedup_vs_fp16": _speedups(study, usual),
        "interval": {
            **{name: {which: _ends(band) for which, band in own.items()} for name, own in bands.items()},
            **{name: _ends(band) for name, band in more.items()},
        },
    }


def _speedups(study: TrafficStudy, usual: Simulation) -> dict[str, float] | None:
    """Return fp16's mean latencies over a method's."""
    if study.baseline is None or study.baseline.runs is None:
        return None
    base = study.baseline.runs.usual
    return {name: statistic_s(base, name, "mean") / statistic_s(usual, name, "mean") for name in _COMPARED}


def _ends(band: Band) -> tuple[float, float]:
    return band.low, band.high


def _cells(band: Band) -> tuple[float, float, float]:
    return band.value, band.low, band.high


def _interval(name: str, heading: str, show: Show) -> tuple[Column, ...]:
    return (
        Column(name, heading, show),
        Column(f"{name}_low", "from", show),
        Column(f"{name}_high", "to", show),
    )


def _ms(seconds: float) -> str:
    return short(1e3 * seconds)


def traffic_sheets(study: TrafficStudy) -> list[Sheet]:
    """Return the tables for people: a latency each, and what the replicas did meanwhile."""
    return [*(_latency(study, metric) for metric in _COMPARED), _load(study)]


def _latency(study: TrafficStudy, metric: str) -> Sheet:
    show, unit = (_ms, "ms") if metric == "tpot" else (short, "s")
    columns = (
        Column("method", "Method"),
        *_interval("mean_s", "Mean", show),
        *(Column(f"{which}_s", which.upper(), show) for which in STATISTICS[1:]),
        Column("speedup_vs_fp16", "vs fp16", "{:.2f}x".format),
        Column("basis", "Basis"),
    )

    def cells(runs: Simulations) -> Iterator[float | None]:
        yield from _cells(latency_band(runs, metric, "mean"))
        yield from (statistic_s(runs.usual, metric, which) for which in STATISTICS[1:])
        speedups = _speedups(study, runs.usual)
        yield None if speedups is None else speedups[metric]

    rows = [
        (*row, outcome.estimate.basis + ("" if outcome.estimate.in_domain else " *"))
        for row, outcome in zip(_rows(study, len(columns) - 1, cells), study.outcomes, strict=True)
    ]
    level = f"{study.outcomes[0].estimate.interval_level:.0%}"
    title = f"{LATENCIES[metric].capitalize()}, {unit} (mean from-to: {level} of step times)"
    first = f"{_title(study)}\n" if metric == _COMPARED[0] else ""
    return sheet(metric, first + title, columns, rows)


def _load(study: TrafficStudy) -> Sheet:
    columns: tuple[Column, ...] = (
        Column("method", "Method"),
        Column("queue_s_mean", "Queue s", short),
        Column("queue_s_p99", "P99", short),
        Column("busy", "Busy %", percent),
        Column("mean_bsz", "bsz", "{:.1f}".format),
        Column("peak_bsz", "Peak", str),
        Column("peak_cache", "Cache %", percent),
        Column("restarts", "Restarts", str),
        *_interval("throughput_tok_s", "tok/s", short),
        Column("throughput_req_s", "req/s", short),
    )
    if study.usd_per_hour is not None:
        columns += (
            Column("usd_per_request", "$/1k requests", _thousand),
            Column("usd_per_request_rented", "idle paid", _thousand),
        )

    def cells(runs: Simulations) -> Iterator[float | None]:
        usual = runs.usual
        yield from (statistic_s(usual, "queue", which) for which in ("mean", "p99"))
        yield from (usual.busy, usual.mean_bsz, usual.peak_bsz, usual.peak_cache)
        yield int(usual.served.restarts.sum())
        yield from _cells(runs.band(lambda one: one.served.throughput_tok_s))
        yield qps_served(usual)
        if study.usd_per_hour is not None:
            yield study.usd_per_request(usual)
            yield study.usd_per_request_rented(usual)

    return sheet("load", "What the replicas did meanwhile", columns, _rows(study, len(columns), cells))


def _rows(
    study: TrafficStudy, width: int, cells: Callable[[Simulations], Iterable[float | None]]
) -> list[tuple[Any, ...]]:
    """Return the methods' names and cells; none of these where something does not fit."""
    estimates = [outcome.estimate for outcome in study.outcomes]
    names = distinct([one.method for one in estimates], [one.method_params for one in estimates])
    return [
        (name, *([None] * (width - 1) if outcome.runs is None else map(_known, cells(outcome.runs))))
        for name, outcome in zip(names, study.outcomes, strict=True)
    ]


def _thousand(usd: float) -> str:
    return short(1e3 * usd)


def _known(value: float | None) -> float | None:
    """Return None for what no request has."""
    return None if value is None or isnan(value) else value


def _title(study: TrafficStudy) -> str:
    first = study.outcomes[0].estimate
    devices = f"{first.device}{f' x {first.tp}' if first.tp > 1 else ''}"
    several = f"{study.replicas} replicas of " if study.replicas > 1 else ""
    return f"{several}{first.model} on {devices}, {first.engine}, {study.scheduler} scheduler"


def table_notes(study: TrafficStudy) -> list[str]:
    """Return what a reader of the tables must know, a sentence each."""
    notes = [
        f"Basis of step times: {study.outcomes[0].estimate.provenance}",
        "Bands: everything served again with all steps at the slow and at the fast end of their interval.",
    ]
    if not all(outcome.estimate.in_domain for outcome in study.outcomes):
        notes.append("* outside the range measured for this method: intervals are widened, trust them less.")
    if study.usd_per_hour is not None:
        notes.append(
            "$: by each request's share of the steps that it was in; idle paid: replicas rented from the "
            "first arrival to the last answer."
        )
    return notes


def requests_sheet(study: TrafficStudy) -> Sheet:
    """Return every request under every method."""
    columns = [Column(name, name) for name in (*REQUEST_COLUMNS[1:], "queued_s")]
    rows = []
    for outcome in study.served:
        if outcome.runs is None:
            continue
        served = outcome.runs.usual.served
        values = [getattr(served, name) for name in REQUEST_COLUMNS[3:]]
        rows += [
            (outcome.estimate.method_params, *row)
            for row in zip(
                served.ids,
                *(own.tolist() for own in values),
                outcome.runs.usual.queued_s.tolist(),
                strict=True,
            )
        ]
    return sheet("requests", "Requests", columns, rows)


def write_traffic_report(study: TrafficStudy, folder: Path) -> Written:
    """Write the page, its tables as CSV and its figures as PNG into a folder, in one step.

    Raises
    ------
    UsageError, MissingExtraError
        See `kvpred.reports.folder.write_report`.
    """
    *latencies, load = traffic_sheets(study)
    fastest = method_label(min(study.served, key=_mean_e2e_s).estimate.method_params)
    more = f": {fastest} ends requests soonest" if len(study.served) > 1 else f", {fastest}"
    return write_report(
        folder,
        title=_title(study) + more,
        notes=[*study.notes, *table_notes(study)],
        parts=[cdf_figure(study), *latencies, band_figure(study), load, in_service_figure(study)],
        data=[cdf_sheet(study), in_service_sheet(study), requests_sheet(study)],
    )


def _mean_e2e_s(outcome: Outcome) -> float:
    return float("inf") if outcome.runs is None else statistic_s(outcome.runs.usual, "e2e", "mean")

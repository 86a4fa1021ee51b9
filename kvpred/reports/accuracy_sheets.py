"""The accuracy of a predictor, table by table."""

from __future__ import annotations

from collections.abc import Mapping

from kvpred.evaluation.accuracy_report import AccuracyReport, SitePrediction
from kvpred.evaluation.few_shot import FewShotReport
from kvpred.evaluation.published import PublishedScoring
from kvpred.reports.sheets import Column, Sheet, decimal, milliseconds, percent, sheet, signed_percent
from kvpred.reports.style import method_label

_STAGE, _METHOD, _SPLIT = (
    Column("stage", "Stage"),
    Column("method", "Method", method_label),
    Column("split", "Held out"),
)
_SITES = Column("n_sites", "Sites", str)


def cell_label(cell: str) -> str:
    """Shorten the method in a ``method stage`` pair.

    Examples
    --------
    >>> cell_label("h2o:heavy=64,recent=448 prefill")
    'h2o prefill'
    """
    method, _, stage = cell.rpartition(" ")
    return f"{method_label(method)} {stage}"


def summary_sheet(report: AccuracyReport) -> Sheet:
    """Return one row per split: accuracy, the worst method and stage, ceiling, copy and skill."""
    columns = (
        _SPLIT,
        Column("accuracy", "Accuracy %", percent),
        Column("worst", "Worst %", percent),
        Column("worst_cell", "Worst method, stage", cell_label),
        Column("ceiling", "Noise ceiling %", percent),
        Column("copy", "Copy of fp16 %", percent),
        Column("skill", "Skill over copy %", percent),
    )
    rows = [(s.split, s.mean, s.worst, s.worst_cell, s.ceiling, s.copy, s.skill) for s in report.splits]
    return sheet("summary", "Accuracy on held-out sites, mean over methods and stages", columns, rows)


def cells_sheet(report: AccuracyReport) -> Sheet:
    """Return one row per split, stage and method."""
    columns = (
        _SPLIT,
        _STAGE,
        _METHOD,
        _SITES,
        Column("accuracy", "Accuracy %", percent),
        Column("ceiling", "Noise ceiling %", percent),
        Column("copy", "Copy of fp16's fit %", percent),
        Column("measured_copy", "Copy of fp16's measured time %", percent),
        Column("skill", "Skill over copy %", percent),
    )
    rows = [
        (s.split, c.stage, c.method, c.n_sites, c.accuracy, c.ceiling, c.copy, c.measured_copy, c.skill)
        for s in report.splits
        for c in s.cells
    ]
    return sheet("accuracy", "Accuracy by method and stage", columns, rows)


def intervals_sheet(report: AccuracyReport) -> Sheet:
    """Return one row per split and stage: how often the intervals held, and how wide they are."""
    rows = [
        (s.split, i.stage, i.n_sites, i.level, i.coverage, i.band_low, i.band_high, i.half_width)
        for s in report.splits
        for i in s.intervals
    ]
    return sheet("intervals", "Intervals on held-out sites", (_SPLIT, *_INTERVAL_COLUMNS), rows)


_INTERVAL_COLUMNS = (
    _STAGE,
    _SITES,
    Column("level", "Promised %", percent),
    Column("coverage", "Coverage %", percent),
    Column("band_low", "95 % band from %", percent),
    Column("band_high", "to %", percent),
    Column("half_width", "Mean half-width %", percent),
)


def ranking_sheet(report: AccuracyReport) -> Sheet:
    """Return one row per split and stage: is the order of the methods right?"""
    columns = (
        _SPLIT,
        _STAGE,
        Column("all_pairs", "Pairs", str),
        Column("pairs", "Told apart by the runs", str),
        Column("right", "Ordered right", str),
        Column("wrong", "Ordered wrong", str),
        Column("tau_b", "Kendall's tau-b", decimal),
        Column("copy_tau_b", "tau-b of the copy", decimal),
        Column("speedups", "Speed-ups told apart", str),
        Column("right_signs", "Sign right", str),
        Column("copy_right_signs", "Sign right by the copy", str),
    )
    rows = [
        (
            s.split,
            r.stage,
            r.all_pairs,
            r.pairs,
            r.right,
            r.wrong,
            r.tau_b,
            c.tau_b,
            r.speedups,
            r.right_signs,
            c.right_signs,
        )
        for s in report.splits
        for r, c in zip(s.rankings, s.copy_rankings, strict=True)
    ]
    return sheet("ranking", "Order of the methods at held-out sites", columns, rows)


_SITE_COLUMNS = (
    _SPLIT,
    _STAGE,
    _METHOD,
    Column("bsz", "bsz", str),
    Column("prompt_len", "prompt_len", str),
    Column("output_len", "output_len", str),
    Column("count", "Runs", str),
    Column("measured_s", "Measured ms", milliseconds),
    Column("predicted_s", "Predicted ms", milliseconds),
    Column("error", "Error %", signed_percent),
    Column("low_s", "Low ms", milliseconds),
    Column("high_s", "High ms", milliseconds),
    Column("copy_s", "Copy of fp16 ms", milliseconds),
    Column("noise", "Noise of the median %", percent),
)


def _site_row(p: SitePrediction) -> tuple[object, ...]:
    return (
        p.split,
        p.stage,
        p.method,
        p.bsz,
        p.prompt_len,
        p.output_len,
        p.count,
        p.measured_s,
        p.predicted_s,
        p.error,
        p.low_s,
        p.high_s,
        p.copy_s,
        p.noise,
    )


def sites_sheet(report: AccuracyReport) -> Sheet:
    """Return every held-out site of every split."""
    return sheet("sites", "Held-out sites", _SITE_COLUMNS, map(_site_row, report.sites))


def worst_sheet(report: AccuracyReport) -> Sheet:
    """Return the sites with the largest errors."""
    return sheet("worst_sites", "Largest errors", _SITE_COLUMNS, map(_site_row, report.worst_sites))


def few_shot_sheet(report: FewShotReport) -> Sheet:
    """Return one row per number of sites learnt from."""
    columns = (
        Column("n_sites", "Sites per stage", str),
        Column("planned", "Planned %", percent),
        Column("worst", "Worst %", percent),
        Column("worst_cell", "Worst method, stage", cell_label),
        Column("random", "Random sites %", percent),
        Column("unanchored", "Planned, without fp16 %", percent),
        Column("copy", "Copy of fp16 %", percent),
    )
    rows = [
        (s.n_sites, s.planned, s.worst, s.worst_cell, s.random, s.unanchored, s.copy)
        for s in report.summaries
    ]
    return sheet("few_shot", "A new method from a few sites, scored on all its others", columns, rows)


def few_shot_intervals_sheet(report: FewShotReport) -> Sheet:
    """Return one row per number of sites learnt from and stage: how often the intervals held."""
    rows = [
        (s.n_sites, i.stage, i.n_sites, i.level, i.coverage, i.band_low, i.band_high, i.half_width)
        for s in report.summaries
        for i in s.intervals
    ]
    columns = (Column("learnt_from", "Learnt from", str), *_INTERVAL_COLUMNS)
    return sheet("few_shot_intervals", "Intervals of a new method", columns, rows)


def few_shot_cells_sheet(report: FewShotReport) -> Sheet:
    """Return one row per number of sites, stage and method."""
    columns = (
        Column("learnt_from", "Learnt from", str),
        _STAGE,
        _METHOD,
        Column("chosen", "Planned sites: bsz × prompt_len"),
        Column("n_tested", "Tested", str),
        Column("planned", "Planned %", percent),
        Column("random", "Random sites %", percent),
        Column("unanchored", "Planned, without fp16 %", percent),
        Column("copy", "Copy of fp16 %", percent),
        Column("inside", "Inside the interval", str),
        Column("half_width", "Mean half-width %", percent),
    )
    rows = [
        (
            c.n_sites,
            c.stage,
            c.method,
            " ".join(f"{bsz}×{length}" for bsz, length in c.chosen),
            c.n_tested,
            c.planned,
            c.random,
            c.unanchored,
            c.copy,
            c.inside,
            c.half_width,
        )
        for c in report.cells
    ]
    return sheet("few_shot_cells", "A new method from a few sites, by method and stage", columns, rows)


def published_sheet(scoring: PublishedScoring) -> Sheet:
    """Return one row per scoring definition, and the published tool's own figures."""
    methods = list(dict.fromkeys(method for d in scoring.definitions for method in d.by_method))
    columns = (
        Column("definition", "Scoring"),
        Column("n_sites", "Sites", str),
        *(Column(method_label(method), f"{method_label(method)} %", percent) for method in methods),
        Column("accuracy", "Mean %", percent),
        Column("copy", "Copy of fp16 %", percent),
        Column("meaning", "What it hides or shows"),
    )
    rows: list[tuple[object, ...]] = [
        (d.name, d.n_sites, *(d.by_method.get(method) for method in methods), d.accuracy, d.copy, d.meaning)
        for d in scoring.definitions
    ]
    theirs = [scoring.published.get(method.partition(":")[0]) for method in methods]
    known = [value for value in theirs if value is not None]
    rows.append(
        (
            "the published tool",
            None,
            *theirs,
            sum(known) / len(known) if known else None,
            None,
            "The paper's public artifact, run as published on its own runs.",
        )
    )
    return sheet("published_scoring", "What each scoring definition shows of one predictor", columns, rows)


def label_sheet(report: AccuracyReport, labels: Mapping[str, Mapping[str, float]]) -> Sheet:
    """Return one row per split: the pooled accuracy beside that of single labels.

    Parameters
    ----------
    report : AccuracyReport
        Of all labels pooled.
    labels : mapping of str to mapping
        By label, what `kvpred.evaluation.labels.evaluate_label` returns.
    """
    columns = [
        _SPLIT,
        Column("pooled_mean", "All labels %", percent),
        Column("pooled_worst", "worst %", percent),
    ]
    for label in labels:
        columns += [
            Column(f"{label} mean", f"{label} alone %", percent),
            Column(f"{label} worst", "worst %", percent),
        ]
    rows = [
        (
            s.split,
            s.mean,
            s.worst,
            *(one.get(f"{s.split} {what}") for one in labels.values() for what in ("mean", "worst")),
        )
        for s in report.splits
    ]
    return sheet("labels", "All labels pooled beside one label alone", columns, rows)

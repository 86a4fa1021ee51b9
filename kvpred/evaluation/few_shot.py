"""How few runs a new method needs: sites planned blind, fitted on fp16, and scored on all the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvpred.data.sites import SiteTable
from kvpred.errors import UsageError
from kvpred.evaluation.intervals import Coverage, coverage
from kvpred.methods import BASELINE
from kvpred.predictors.calibration import canonical, fit_stage_methods, predict_sites, sites_of, stage_lengths
from kvpred.predictors.crossval import conformal_quantile, hold_out
from kvpred.predictors.greybox import STAGES, Array, StageFit, StageForm, StageSites, fit_stage
from kvpred.predictors.nnls import nnls
from kvpred.predictors.planning import plan_sites

_FAINT_PULL = 1e-3


@dataclass(frozen=True, slots=True)
class FewShotCell:
    """One method and stage, learnt from a few of its sites and scored on all its others.

    Parameters
    ----------
    stage, method : str
    n_sites : int
        Sites learnt from.
    chosen : tuple of (int, int)
        Their (bsz, prompt_len), planned from fp16's fit before any run of the method was seen.
    n_tested : int
    planned : float
        Accuracy from the planned sites.
    random : float
        Mean accuracy from as many random sites.
    unanchored : float or None
        Accuracy of a fit to the planned sites that knows nothing of fp16; None without sites.
    copy : float
        Accuracy of fp16's own fit, with the tokens that the method attends to, on the same tested sites.
    inside : int
        Tested sites inside their interval.
    half_width : float
        Mean half-width of the intervals, relative to the predicted time.
    """

    stage: str
    method: str
    n_sites: int
    chosen: tuple[tuple[int, int], ...]
    n_tested: int
    planned: float
    random: float
    unanchored: float | None
    copy: float
    inside: int
    half_width: float


@dataclass(frozen=True, slots=True)
class FewShotSummary:
    """Means over methods and stages for one number of sites per stage; fields as in `FewShotCell`.

    Parameters
    ----------
    n_sites : int
    planned, random, copy : float
    unanchored : float or None
    worst : float
        The lowest accuracy of a method and stage from planned sites.
    worst_cell : str
    intervals : tuple of Coverage
        By stage, pooled over methods.
    """

    n_sites: int
    planned: float
    random: float
    unanchored: float | None
    copy: float
    worst: float
    worst_cell: str
    intervals: tuple[Coverage, ...]


@dataclass(frozen=True, slots=True)
class FewShotReport:
    """What a few runs of a new method buy.

    Parameters
    ----------
    level : float
        Level of the intervals.
    draws, seed : int
        Random choices of sites that `random` is the mean of.
    summaries : tuple of FewShotSummary
        By number of sites.
    cells : tuple of FewShotCell
    """

    level: float
    draws: int
    seed: int
    summaries: tuple[FewShotSummary, ...]
    cells: tuple[FewShotCell, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values that JSON can hold."""
        return asdict(self)


def few_shot(
    sites: SiteTable,
    *,
    n_sites: Sequence[int] = (0, 1, 2, 4, 8),
    level: float = 0.9,
    draws: int = 25,
    seed: int = 0,
) -> FewShotReport:
    """Treat each method in turn as new, and learn it from fp16 and a few of its own sites.

    Other methods are not seen, but for the level of the intervals: their conformal scores come from held-out
    lengths of fp16 and the other methods, never of the new one. Sites are planned by `plan_sites` from fp16's
    fit. Beside it stand as many random sites, an independent fit of the same form to the planned sites, and a
    copy of fp16.

    Parameters
    ----------
    sites : SiteTable
        Medians of one model, device and engine.
    n_sites : sequence of int
        Sites per stage to learn from; a method with no site left to test is left out.
    level : float
        Level of the intervals, between 0 and 1.
    draws, seed : int
        Random choices of sites.

    Raises
    ------
    UsageError
        If there are no methods but fp16, or too few sites to test on.
    """
    table = canonical(sites)
    tested: list[_Tested] = []
    for stage in STAGES:
        for method in sorted(set(table.method[table.stage == stage].tolist()) - {BASELINE}):
            tested += _learn(table, stage, method, n_sites=n_sites, level=level, draws=draws, seed=seed)
    if not tested:
        raise UsageError(f"no method but {BASELINE} has enough sites to learn from some and test the others")
    return FewShotReport(
        level=level,
        draws=draws,
        seed=seed,
        summaries=tuple(_summaries(tested, level)),
        cells=tuple(one.cell for one in tested),
    )


@dataclass(frozen=True, slots=True)
class _Tested:
    """A cell with its judged intervals, one entry per tested site."""

    cell: FewShotCell
    inside: NDArray[np.bool_]
    log_half_width: Array


def _learn(
    table: SiteTable,
    stage: str,
    method: str,
    *,
    n_sites: Sequence[int],
    level: float,
    draws: int,
    seed: int,
) -> Iterator[_Tested]:
    others = hold_out(table.select(table.method != method), stage, "lengths")
    score = conformal_quantile(others.score, level)
    pair = table.select((table.stage == stage) & np.isin(table.method, (BASELINE, method)))
    own = pair.method == method
    baseline = fit_stage_methods(pair, stage, train=~own).fits[BASELINE]
    method_sites = sites_of(pair, stage_lengths(pair), own)
    rng = np.random.default_rng(seed)
    for n in n_sites:
        if n >= len(method_sites.bsz):
            continue
        plan = plan_sites(baseline, bsz=method_sites.bsz, length=method_sites.length, n_sites=n)
        rows = np.flatnonzero(own)
        train = ~own
        train[rows[plan]] = True
        time_s, error = predict_sites(fit_stage_methods(pair, stage, train=train), pair, ~train)
        width = score * error
        inside = np.abs(np.log(pair.time_s[~train] / time_s)) <= width
        trials = [rng.choice(len(rows), size=n, replace=False) for _ in range(draws if n else 1)]
        random = [_anchored(baseline, method_sites, trial) for trial in trials]
        rest = np.setdiff1d(np.arange(len(rows)), plan)
        cell = FewShotCell(
            stage=stage,
            method=method,
            n_sites=n,
            chosen=tuple((int(pair.bsz[i]), int(pair.prompt_len[i])) for i in rows[plan]),
            n_tested=len(rest),
            planned=_accuracy(time_s, pair.time_s[~train]),
            random=float(np.mean(random)),
            unanchored=_score(_independent(baseline.form, method_sites, plan), method_sites, rest)
            if n
            else None,
            copy=_score(baseline, method_sites, rest),
            inside=int(inside.sum()),
            half_width=float(np.mean(np.sinh(width))),
        )
        yield _Tested(cell, inside, width)


def _anchored(baseline: StageFit, sites: StageSites, chosen: NDArray[np.int64]) -> float:
    """Return the accuracy on the other sites of a fit to the chosen ones that is pulled toward fp16."""
    rest = np.setdiff1d(np.arange(len(sites.bsz)), chosen)
    return _score(fit_stage(baseline.form, sites.select(chosen), prior=baseline), sites, rest)


def _independent(form: StageForm, sites: StageSites, chosen: Sequence[int]) -> StageFit:
    """Fit the chosen sites knowing nothing of fp16.

    With fewer sites than terms the equations leave the coefficients free; then the least ones are taken, in
    units of each term's mean over the sites, and the parts simply add up.
    """
    known = sites.select(np.array(chosen))
    all_terms = form.terms(bsz=sites.bsz, length=sites.length)
    if len(chosen) >= all_terms.shape[1]:
        return fit_stage(form, known)
    additive = replace(form, overlap=1.0)
    unit = all_terms.mean(axis=0)
    design = additive.terms(bsz=known.bsz, length=known.length) / unit / known.time_s[:, None]
    faint = _FAINT_PULL * np.eye(len(unit)) / np.median(known.time_s)
    target = np.concatenate([np.ones(len(chosen)), np.zeros(len(unit))])
    coef = nnls(np.concatenate([design, faint]), target) / unit
    return StageFit(additive, coef, np.zeros((len(unit), len(unit))))


def _score(fit: StageFit, sites: StageSites, tested: NDArray[np.int64]) -> float:
    test = sites.select(tested)
    return _accuracy(fit.times(bsz=test.bsz, length=test.length), test.time_s)


def _accuracy(predicted_s: Array, measured_s: Array) -> float:
    return float(np.mean(1.0 - np.abs(predicted_s / measured_s - 1.0)))


def _summaries(tested: Sequence[_Tested], level: float) -> Iterator[FewShotSummary]:
    for n in sorted({one.cell.n_sites for one in tested}):
        group = [one for one in tested if one.cell.n_sites == n]
        cells = [one.cell for one in group]
        worst = min(cells, key=lambda cell: cell.planned)
        unanchored = [cell.unanchored for cell in cells if cell.unanchored is not None]
        yield FewShotSummary(
            n_sites=n,
            planned=float(np.mean([cell.planned for cell in cells])),
            random=float(np.mean([cell.random for cell in cells])),
            unanchored=float(np.mean(unanchored)) if unanchored else None,
            copy=float(np.mean([cell.copy for cell in cells])),
            worst=worst.planned,
            worst_cell=f"{worst.method} {worst.stage}",
            intervals=tuple(
                coverage(
                    stage,
                    np.concatenate([one.inside for one in group if one.cell.stage == stage]),
                    np.concatenate([one.log_half_width for one in group if one.cell.stage == stage]),
                    level=level,
                )
                for stage in STAGES
                if any(cell.stage == stage for cell in cells)
            ),
        )

"""Fit the step times of one model, device and engine from its runs alone, every method at once.

fp16 is fitted first; each other method is then fitted as multipliers on fp16's coefficients, so the same
code serves a method with a whole grid of runs, with two runs (few-shot), and with none (a copy of fp16).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvpred.data.sites import SiteTable
from kvpred.errors import UsageError
from kvpred.methods import BASELINE, Method, get_method
from kvpred.methods.quantities import IntArray
from kvpred.predictors.forms import choose_form
from kvpred.predictors.greybox import (
    SITE_NOISE,
    Array,
    DeviceTimes,
    StageFit,
    StageForm,
    StageSites,
    fit_stage,
)

Profiles = Mapping[str, DeviceTimes]
# Profiles, or what makes them of the sites that a fit may learn from.
ProfileSource = Profiles | Callable[[SiteTable], Profiles]
# Relative noise of a run where no site was measured twice: the few percent that quiet servers show.
ASSUMED_RUN_NOISE = 0.03
# A method's own residuals are steadied by the pooled ones as if by three sites more.
STEADYING_SITES = 3
# In place, operators add up to 94 % of a step or more, so an overhead may hide as much as the rest.
HIDDEN_OVERHEAD = 0.06
# No measurement of a server is better than this, however well a form bends to a few sites.
LEAST_ERROR = 1e-4


@dataclass(frozen=True, slots=True)
class StageFits:
    """One stage of one engine: the form its time has, and each method's fit.

    Parameters
    ----------
    form : StageForm
    fits : mapping of str to StageFit
        By full method string.
    site_error : mapping of str to float
        Relative standard deviation of a site's median about the fit (noise and lack of fit), by method.
    run_noise : mapping of str to float
        Relative standard deviation of one run about its site's median, by method.
    typical_count : float
        Runs per site (harmonic mean): how well measured the median is that `site_error` speaks of.
    """

    form: StageForm
    fits: Mapping[str, StageFit]
    site_error: Mapping[str, float]
    run_noise: Mapping[str, float]
    typical_count: float

    def error(
        self, method: str, *, bsz: ArrayLike, length: ArrayLike, count: ArrayLike | None = None
    ) -> Array:
        """Return the relative standard error of a site's median about its predicted time.

        Parameters
        ----------
        method : str
            Full method string.
        bsz, length : array_like
            As in `StageForm.terms`.
        count : array_like, optional
            Runs that the median is taken of; `typical_count` if not given.
        """
        leverage = self.fits[method].leverage(bsz=bsz, length=length)
        runs = self.typical_count if count is None else np.asarray(count)
        fewer = np.maximum(1.0 / runs - 1.0 / self.typical_count, 0.0)
        return np.sqrt(self.site_error[method] ** 2 * (1.0 + leverage) + self.run_noise[method] ** 2 * fewer)


def canonical(table: SiteTable) -> SiteTable:
    """Return the table with every method written out with all its parameters."""
    names, inverse = np.unique(table.method, return_inverse=True)
    full = np.array([get_method(str(name)).spec for name in names])
    return SiteTable(**{**{f: getattr(table, f) for f in table.__slots__}, "method": full[inverse]})


def stage_lengths(table: SiteTable) -> Array:
    """Return each site's length as the grey-box terms want it, shape (n_sites,).

    For prefill the prompt length. For decode the tokens attended to, averaged over the steps that were timed.
    """
    length = table.prompt_len.astype(float)
    for name in np.unique(table.method):
        rows = np.flatnonzero((table.method == name) & (table.stage == "decode"))
        length[rows] = mean_attended(
            str(name), prompt_len=table.prompt_len[rows], output_len=table.output_len[rows]
        )
    return length


def mean_attended(method: str, *, prompt_len: ArrayLike, output_len: ArrayLike) -> Array:
    """Return the tokens that a decode step attends to, averaged over the steps of a generation.

    Step i = 1 ... max(output_len - 1, 1) sees ``prompt_len + i - 1`` tokens.

    Parameters
    ----------
    method : str
        Full method string.
    prompt_len, output_len : array_like of int
        Tokens; they broadcast.

    Returns
    -------
    array of float
        Tokens per KV head, of the broadcast shape.

    Examples
    --------
    >>> float(mean_attended("fp16", prompt_len=100, output_len=4))
    101.0
    """
    compression = get_method(method)
    steps = np.maximum(np.asarray(output_len, dtype=np.int64) - 1, 1)
    prompts, steps = np.broadcast_arrays(np.asarray(prompt_len, dtype=np.int64), steps)
    span = steps.max(initial=0) + 1
    pairs, inverse = np.unique(prompts.ravel() * span + steps.ravel(), return_inverse=True)
    pair_prompt, pair_steps = np.divmod(pairs, span)
    each = _mean_by_prompt if _few_prompts(pair_prompt, pair_steps) else _mean_by_steps
    return each(compression, pair_prompt, pair_steps)[inverse].reshape(prompts.shape)


def _few_prompts(prompt_len: IntArray, steps: IntArray) -> bool:
    """Whether it is less work to go along each prompt once than to sum up every answer."""
    return len(np.unique(prompt_len)) * int(steps.max(initial=0)) < int(steps.sum())


def _mean_by_prompt(method: Method, prompt_len: IntArray, steps: IntArray) -> Array:
    means = np.empty(len(steps))
    for prompt in np.unique(prompt_len).tolist():
        (rows,) = np.nonzero(prompt_len == prompt)
        kv_len = prompt + np.arange(int(steps[rows].max()))
        sums = np.cumsum(method.attended_tokens(kv_len, prompt_len=np.full_like(kv_len, prompt)))
        means[rows] = sums[steps[rows] - 1] / steps[rows]
    return means


def _mean_by_steps(method: Method, prompt_len: IntArray, steps: IntArray) -> Array:
    means = np.empty(len(steps))
    for n_steps in np.unique(steps).tolist():
        (rows,) = np.nonzero(steps == n_steps)
        prompt, total = prompt_len[rows][:, None], np.zeros(len(rows))
        for chunk in np.array_split(np.arange(n_steps), -(-len(rows) * n_steps // 4_000_000)):
            total += np.sum(method.attended_tokens(prompt + chunk, prompt_len=prompt), axis=1)
        means[rows] = total / n_steps
    return means


def sites_of(table: SiteTable, lengths: Array, mask: NDArray[np.bool_]) -> StageSites:
    """Return the masked rows of a table as the grey-box fit takes them."""
    return StageSites(table.bsz[mask].astype(float), lengths[mask], table.time_s[mask])


def fit_stage_methods(
    table: SiteTable,
    stage: str,
    *,
    train: NDArray[np.bool_] | None = None,
    profiles: ProfileSource | None = None,
    form: StageForm | None = None,
) -> StageFits:
    """Choose the form of a stage and fit every method of a table.

    Parameters
    ----------
    table : SiteTable
        With canonical method strings; rows of other stages are ignored.
    stage : {"prefill", "decode"}
    train : array of bool, shape (n_sites,), optional
        Rows to learn from; all, if not given. A method without training rows copies fp16.
    profiles : mapping of str to DeviceTimes, or callable, optional
        Profiled operators by full method string, fp16's among them; methods without their own take fp16's.
        Where they were timed at the table's own sites: a function that fits them to the sites of `train`.
    form : StageForm, optional
        Known already; chosen if not given.

    Raises
    ------
    UsageError
        If fp16 has too few sites.
    """
    lengths = stage_lengths(table)
    rows = (table.stage == stage) & (True if train is None else train)
    methods = [BASELINE, *sorted({str(name) for name in table.method} - {BASELINE})]
    groups = {name: sites_of(table, lengths, rows & (table.method == name)) for name in methods}
    if not len(groups[BASELINE].bsz):
        raise UsageError(f"there are no {BASELINE} runs of {stage}; every method is fitted relative to them")
    in_place = callable(profiles)
    if callable(profiles):
        profiles = profiles(table if train is None else table.select(train))
    profiles = profiles or {}
    noise = _site_noise(table, rows)
    if form is None:
        form = choose_form(stage, list(groups.values()), profile=profiles.get(BASELINE), noise=noise)
    prior = _sum_of_operators(form, groups[BASELINE]) if in_place else None
    baseline = fit_stage(form, groups[BASELINE], prior=prior)
    own = {name: replace(form, profile=profiles.get(name, form.profile)) for name in methods}
    fits = {
        name: baseline
        if name == BASELINE
        else fit_stage(own[name], groups[name], prior=baseline, noise=noise)
        for name in methods
    }
    return StageFits(
        form,
        fits,
        site_error=_site_errors(fits, groups),
        run_noise={name: _run_noise(table, rows, name) for name in methods},
        typical_count=float(1.0 / np.mean(1.0 / table.count[rows])),
    )


def _sum_of_operators(form: StageForm, sites: StageSites) -> StageFit:
    """Return what is expected of operators timed at these very sites: they count once, beside an overhead.

    The overhead may wander by itself or by `HIDDEN_OVERHEAD` of a step, whichever is more.
    """
    terms = form.terms(bsz=sites.bsz, length=sites.length)
    overhead = max(float(np.median(sites.time_s - terms[:, 1:].sum(axis=1))), 0.0)
    efficiencies = np.ones(terms.shape[1] - 1)
    scale = np.array([max(overhead, HIDDEN_OVERHEAD * float(np.median(sites.time_s))), *efficiencies])
    return StageFit(form, np.array([overhead, *efficiencies]), np.diag((scale / SITE_NOISE) ** 2))


def _site_errors(fits: Mapping[str, StageFit], groups: Mapping[str, StageSites]) -> dict[str, float]:
    """Estimate each method's site error from its residuals, steadied by those of all methods."""
    squares = {
        name: float(np.sum(np.log(sites.time_s / fits[name].times(bsz=sites.bsz, length=sites.length)) ** 2))
        for name, sites in groups.items()
    }
    freedom = {name: max(len(sites.bsz) - len(fits[name].coef), 0) for name, sites in groups.items()}
    whole = [name for name in groups if freedom[name]]
    pooled = sum(squares[n] for n in whole) / max(sum(freedom[n] for n in whole), 1)
    if not whole:
        pooled = ASSUMED_RUN_NOISE**2
    steadied = {
        name: (squares[name] + STEADYING_SITES * pooled) / (freedom[name] + STEADYING_SITES)
        for name in groups
    }
    return {name: max(float(np.sqrt(variance)), LEAST_ERROR) for name, variance in steadied.items()}


def _site_noise(table: SiteTable, rows: NDArray[np.bool_]) -> float:
    """Return what a site's median is expected to be off by: its repeats' spread, and no less than usual."""
    repeated = rows & (table.count > 1)
    if not repeated.any():
        return SITE_NOISE
    variance = np.average(table.spread[repeated] ** 2, weights=(table.count - 1)[repeated])
    return max(SITE_NOISE, float(np.sqrt(variance * np.mean(1.0 / table.count[rows]))))


def _run_noise(table: SiteTable, rows: NDArray[np.bool_], method: str) -> float:
    """Pool the spread of repeats over a method's sites, or over all if its own were measured once each."""
    for mask in (rows & (table.method == method), rows):
        repeated = mask & (table.count > 1)
        if repeated.any():
            freedom = (table.count - 1)[repeated]
            return float(np.sqrt(np.average(table.spread[repeated] ** 2, weights=freedom)))
    return ASSUMED_RUN_NOISE


def predict_sites(fits: StageFits, table: SiteTable, mask: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Return the masked rows' predicted times in seconds and relative errors (`StageFits.error`)."""
    lengths = stage_lengths(table)
    times, errors = np.full(len(table), np.nan), np.full(len(table), np.nan)
    for name, fit in fits.fits.items():
        rows = mask & (table.method == name)
        if rows.any():
            bsz, length = table.bsz[rows], lengths[rows]
            times[rows] = fit.times(bsz=bsz, length=length)
            errors[rows] = fits.error(name, bsz=bsz, length=length, count=table.count[rows])
    return times[mask], errors[mask]

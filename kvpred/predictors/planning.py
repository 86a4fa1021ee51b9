"""Which sites to measure: the ones that leave the predictions of a method least uncertain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvpred.data.sites import RunSite
from kvpred.errors import UsageError
from kvpred.methods import BASELINE, get_method
from kvpred.models import ModelSpec
from kvpred.predictors.calibration import mean_attended
from kvpred.predictors.greybox import PRIOR_SPREAD, SITE_NOISE, STAGES, Array, StageFit, StageForm
from kvpred.predictors.predictor import Predictor

BATCHES = (1, 2, 4, 8)
SHORTEST_PROMPT = 256
# Sites that a method needs beside fp16's: more than four teach little (see `kvpred validate`, few-shot).
METHOD_SITES = 4
# Rates of a small server, as a sweep assumes them before it has measured any.
NOMINAL_BYTES_S, NOMINAL_FLOPS_S = 1e10, 1e11
# How far fp16's terms may lie from those of another place, or from nominal ones: a factor of e.
FREE_SPREAD = 1.0
# How far a step may lie off any form, alike at neighbouring sites: what a batch of one, or the place where a
# kernel changes, does. It spreads the sites over the range.
LACK_OF_FIT, ALIKE_OCTAVES = 0.1, 1.0


def plan_sites(
    baseline: StageFit,
    *,
    bsz: ArrayLike,
    length: ArrayLike,
    n_sites: int,
    measured: Sequence[int] = (),
) -> list[int]:
    """Choose the sites that leave a method's mean prediction variance over all candidates least.

    The method will be fitted as multipliers on fp16's coefficients under a ridge, so the variance of a
    prediction depends on fp16's shares alone, not on any run of the method: planning precedes measuring.
    I-optimality (Atkinson, Donev and Tobias, *Optimum Experimental Designs*, 2007, section 10.6), greedily
    built and improved by exchange; the same criterion for every number of sites.

    Parameters
    ----------
    baseline : StageFit
        fp16's fit of the stage.
    bsz, length : array_like, shape (n_candidates,)
        The candidates, which are also the sites to be predicted; `length` is the prompt length for prefill
        and the tokens that the method attends to for decode.
    n_sites : int
        Sites to choose.
    measured : sequence of int
        Candidates that are measured already; the plan completes them.

    Returns
    -------
    list of int
        Indices of the chosen candidates, the most telling first.

    Raises
    ------
    UsageError
        If there are fewer candidates than sites to choose.
    """
    shares = PRIOR_SPREAD * np.asarray(baseline.shares(bsz=bsz, length=length))
    return _choose(_Uncertainty((shares @ shares.T,)), n_sites=n_sites, measured=measured)


def plan_for(
    predictor: Predictor | None,
    model: ModelSpec,
    methods: Sequence[str],
    candidates: Sequence[RunSite],
    n_sites: int,
    measured: Mapping[str, Sequence[RunSite]] | None = None,
) -> dict[str, list[RunSite]]:
    """Choose the sites to serve with each method, so that both stages become least uncertain together.

    A batch that is served times its prefill and its decode steps, so the criterion is the sum over stages of
    the mean prediction variance over all candidates (see `plan_sites`), with a lack of fit that neighbouring
    sites share. fp16's terms are free, the other methods' are pulled toward fp16's.

    Parameters
    ----------
    predictor : Predictor or None
        Fitted to the same engine on the same device; without, or where it is of another model, each term's
        share of the time is guessed from the model's bytes and FLOPs at nominal rates.
    model : ModelSpec
    methods : sequence of str
        Method strings.
    candidates : sequence of RunSite
        What may be measured, and what is to be predicted; see `candidate_sites`.
    n_sites : int
        Sites for fp16, at least 6 to tell its terms apart; the other methods get `METHOD_SITES` at most.
    measured : mapping of str to sequence of RunSite, optional
        Sites that a method has runs of already; the plan adds others.

    Returns
    -------
    dict of str to list of RunSite
        By the given method strings, the most telling site first.

    Raises
    ------
    UsageError
        If there are fewer candidates than sites to choose.
    """
    fits = _fp16_fits(predictor, model)
    known = {get_method(name).spec: set(sites) for name, sites in (measured or {}).items()}
    plan = {}
    for name in methods:
        spec = get_method(name).spec
        done = known.get(spec, set())
        everything = sorted({*candidates, *done})
        uncertainty = _uncertainty(fits, spec, everything)
        chosen = _choose(
            uncertainty,
            n_sites=n_sites if spec == BASELINE else min(n_sites, METHOD_SITES),
            measured=[i for i, site in enumerate(everything) if site in done],
        )
        plan[name] = [everything[i] for i in chosen]
    return plan


def candidate_sites(
    *,
    max_seq_len: int,
    max_tokens: int,
    bsz: Sequence[int] = BATCHES,
    shortest: int = SHORTEST_PROMPT,
    output_len: int = 32,
) -> list[RunSite]:
    """Return the sites worth measuring: batch sizes by doublings of the prompt length, up to what fits.

    Parameters
    ----------
    max_seq_len : int
        Most tokens, prompt and answer, of a sequence.
    max_tokens : int
        Most tokens of a batch.
    bsz : sequence of int
    shortest : int
        Tokens of the shortest prompt.
    output_len : int
        Tokens of each answer.

    Examples
    --------
    >>> [str(site) for site in candidate_sites(max_seq_len=2048, max_tokens=4096, bsz=(1, 4))]
    ['1 x 256', '1 x 512', '1 x 1,024', '1 x 2,016', '4 x 256', '4 x 512', '4 x 992']
    """
    sites = []
    for batch in bsz:
        longest = min(max_seq_len, max_tokens // batch) - output_len
        doublings = int(np.log2(longest / shortest)) + 1 if longest >= shortest else 0
        lengths = [shortest * 2**k for k in range(doublings)]
        # The longest prompt that fits marks the end of the range: as a site of its own where it is far from
        # the last doubling.
        if lengths and longest > 1.5 * lengths[-1]:
            lengths.append(longest)
        sites += [RunSite(batch, length, output_len) for length in lengths]
    return sites


def next_run(predictor: Predictor, candidates: Sequence[RunSite]) -> tuple[str, RunSite] | None:
    """Return the method and site whose run would lower a method's variance most, both stages together.

    Parameters
    ----------
    predictor : Predictor
    candidates : sequence of RunSite
        What is to be predicted; those that were not measured yet may be measured.

    Returns
    -------
    tuple of str and RunSite, or None
        None where all are measured.
    """
    sites = predictor.sites
    best: tuple[float, str, RunSite] | None = None
    for method in predictor.methods:
        rows = sites.method == method
        measured = set(zip(sites.bsz[rows].tolist(), sites.prompt_len[rows].tolist(), strict=True))
        for site, gain in zip(candidates, _gains(predictor, method, candidates), strict=True):
            if (site.bsz, site.prompt_len) not in measured and (best is None or gain > best[0]):
                best = (float(gain), method, site)
    return best[1:] if best else None


def _gains(predictor: Predictor, method: str, candidates: Sequence[RunSite]) -> Array:
    """Return by how much a run at each candidate lowers the method's mean variance over all of them."""
    total = np.zeros(len(candidates))
    for stage in STAGES:
        fits = predictor.stages[stage].fits
        covariance = fits.fits[method].prediction_covariance(**_at(stage, method, candidates))
        total += fits.site_error[method] ** 2 * np.mean(covariance**2, axis=0) / (1 + np.diag(covariance))
    return total


@dataclass(frozen=True, slots=True)
class _Uncertainty:
    """Covariances of what is known of the candidates' log times, one matrix per stage."""

    prior: tuple[Array, ...]

    def left(self, chosen: Sequence[int]) -> float:
        """Return the mean variance, summed over stages, that is left once sites are measured."""
        return sum(_left(covariance, list(chosen)) for covariance in self.prior)


def _left(covariance: Array, chosen: list[int]) -> float:
    variance = np.trace(covariance)
    if chosen:
        seen = covariance[np.ix_(chosen, chosen)] + SITE_NOISE**2 * np.eye(len(chosen))
        across = covariance[chosen]
        variance -= np.sum(across * np.linalg.solve(seen, across))
    return float(variance) / len(covariance)


def _choose(uncertainty: _Uncertainty, *, n_sites: int, measured: Sequence[int]) -> list[int]:
    """Build the plan greedily, then swap single sites for better ones until no swap helps."""
    n_candidates = len(uncertainty.prior[0])
    known = sorted(set(measured))
    free = [i for i in range(n_candidates) if i not in known]
    if not 0 <= n_sites <= len(free):
        raise UsageError(f"cannot choose {n_sites} of {len(free)} candidate sites")
    plan: list[int] = []
    for _ in range(n_sites):
        others = (i for i in free if i not in plan)
        plan.append(min(others, key=lambda i: uncertainty.left([*known, *plan, i])))
    least, improved = uncertainty.left([*known, *plan]), True
    while improved:
        improved = False
        for place in range(n_sites):
            for other in free:
                swapped = [*plan[:place], other, *plan[place + 1 :]]
                left = uncertainty.left([*known, *swapped]) if other not in plan else np.inf
                if left < least * (1 - 1e-9):
                    plan, least, improved = swapped, left, True
    return plan


def _uncertainty(fits: Mapping[str, StageFit], method: str, sites: Sequence[RunSite]) -> _Uncertainty:
    """Return what is known of a method's times before it is measured."""
    spread = FREE_SPREAD if method == BASELINE else PRIOR_SPREAD
    off_form = LACK_OF_FIT**2 * _alike(sites)
    shares = [spread * np.asarray(fit.shares(**_at(stage, method, sites))) for stage, fit in fits.items()]
    return _Uncertainty(tuple(share @ share.T + off_form for share in shares))


def _alike(sites: Sequence[RunSite]) -> Array:
    """Return how alike sites are, 1 to 0, by the doublings of batch and prompt between them."""
    place = np.log2(np.array([(site.bsz, site.prompt_len) for site in sites], dtype=float))
    apart = np.sum((place[:, None] - place[None]) ** 2, axis=-1)
    return np.asarray(np.exp(-apart / (2 * ALIKE_OCTAVES**2)))


def _at(stage: str, method: str, sites: Sequence[RunSite]) -> dict[str, NDArray[np.float64]]:
    """Return batch sizes and lengths of sites as the terms of a stage take them."""
    bsz, prompt, output = np.array([(site.bsz, site.prompt_len, site.output_len) for site in sites]).T
    length = prompt if stage == "prefill" else mean_attended(method, prompt_len=prompt, output_len=output)
    return {"bsz": bsz.astype(float), "length": np.asarray(length, dtype=float)}


def _fp16_fits(predictor: Predictor | None, model: ModelSpec) -> dict[str, StageFit]:
    if predictor is not None and predictor.place.model == model:
        return {stage: predictor.stages[stage].fits.fits[BASELINE] for stage in STAGES}
    return {stage: _nominal_fit(stage, model) for stage in STAGES}


def _nominal_fit(stage: str, model: ModelSpec) -> StageFit:
    """Return what a model's bytes and FLOPs take at nominal rates: weights, each token, attention."""
    weights_s = model.weight_bytes() / NOMINAL_BYTES_S
    token_s = model.linear_flops_per_token() / NOMINAL_FLOPS_S
    # Queries meet keys, probabilities meet values: 2 FLOPs per channel each, of half the pairs.
    pair_s = 2 * model.n_layers * model.n_q_heads * model.head_dim / NOMINAL_FLOPS_S
    cached_s = model.kv_bytes_per_token() / NOMINAL_BYTES_S
    if stage == "prefill":
        form, coef = StageForm(stage, overlap=2.0), np.array([weights_s, token_s, pair_s])
    else:
        # Half of the reading in each of the two terms that batches of one and of more may differ by.
        form = StageForm(stage, crowded=True)
        coef = np.array([weights_s, token_s, cached_s / 2, cached_s / 2])
    return StageFit(form, coef, np.zeros((len(coef), len(coef))))

"""Which of several methods is the cheapest, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from kvpred.data.limits import Limit
from kvpred.methods import BASELINE, get_method
from kvpred.predictors.greybox import STAGES, Array
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.recommend import ERROR_LEVEL, Batch, Candidate, Standing, Terms
from kvpred.predictors.relative import Yardstick
from kvpred.predictors.scaling import Place

N_DRAWS = 10_000


def rank(
    candidates: Sequence[Candidate], *, predictor: Predictor, place: Place, engine: str, terms: Terms
) -> list[Candidate]:
    """Return the candidates, the cheapest first and the rejected ones last, with what is sure of it.

    Costs are drawn anew by what is uncertain of each method's times (`kvpred.predictors.relative`), fp16's
    among them, and of its answers' lengths; what all share is left out. Where a time is reckoned from fp16's
    it errs in each draw as fp16's does. The batches stay as chosen.
    """
    kept = [candidate for candidate in candidates if not candidate.rejected]
    others = sorted((c for c in candidates if c.rejected), key=lambda c: _miss(c, terms.limits))
    if not kept:
        return others
    baseline = get_method(BASELINE)
    own = next((row for row, candidate in enumerate(kept) if candidate.method == baseline), None)
    reference = _best(kept[own or 0])
    yardstick = Yardstick.at(predictor, place, engine, query=reference.query, level=ERROR_LEVEL)
    rng = np.random.default_rng(terms.seed)
    fp16 = dict(zip(STAGES, rng.spawn(1)[0].standard_normal((len(STAGES), N_DRAWS)), strict=True))
    drawn = np.array([_drawn_s(candidate, yardstick, rng, fp16=fp16) for candidate in kept])
    chances = np.bincount(drawn.argmin(axis=0), minlength=len(kept)) / N_DRAWS
    levels = (0.5, (1 - terms.level) / 2, (1 + terms.level) / 2)
    price = terms.price_per_hour * place.tp / 3600
    found = []
    for row, candidate in enumerate(kept):
        ratio = None if own is None else tuple(np.quantile(drawn[row] / drawn[own], levels).tolist())
        expected_s = float(drawn[row].mean())
        usd = price * expected_s
        tokens = float(_best(candidate).times.outputs.mean())
        standing = Standing(usd, 1e6 * usd / tokens, float(chances[row]), ratio)
        found.append((expected_s, replace(candidate, standing=standing)))
    return [candidate for _, candidate in sorted(found, key=lambda pair: pair[0])] + others


def _best(candidate: Candidate) -> Batch:
    assert candidate.best is not None
    return candidate.best


def _miss(candidate: Candidate, limits: Sequence[Limit]) -> float:
    """Return by which factor a rejected method misses the limits; infinite if it does not fit."""
    return candidate.best.worst(limits)[0] if candidate.best and limits else float("inf")


def _drawn_s(
    candidate: Candidate, yardstick: Yardstick, rng: np.random.Generator, *, fp16: Mapping[str, Array]
) -> Array:
    """Return draws of the device's seconds per request, shape (N_DRAWS,); `fp16` errs alike for all."""
    batch = _best(candidate)
    doubts = yardstick.doubts(candidate.method, batch.query)
    shares = dict(zip(STAGES, (batch.times.prefill_share, 1 - batch.times.prefill_share), strict=True))
    outer = NormalDist().inv_cdf((1 + ERROR_LEVEL) / 2)
    total = np.zeros(N_DRAWS)
    for stage in STAGES:
        doubt, normal = doubts[stage], rng.standard_normal(N_DRAWS)
        width = np.where(normal < 0, doubt.faster, doubt.slower)
        error = np.exp((width * normal + doubt.as_fp16 * fp16[stage]) / outer)
        # Longer answers take longer to decode; more is read in each step too, which is left out.
        longer = (
            1.0
            if stage == STAGES[0]
            else candidate.shift.at(rng.standard_normal(N_DRAWS)) / candidate.shift.multiplier
        )
        total += batch.times.device_s * shares[stage] * error * longer
    return total

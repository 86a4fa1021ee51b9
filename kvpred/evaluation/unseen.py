"""Sites drawn at random that a predictor was not fitted to, inside what it was."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvpred.data.sites import RunSite, mean_kv_len
from kvpred.errors import NotCoveredError, UsageError
from kvpred.predictors.predictor import Predictor

USUAL_OUTPUT_LEN = 32
_DRAWS = 20_000


def draw_sites(predictor: Predictor, *, n_sites: int, seed: int = 0) -> list[RunSite]:
    """Draw sites evenly in octaves of batch size and prompt length, in the range that calibration spans.

    A site lies in the domain of both stages, holds no more tokens than the largest that was calibrated, and
    was not measured for any method. Answers are as long as they were in calibration.

    Parameters
    ----------
    predictor : Predictor
    n_sites : int
    seed : int

    Returns
    -------
    list of RunSite
        Sorted.

    Raises
    ------
    NotCoveredError
        If the predictor rests on no runs.
    UsageError
        If the range has not so many sites that were not measured.
    """
    table = predictor.sites
    if not len(table):
        raise NotCoveredError("the predictor rests on operator profiles alone: calibrate it on runs first")
    if n_sites < 1:
        raise UsageError(f"sites={n_sites} must be at least 1")
    if seed < 0:
        raise UsageError(f"seed={seed} must be at least 0")
    output_len = _output_len(predictor)
    seen = set(zip(table.bsz.tolist(), table.prompt_len.tolist(), strict=True))
    most_tokens = int(np.max(table.bsz * (table.prompt_len + table.output_len)))
    rng = np.random.default_rng(seed)
    bsz, prompt_len = (_evenly_in_octaves(axis, rng) for axis in (table.bsz, table.prompt_len))
    kv_len = mean_kv_len(prompt_len, output_len)
    inside = predictor.stages["prefill"].domain.contains(bsz=bsz, length=prompt_len)
    inside &= predictor.stages["decode"].domain.contains(bsz=bsz, length=kv_len)
    inside &= bsz * (prompt_len + output_len) <= most_tokens
    places = zip(bsz[inside].tolist(), prompt_len[inside].tolist(), strict=True)
    unseen = [place for place in dict.fromkeys(places) if place not in seen]
    if len(unseen) < n_sites:
        raise UsageError(
            f"only {len(unseen)} unseen sites lie between those that the predictor was fitted to, "
            f"{n_sites} were asked for: calibrate on sites that span more batch sizes and lengths, or ask "
            "for fewer"
        )
    return sorted(RunSite(*place, output_len) for place in unseen[:n_sites])


def _evenly_in_octaves(axis: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    low, high = np.log2([axis.min(), axis.max()])
    return np.rint(np.exp2(rng.uniform(low, high, _DRAWS))).astype(np.int64)


def _output_len(predictor: Predictor) -> int:
    """Return the usual answer of the decode runs, where they say it."""
    lengths = predictor.sites.output_len[predictor.sites.stage == "decode"]
    known = lengths[lengths > 1]
    return int(np.median(known)) if len(known) else USUAL_OUTPUT_LEN

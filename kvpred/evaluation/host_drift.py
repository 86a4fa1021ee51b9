"""How much slower a host became since it was calibrated, by sites that are measured again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kvpred.data.runs import Run
from kvpred.data.sites import RunSite, SiteTable, pool_sites
from kvpred.methods import BASELINE, get_method
from kvpred.predictors.greybox import STAGES

N_CONTROLS = 2


def control_sites(sites: SiteTable, *, n_sites: int = N_CONTROLS) -> list[RunSite]:
    """Return sites of fp16 to measure again: both stages known, evenly placed in the order of their tokens.

    Parameters
    ----------
    sites : SiteTable
        What a predictor was fitted to, methods written out.
    n_sites : int
    """
    fp16 = sites.select(sites.method == BASELINE)
    prefilled = _places(fp16.select(fp16.stage == "prefill"))
    decode = fp16.select(fp16.stage == "decode")
    known = [
        RunSite(int(bsz), int(prompt_len), int(output_len))
        for bsz, prompt_len, output_len in zip(decode.bsz, decode.prompt_len, decode.output_len, strict=True)
        if (int(bsz), int(prompt_len)) in prefilled
    ]
    known.sort(key=lambda site: (site.bsz * site.prompt_len, site))
    # Neither the smallest, whose repeats scatter most, nor the largest, which takes longest.
    places = np.linspace(0, len(known) - 1, n_sites + 2)[1:-1]
    return list(dict.fromkeys(known[int(place)] for place in places)) if known else []


def _places(sites: SiteTable) -> set[tuple[int, int]]:
    return set(zip(sites.bsz.tolist(), sites.prompt_len.tolist(), strict=True))


def host_drift(sites: SiteTable, runs: Sequence[Run]) -> dict[str, float]:
    """Return by stage how many times longer fp16 takes now at the sites that it was calibrated on.

    Parameters
    ----------
    sites : SiteTable
        What a predictor was fitted to.
    runs : sequence of Run
        Made now; those at other sites and of other methods are left aside.

    Returns
    -------
    dict of str to float
        Geometric mean over the sites; without stages of which no site was measured again.
    """
    fp16 = [run for run in runs if get_method(run.method_params).spec == BASELINE]
    if not fp16:
        return {}
    now = pool_sites(fp16, align_lengths=False)
    found = {}
    for stage in STAGES:
        before, after = (
            {
                (int(table.bsz[i]), int(table.prompt_len[i])): float(table.time_s[i])
                for i in np.flatnonzero((table.stage == stage) & (table.method == BASELINE))
            }
            for table in (sites, now)
        )
        if again := [np.log(after[place] / before[place]) for place in after if place in before]:
            found[stage] = float(np.exp(np.mean(again)))
    return found


def without_drift(runs: Sequence[Run], drift: Mapping[str, float]) -> list[Run]:
    """Return runs as fast as they would have been on the host as it was calibrated."""
    return [
        run.model_copy(update={"throughput_tok_s": run.throughput_tok_s * drift.get(run.stage, 1.0)})
        for run in runs
    ]

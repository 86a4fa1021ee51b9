"""Which sites to measure: those of a grid, or those that teach most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from kvpred.data.sites import RunSite, farthest_first
from kvpred.engines.runner import RUNS
from kvpred.errors import UsageError
from kvpred.methods import BASELINE, get_method
from kvpred.models import get_model
from kvpred.predictors.planning import METHOD_SITES, SHORTEST_PROMPT, candidate_sites, plan_for
from kvpred.predictors.predictor import Predictor
from kvpred.workflows.reading import read_measured_runs

_Count = Annotated[int, Field(ge=1)]


class MeasureGrid(BaseModel):
    """Batches and prompt lengths, every one with every other, as a TOML file names them.

    Parameters
    ----------
    bsz, prompt_len : list of int
    output_len : int
    max_tokens : int, optional
        Most tokens of a batch; larger combinations are left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    bsz: list[_Count] = Field(min_length=1)
    prompt_len: list[_Count] = Field(min_length=1)
    output_len: int = Field(default=32, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)

    def sites(self) -> list[RunSite]:
        """Return the combinations, spread so that an early end leaves the range covered."""
        pairs = sorted(set(product(self.bsz, self.prompt_len)))
        most = math.inf if self.max_tokens is None else self.max_tokens
        return spread([RunSite(b, p, self.output_len) for b, p in pairs if b * (p + self.output_len) <= most])


def planned_sites(
    methods: Sequence[str],
    output: Path,
    *,
    model: str,
    n_sites: int,
    predictor: Predictor | None = None,
    bsz: Sequence[int] = (1, 2, 4, 8),
    max_prompt_len: int | None = None,
    max_tokens: int = 16384,
    output_len: int = 32,
    resume: bool = True,
) -> dict[str, list[RunSite]]:
    """Choose the sites that teach most of each method.

    Parameters
    ----------
    methods : sequence of str
        Full method strings.
    output : Path
        Sites of its runs are known already; the plan keeps those and adds to them.
    model : str
    n_sites : int
        Of fp16; other methods need fewer, see `kvpred.predictors.planning.plan_for`.
    predictor : Predictor, optional
        Of this engine and device; nominal rates if not given.
    bsz : sequence of int
    max_prompt_len : int, optional
        As far as the model's context reaches, if not given.
    max_tokens : int
        Most tokens of a batch.
    output_len : int
    resume : bool
        If false, what the folder holds is about to be replaced, and known sites are none.

    Raises
    ------
    UsageError
        If no site fits, or fewer than are to be chosen.
    """
    spec = get_model(model)
    longest = min(max_prompt_len or spec.max_position, spec.max_position - output_len) + output_len
    candidates = candidate_sites(bsz=bsz, max_seq_len=longest, max_tokens=max_tokens, output_len=output_len)
    if not candidates:
        raise UsageError(
            f"no site to plan: prompts of {SHORTEST_PROMPT} tokens and answers of {output_len} do not fit "
            f"into max_tokens={max_tokens:,} and {spec.name}'s context of {spec.max_position:,} tokens."
        )
    known = measured_sites(output) if resume else {}
    sites = {}
    for method in methods:
        own = known.get(method, [])
        left = (n_sites if method == BASELINE else min(n_sites, METHOD_SITES)) - len(own)
        new = (
            plan_for(predictor, spec, [method], candidates, left, measured=known)[method] if left > 0 else []
        )
        sites[method] = [*own, *new]
    return sites


def measured_sites(output: Path) -> dict[str, list[RunSite]]:
    """Return the sites of the runs in a folder, by full method string; none if there is no such folder."""
    if not (output / RUNS).exists():
        return {}
    found: dict[str, list[RunSite]] = {}
    for run in read_measured_runs([output / RUNS]):
        site = RunSite(run.bsz, run.prompt_len, run.output_len or 1)
        sites = found.setdefault(get_method(run.method_params).spec, [])
        if site not in sites:
            sites.append(site)
    return found


def spread(sites: Sequence[RunSite]) -> list[RunSite]:
    """Order sites so that each is as far as can be from those before it; the smallest comes first."""
    if not sites:
        return []
    at = np.log2([(site.bsz, site.prompt_len) for site in sites])
    return [sites[i] for i in farthest_first(at, first=int(at.sum(axis=1).argmin()))]

"""From a few runs to a calibrated predictor: what it learnt, how far to trust it, what to measure next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvpred.data.runs import Run
from kvpred.data.sites import RunSite, SiteTable, pool_sites
from kvpred.errors import DataError
from kvpred.evaluation.verdict import LearntMethod, Verdict, judge_calibration, overall_verdict
from kvpred.hardware import measured_engine
from kvpred.methods import BASELINE
from kvpred.predictors.crossval import SITE_BY_SITE, check_level
from kvpred.predictors.greybox import STAGES
from kvpred.predictors.planning import next_run
from kvpred.predictors.predictor import Predictor, fit_predictor
from kvpred.workflows.reading import blamed_on, read_profiles
from kvpred.workflows.training import (
    Measurements,
    place_of,
    profiled_operators,
    provenance_of,
    read_runs_of_baseline,
)

# fp16's forms have three terms per stage.
FP16_TERMS = 3


@dataclass(frozen=True, slots=True)
class NextRun:
    """The run that would help most.

    Parameters
    ----------
    method : str
    bsz, prompt_len, output_len : int
    """

    method: str
    bsz: int
    prompt_len: int
    output_len: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """A predictor fitted to few runs, and what is known of its worth.

    Parameters
    ----------
    predictor : Predictor
    level : float
        Level of the intervals.
    methods : tuple of LearntMethod
        fp16 first.
    verdict : Verdict
        Of the whole: its weakest method's.
    next_run : NextRun or None
        None where every candidate is measured.
    notes : tuple of str
        What a reader must know about the runs, a sentence each.
    """

    predictor: Predictor
    level: float
    methods: tuple[LearntMethod, ...]
    verdict: Verdict
    next_run: NextRun | None
    notes: tuple[str, ...]

    @property
    def summary(self) -> tuple[str, ...]:
        """Return the notes, the verdict and the run that would help most, a sentence each."""
        said = (*self.notes, f"Verdict: {self.verdict.word} ({self.verdict.reason}).")
        if self.next_run is None:
            return (*said, "Every site of the range is measured: only more repeats would help.")
        run = self.next_run
        return (*said, f"The run that would help most: {run.method} at {run.bsz} x {run.prompt_len:,}.")


def calibrate(
    measured: Measurements,
    *,
    pool_hosts: bool = False,
    regressor: str = "physics",
    level: float = 0.9,
    provenance: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Fit overhead, efficiencies and the methods' multipliers to few runs, and judge the fit site by site.

    Parameters
    ----------
    measured : Measurements
        Runs of one model, device, engine, host and set of versions, fp16's among them; profiles to fit on top
        of, if any.
    pool_hosts : bool
        Take runs of several hosts or versions as repeats of one.
    regressor : str
        Of the profiles' operators; see `kvpred.workflows.training.train`.
    level : float
        Level of the intervals.
    provenance : str, optional
        One sentence on whose measurements these are; made of files and counts if not given.
    progress : callable
        Told in a sentence what is being done.

    Raises
    ------
    DataError
        If the runs lack fp16 or a stage of a method, are too few, or mix hosts or versions.
    UsageError
        If the level is out of range.
    """
    check_level(level)
    runs = read_runs_of_baseline(measured)
    with blamed_on(measured.runs):
        if not pool_hosts:
            _check_one_host(runs)
        _check_whole(runs)
        kept, notes = trusted(runs)
        sites = pool_sites(kept)
        _check_enough(sites)
        first = runs[0]
        place = place_of(first)
        engine = measured_engine(first.engine).name
    progress(f"{len(kept)} runs at {len(sites)} sites; fitting, and leaving each site out in turn")
    profiles = read_profiles(
        measured.profiles, device=measured.device, model=measured.model, method=measured.method
    )
    steps = profiled_operators(profiles, place, regressor)
    with blamed_on(measured.runs):
        predictor = fit_predictor(
            sites,
            place=place,
            engine=engine,
            provenance=provenance or provenance_of(place, measured, f"{len(kept)} runs under {engine}"),
            profiles=steps,
            splits=(SITE_BY_SITE,),
        )
    methods = judge_calibration(predictor, level=level, profiles=steps)
    return Calibration(
        predictor, level, methods, overall_verdict(methods), _most_helpful(predictor), tuple(notes)
    )


def trusted(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Return the runs to count, and a sentence on those with a mark.

    Where a site has runs without a mark, only those count; where it has none, the marked ones must do.

    Parameters
    ----------
    runs : sequence of Run
    """
    clean = {_site(run) for run in runs if run.mark is None}
    kept = [run for run in runs if run.mark is None or _site(run) not in clean]
    marked = [run for run in runs if run.mark is not None]
    if not marked:
        return kept, []
    used = [run for run in kept if run.mark is not None]
    marks = ", ".join(sorted({str(run.mark) for run in marked}))
    note = f"{len(marked)} of {len(runs)} runs are marked ({marks}): {len(marked) - len(used)} are left out"
    if used:
        places = sorted({f"{run.method} {run.stage} {run.bsz} x {run.prompt_len:,}" for run in used})
        note += f", {len(used)} are all that there is of {', '.join(places)}"
    return kept, [f"{note}."]


def _site(run: Run) -> tuple[object, ...]:
    return run.method_params, run.stage, run.bsz, run.prompt_len, run.output_len


def _check_one_host(runs: Sequence[Run]) -> None:
    for trait, found in (
        ("hosts", {run.host for run in runs}),
        ("sets of versions", {run.versions for run in runs}),
    ):
        if len(found) > 1:
            names = "; ".join(sorted(name or "not said" for name in found))
            raise DataError(
                f"the runs are of {len(found)} {trait} ({names}): calibrate on those of one, or say "
                "--pool-hosts to take them as repeats of one"
            )


def _check_whole(runs: Sequence[Run]) -> None:
    """Refuse methods of which one stage was not measured."""
    for method in sorted({run.method_params for run in runs}):
        stages = {run.stage for run in runs if run.method_params == method}
        for stage in STAGES:
            if stage not in stages:
                raise DataError(
                    f"there are no {stage} runs of {method}: measure both stages (answers of several "
                    "tokens), or leave the method's rows out"
                )


def _check_enough(sites: SiteTable) -> None:
    """Refuse fewer fp16 sites than a fit has terms, with what is missing."""
    for stage in STAGES:
        rows = (sites.stage == stage) & np.char.startswith(sites.method, BASELINE)
        places = sorted(
            {(int(b), int(n)) for b, n in zip(sites.bsz[rows], sites.prompt_len[rows], strict=True)}
        )
        if len(places) < FP16_TERMS:
            have = ", ".join(f"{bsz} x {prompt_len:,}" for bsz, prompt_len in places)
            raise DataError(
                f"{BASELINE} has {len(places)} site{'s' * (len(places) != 1)} of {stage} ({have}), and a fit "
                f"needs at least {FP16_TERMS}, of several batch sizes and prompt lengths; "
                "`kvpred measure --plan 8` chooses those that teach most"
            )


def _most_helpful(predictor: Predictor) -> NextRun | None:
    found = next_run(predictor, spanning_sites(predictor.sites))
    return (
        None if found is None else NextRun(found[0], found[1].bsz, found[1].prompt_len, found[1].output_len)
    )


def spanning_sites(sites: SiteTable) -> list[RunSite]:
    """Return doublings of batch size and prompt length over the measured range, within its largest batch.

    Parameters
    ----------
    sites : SiteTable
    """
    output_len = int(np.median(sites.output_len[sites.stage == "decode"]))
    most_tokens = int(np.max(sites.bsz * sites.prompt_len))
    bsz, prompt_len = (_doublings(axis) for axis in (sites.bsz, sites.prompt_len))
    return [RunSite(b, n, output_len) for b in bsz for n in prompt_len if b * n <= most_tokens]


def _doublings(values: NDArray[np.int64]) -> list[int]:
    low, high = int(values.min()), int(values.max())
    steps = [low * 2**k for k in range(int(np.log2(high / low)) + 1)]
    return sorted({*steps, high})

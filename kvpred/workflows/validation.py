"""Judge a predictor: on its own sites, held out, or on runs that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import kvpred
from kvpred.data.sites import pool_sites
from kvpred.errors import DataError, NotCoveredError, UsageError
from kvpred.evaluation.accuracy import COMPARISON_SPLIT, evaluate, judge
from kvpred.evaluation.accuracy_report import AccuracyReport
from kvpred.evaluation.few_shot import few_shot
from kvpred.evaluation.profile_accuracy import ProfileAccuracy, judge_profiles
from kvpred.evaluation.published import published_scoring
from kvpred.evaluation.validation import Validation
from kvpred.predictors.bundle import load
from kvpred.predictors.crossval import SITE_BY_SITE, SPLITS, check_level
from kvpred.predictors.operators.evaluate import HeldOutError, evaluate_operators
from kvpred.predictors.predictor import Predictor
from kvpred.workflows.reading import blamed_on, read_measured_runs, read_profiles


def validate(
    bundle: str | None = None,
    *,
    runs: Sequence[Path] = (),
    pool_labels: bool = False,
    level: float = 0.9,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Validation:
    """Judge a bundle.

    Parameters
    ----------
    bundle : str, optional
        The packaged predictor, if not given.
    runs : sequence of Path
        Runs that it has not seen; without any, its own sites are held out.
    pool_labels : bool
        Take a published table's model names as labels of repeats of the predictor's model.
    level : float
        Level of the intervals, from 0.5 to 0.99.
    seed : int
        Of random rows and random sites.
    progress : callable
        Told in a sentence what is being done.

    Raises
    ------
    DataError, UsageError
        If the bundle or the runs are wrong.
    NotCoveredError
        If there is nothing to judge: no runs in the bundle, or none of a method.
    """
    check_level(level)
    _check_seed(seed)
    path = Path(bundle) if bundle is not None else kvpred.PACKAGED
    predictor = load(path)
    if runs:
        return _on_runs(path.name, predictor, runs, pool_labels=pool_labels, level=level, progress=progress)
    if predictor.basis != "calibrated":
        raise NotCoveredError(
            f"{path} rests on operator profiles alone: there are no runs in it to hold out; give --runs"
        )
    progress(f"holding out sites of {path.name}: {len(predictor.sites)} sites in {len(SPLITS)} ways")
    report = _held_out(predictor, level=level, seed=seed)
    progress("learning each method anew from few sites")
    learnt = scoring = None
    try:
        learnt = few_shot(predictor.sites, level=level, seed=seed)
    except UsageError as error:
        progress(f"left out the few-shot part: {error}")
    try:
        scoring = published_scoring(predictor.sites)
    except UsageError as error:
        progress(f"left out the published scoring: {error}")
    return Validation(
        name=path.name,
        report=report,
        few_shot=learnt,
        published=scoring,
        labels={
            name.removeprefix("label ").removesuffix(" alone"): values
            for name, values in predictor.accuracy.items()
            if name.startswith("label ")
        },
        notes=(f"Measured: {predictor.provenance}.", *_label_notes(predictor), *_profile_notes(predictor)),
    )


def _held_out(predictor: Predictor, *, level: float, seed: int) -> AccuracyReport:
    """Hold whole lengths and batch sizes out, and where the sites are too few for either, each by itself."""

    def report(splits: Sequence[str]) -> AccuracyReport:
        return evaluate(predictor.sites, splits=splits, level=level, seed=seed, profiles=predictor.profiles)

    with suppress(UsageError):
        found = report(SPLITS)
        if any(split.split != COMPARISON_SPLIT for split in found.splits):
            return found
    return report((SITE_BY_SITE, *SPLITS))


def validate_profile(
    folder: Path,
    *,
    device: str | None = None,
    model: str | None = None,
    method: str | None = None,
    regressors: Sequence[str] = ("physics", "auto"),
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[HeldOutError] | ProfileAccuracy:
    """Judge an operator profile, or several that were timed in place.

    Parameters
    ----------
    folder : Path
        Holds ``attention.csv`` and ``mlp.csv``, or is a root with one such folder per method, each with
        ``steps.csv``.
    device, model, method : str, optional
        What folders do not say.
    regressors : sequence of str
        To compare on a profile without steps; see `kvpred.predictors.operators.make_regressor`. In-place
        profiles are judged by the first.
    seed : int
        Deals rows, values and sites out to folds.
    progress : callable
        Told in a sentence what is being done.

    Returns
    -------
    list of HeldOutError
        Of a profile without whole steps: batch sizes, lengths and, for comparison, random rows held out.
    ProfileAccuracy
        Of profiles with whole steps.

    Raises
    ------
    DataError
        If there are several profiles of several models or devices, or without steps, or none of fp16.
    """
    _check_seed(seed)
    profiles = read_profiles([folder], device=device, model=model, method=method)
    first = profiles[0]
    if all(profile.steps for profile in profiles):
        if len({(profile.model, profile.device) for profile in profiles}) > 1:
            raise DataError(
                "the profiles are of several models or devices: give the folder of one", path=folder
            )
        progress(f"holding out sites of {len(profiles)} methods of {first.model} on {first.device}")
        with blamed_on([folder]):
            return judge_profiles(profiles, kind=regressors[0], seed=seed)
    if len(profiles) > 1:
        raise DataError("several profiles, not all with steps.csv: give the folder of one", path=folder)
    progress(f"fitting each operator of {first.model} on {first.device} with {', '.join(regressors)}")
    return evaluate_operators(first, regressors=regressors, seed=seed)


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise UsageError(f"seed={seed} must be at least 0")


def _label_notes(predictor: Predictor) -> list[str]:
    """Say what pooled labels and aligned lengths mean, where there are any."""
    notes = []
    if predictor.sites.labels.max(initial=0) > 1:
        notes.append(
            "The runs carry several model names but one model's times (kvpred audit shows why): they are "
            "taken as repeats, and the noise ceiling includes what differs between them."
        )
    if predictor.sites.moved.any():
        notes.append(
            "Decode runs labelled 65 tokens longer than a prefill length stand for that length, most likely "
            "with the generated tokens counted in: they are held out together with it."
        )
    return notes


def _profile_notes(predictor: Predictor) -> list[str]:
    """Say what holding sites out of the steps alone leaves in, where there are profiled operators."""
    if not predictor.profiles:
        return []
    return [
        "Held out of the fit of overhead and efficiencies. The operators were fitted to their whole profile; "
        "`kvpred validate --profile` holds sites out of that."
    ]


def _on_runs(
    name: str,
    predictor: Predictor,
    paths: Sequence[Path],
    *,
    pool_labels: bool,
    level: float,
    progress: Callable[[str], None],
) -> Validation:
    place = predictor.place
    rows = read_measured_runs(
        paths,
        model=place.model.name,
        device=place.device.name,
        engine=predictor.engine,
        pool_labels=pool_labels,
    )
    degrees = {row.tp for row in rows}
    if degrees != {place.tp}:
        raise DataError(
            f"the runs are of tp {sorted(degrees)}, the predictor of tp {place.tp}", path=paths[0]
        )
    with blamed_on(paths):
        sites = pool_sites(rows)
    progress(f"judging {name} on {len(rows)} runs at {len(sites)} sites")
    report = judge(predictor, sites, level=level)
    notes = (f"Fitted to: {predictor.provenance}.", "Judged on the given runs, as they are.")
    return Validation(name, report, few_shot=None, published=None, labels={}, notes=notes)

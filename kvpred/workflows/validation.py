"""Judge a predictor: on its own sites, held out, or on runs that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import kvpred
from kvpred.data.sites import pool_sites
from kvpred.data.store import read_profile
from kvpred.errors import DataError, NotCoveredError, UsageError
from kvpred.evaluation.accuracy import evaluate, judge
from kvpred.evaluation.few_shot import few_shot
from kvpred.evaluation.published import published_scoring
from kvpred.evaluation.validation import Validation
from kvpred.methods import list_methods
from kvpred.predictors.crossval import SPLITS
from kvpred.predictors.operators.evaluate import HeldOutError, evaluate_operators
from kvpred.predictors.predictor import Predictor
from kvpred.workflows.reading import blamed_on, read_measured_runs


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
    if not 0.5 <= level <= 0.99:
        raise UsageError(f"level={level} must be from 0.5 to 0.99")
    _check_seed(seed)
    path = Path(bundle) if bundle is not None else kvpred.PACKAGED
    predictor = kvpred.load(path)
    if runs:
        return _on_runs(path.name, predictor, runs, pool_labels=pool_labels, level=level, progress=progress)
    if predictor.basis != "calibrated":
        raise NotCoveredError(
            f"{path} rests on operator profiles alone: there are no runs in it to hold out; give --runs"
        )
    progress(f"holding out sites of {path.name}: {len(predictor.sites)} sites in {len(SPLITS)} ways")
    report = evaluate(predictor.sites, level=level, seed=seed, profiles=predictor.profiles)
    progress("learning each method anew from few sites")
    try:
        learnt = few_shot(predictor.sites, level=level, seed=seed)
    except UsageError as error:
        progress(f"left out the few-shot part: {error}")
        learnt = None
    return Validation(
        name=path.name,
        report=report,
        few_shot=learnt,
        published=published_scoring(predictor.sites),
        labels={
            name.removeprefix("label ").removesuffix(" alone"): values
            for name, values in predictor.accuracy.items()
            if name.startswith("label ")
        },
        notes=(f"Measured: {predictor.provenance}.", *_label_notes(predictor)),
    )


def validate_profile(
    folder: Path,
    *,
    device: str | None = None,
    model: str | None = None,
    method: str | None = None,
    regressors: Sequence[str] = ("physics", "auto"),
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[HeldOutError]:
    """Hold out batch sizes, lengths and, for comparison, random rows of every operator of a profile.

    Parameters
    ----------
    folder : Path
        Holds ``attention.csv`` and ``mlp.csv``.
    device, model, method : str, optional
        What folders do not say.
    regressors : sequence of str
        To compare; see `kvpred.predictors.operators.make_regressor`.
    seed : int
        Deals rows and values out to folds.
    progress : callable
        Told in a sentence what is being done.
    """
    _check_seed(seed)
    known = [method.name for method in list_methods()]
    profile = read_profile(folder, device=device, model=model, method=method, known_methods=known)
    progress(f"fitting each operator of {profile.model} on {profile.device} with {', '.join(regressors)}")
    return evaluate_operators(profile, regressors=regressors, seed=seed)


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

"""From whole steps and the operators timed in them to a predictor: what a sweep in place teaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from kvpred.data.profiles import Columns, Profile, time_column
from kvpred.data.sites import SITE_COLUMNS, SiteTable
from kvpred.errors import DataError, UsageError
from kvpred.methods import BASELINE, get_method
from kvpred.predictors.calibration import Profiles
from kvpred.predictors.greybox import StageFit, StageForm
from kvpred.predictors.predictor import Predictor, StageCalibration, fit_predictor
from kvpred.predictors.profiled import MS, ProfiledStep, profiled_steps
from kvpred.predictors.scaling import Place

Rows = NDArray[np.bool_]
# Columns of whole steps: without hooks, and the sum of operators as often as a step runs each.
STEP, OPERATORS = "step", "operators"


def step_sites(profiles: Sequence[Profile], *, tp: int = 1) -> SiteTable:
    """Return the whole steps of profiles as sites: runs of one generated token each.

    Parameters
    ----------
    profiles : sequence of Profile
        Timed in place.
    tp : int
        Tensor-parallel degree whose rows to take.

    Returns
    -------
    SiteTable
        Sorted by method, stage, batch size and length.
    """
    columns: dict[str, list[NDArray[np.generic]]] = {name: [] for name in SITE_COLUMNS}
    for profile in profiles:
        for name, values in _sites(profile, tp).items():
            columns[name].append(values)
    table = SiteTable(**{name: np.concatenate(parts) for name, parts in columns.items()})
    return table.select(np.lexsort((table.prompt_len, table.bsz, table.stage, table.method)))


def _sites(profile: Profile, tp: int) -> Columns:
    columns = at_rows(profile.steps, profile.steps["num_tensor_parallel_workers"] == tp)
    bsz, prefill = columns["batch_size"], columns["is_prefill"]
    time_s = MS * columns[time_column(STEP)]
    count = profile.manifest.repeats if profile.manifest is not None else 1
    std_s = MS * columns.get(time_column(STEP, "std"), np.full(len(bsz), np.nan))
    none = np.zeros(len(bsz), dtype=np.int64)
    return {
        "method": np.full(len(bsz), get_method(profile.method).spec),
        "stage": np.where(prefill, "prefill", "decode"),
        "bsz": bsz,
        "prompt_len": site_lengths(columns),
        "output_len": np.ones(len(bsz), dtype=np.int64),
        "time_s": time_s,
        "throughput_tok_s": site_tokens(columns) / time_s,
        "count": np.full(len(bsz), count if not np.isnan(std_s).any() else 1),
        "spread": std_s / time_s if count > 1 else np.full(len(bsz), np.nan),
        "labels": none,
        "moved": none,
    }


def site_lengths(columns: Columns) -> NDArray[np.int64]:
    """Return the length of each row's site: of the prompt, or of the cache before the decode step."""
    lengths = np.where(columns["is_prefill"], columns["prefill_chunk_size"], columns["kv_cache_size"])
    return np.maximum(lengths, 1)


def site_keys(columns: Columns) -> list[tuple[bool, int, int]]:
    """Return what names each row's site: whether it is a prefill, batch size, length."""
    parts = (columns["is_prefill"], columns["batch_size"], site_lengths(columns))
    return list(zip(*(part.tolist() for part in parts), strict=True))


def site_tokens(columns: Columns) -> NDArray[np.int64]:
    """Return how many tokens pass the layers in a step at each row's site."""
    tokens = columns["batch_size"] * np.where(columns["is_prefill"], columns["prefill_chunk_size"], 1)
    return np.asarray(tokens)


def at_rows(columns: Columns, rows: Rows) -> Columns:
    """Return the masked rows of a table."""
    return {name: values[rows] for name, values in columns.items()}


@dataclass(frozen=True, slots=True, eq=False)
class StepsOfSites:
    """Fits the operators of profiles anew to the rows of given sites, so that held-out ones stay unseen.

    Parameters
    ----------
    profiles : sequence of Profile
        Timed in place, fp16's among them.
    place : Place
        With as many layers as the stack had.
    kind : str
        Regressor; see `fit_operators`.
    """

    profiles: Sequence[Profile]
    place: Place
    kind: str
    _known: dict[bytes, Profiles] = field(default_factory=dict, repr=False)

    def __call__(self, sites: SiteTable) -> Profiles:
        """Return the steps of every method that has sites of both stages among `sites`.

        Raises
        ------
        UsageError
            If fp16 has none.
        """
        # Both stages, and several splits, ask for the same folds.
        names = (sites.method, sites.stage, sites.bsz, sites.prompt_len)
        key = b"|".join(column.tobytes() for column in names)
        if key not in self._known:
            self._known[key] = self._fit(sites)
        return self._known[key]

    def _fit(self, sites: SiteTable) -> Profiles:
        kept = [profile_at(profile, sites) for profile in self.profiles]
        whole = [profile for profile in kept if profile is not None]
        if BASELINE not in {get_method(profile.method).spec for profile in whole}:
            raise UsageError(f"there are no {BASELINE} sites of both stages to fit operators to")
        return profiled_steps(whole, place=self.place, kind=self.kind)


def profile_at(profile: Profile, sites: SiteTable) -> Profile | None:
    """Return a profile's rows of its method's sites; None unless both stages have some.

    Shared operators are kept at the numbers of tokens that these sites pass.
    """
    own = sites.select(sites.method == get_method(profile.method).spec)
    prefill = own.stage == "prefill"
    wanted = set(zip(prefill.tolist(), own.bsz.tolist(), own.prompt_len.tolist(), strict=True))
    columns = profile.attention
    rows = np.array([key in wanted for key in site_keys(columns)])
    if len(np.unique(columns["is_prefill"][rows])) < 2:
        return None
    tokens = own.bsz * np.where(prefill, own.prompt_len, 1)
    mlp = at_rows(profile.mlp, np.isin(profile.mlp["num_tokens"], tokens)) if profile.mlp else {}
    return replace(profile, attention=at_rows(columns, rows), mlp=mlp)


def predictor_of_steps(
    profiles: Sequence[Profile], *, place: Place, engine: str, provenance: str, kind: str = "physics"
) -> Predictor:
    """Fit overhead and efficiencies to whole steps, on top of the operators that were timed in them.

    Held-out sites are held out of the operators' fits too. Where the stack had all of the model's layers the
    steps are runs of the engine: basis `calibrated`. Where it had fewer, the operators are summed over all
    layers, the overhead is taken as measured, and the basis is `profiled`.

    Parameters
    ----------
    profiles : sequence of Profile
        Timed in place in stacks of as many layers, fp16's among them.
    place : Place
    engine : str
        The one that ran the steps.
    provenance : str
    kind : str
        Regressor; see `fit_operators`.

    Raises
    ------
    DataError
        If the stacks differ in their layers, or none is of fp16.
    UsageError
        If there are too few sites.
    """
    n_layers = _layers(profiles)
    stack = replace(place, model=replace(place.model, n_layers=n_layers))
    fitted = fit_predictor(
        step_sites(profiles, tp=place.tp),
        place=stack,
        engine=engine,
        provenance=provenance,
        profiles=StepsOfSites(profiles, stack, kind),
    )
    return fitted if n_layers == place.model.n_layers else _of_all_layers(fitted, place)


def _layers(profiles: Sequence[Profile]) -> int:
    layers = sorted({int(n) for profile in profiles for n in profile.steps["n_layers"]})
    if len(layers) != 1:
        found = " and ".join(map(str, layers))
        raise DataError(f"the profiles are of stacks of {found} layers: give those of one")
    return layers[0]


def _of_all_layers(fitted: Predictor, place: Place) -> Predictor:
    """Carry a stack's predictor to the whole model, whose steps nobody timed."""
    stages = {name: _carried(stage, fitted.place, place) for name, stage in fitted.stages.items()}
    return replace(fitted, place=place, sites=SiteTable.empty(), accuracy={}, stages=stages)


def _carried(stage: StageCalibration, stack: Place, place: Place) -> StageCalibration:
    """Sum the operators over all layers, and keep the overhead.

    Whatever a layer does belongs to one of its operators, so the rest of a step is taken to come once, not
    per layer. It is uncertain by half of what growing with the layers would add.
    """
    fits = stage.fits
    growth = place.model.n_layers / stack.model.n_layers - 1
    steps = {id(fit.form.profile): _of(fit.form, place) for fit in fits.fits.values()}
    carried = {}
    for name, fit in fits.fits.items():
        doubt = np.zeros_like(fit.covariance)
        doubt[0, 0] = (growth / 2 * fit.coef[0] / fits.site_error[name]) ** 2
        form = replace(fit.form, profile=steps[id(fit.form.profile)])
        carried[name] = StageFit(form, fit.coef, fit.covariance + doubt)
    return replace(stage, fits=replace(fits, form=carried[BASELINE].form, fits=carried))


def _of(form: StageForm, place: Place) -> ProfiledStep:
    return replace(cast("ProfiledStep", form.profile), n_layers=place.model.n_layers)

"""Whole steps summed from profiled operators, and the predictor that rests on such a profile alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kvpred.data.profiles import Profile
from kvpred.data.sites import SiteTable
from kvpred.errors import DataError, NotCoveredError
from kvpred.methods import BASELINE, get_method
from kvpred.predictors.calibration import ASSUMED_RUN_NOISE, Profiles, StageFits
from kvpred.predictors.domain import Domain
from kvpred.predictors.forms import candidate_forms
from kvpred.predictors.greybox import STAGES, Array, StageFit
from kvpred.predictors.operators import (
    ATTENTION_OPERATORS,
    DECODE,
    PREFILL,
    TOKENS,
    OperatorModel,
    OperatorSet,
    fit_operators,
    make_regressor,
)
from kvpred.predictors.predictor import Predictor, StageCalibration
from kvpred.predictors.scaling import Place

# kvpred's own column. Of a prompt, only the last token passes it.
LM_HEAD = "lm_head"
# Run once per step, not once per layer: the LM head and the embedding (Vidur's).
ONCE_PER_STEP = (LM_HEAD, "emb")
# Run twice per layer, after attention and after the MLP, by devices that share the work.
ALL_REDUCE = "all_reduce"
MS = 1e-3
# Tokens at which a data sheet's all-reduce is written down: its law is a line, so few suffice.
_SHEET_TOKENS = np.array([1.0, 64.0, 4096.0])


@dataclass(frozen=True, slots=True, eq=False)
class ProfiledStep:
    """The operators of one method's layers, summed to a step.

    Parameters
    ----------
    shared, own : OperatorSet
        fp16's operators, and the method's, of which only attention's are taken.
    n_layers : int
    cold : bool
        Whether operators were timed in place, each with cold caches, rather than one by one.
    """

    shared: OperatorSet
    own: OperatorSet
    n_layers: int
    cold: bool

    def device_s(self, stage: str, *, bsz: Array, length: Array) -> Array:
        """Return seconds of the shared operators and of attention, shape (..., 2).

        ``step = n_layers * sum(operators) + lm_head + 2 * n_layers * all_reduce``, as Vidur sums (Agrawal et
        al., 2024), the all-reduce where devices share the work: shared operators depend on the tokens of the
        step, attention on batch and length.
        """
        shared, own = (
            sum(self.calls(operator) * ms for operator, ms in times.items())
            for times in (
                self.shared_ms(stage, bsz=bsz, length=length),
                self.own_ms(stage, bsz=bsz, length=length),
            )
        )
        shape = np.broadcast_shapes(np.shape(bsz), np.shape(length))
        return np.asarray(MS * np.stack([np.broadcast_to(part, shape) for part in (shared, own)], axis=-1))

    def calls(self, operator: str) -> int:
        """Return how often a step runs an operator."""
        if operator == ALL_REDUCE:
            return 2 * self.n_layers
        return 1 if operator in ONCE_PER_STEP else self.n_layers

    def all_reduce_s(self, tokens: Array) -> Array:
        """Return seconds of a step's all-reduces, which are among its shared operators."""
        if ALL_REDUCE not in self.shared.models:
            return np.zeros(np.shape(tokens))
        return MS * self.calls(ALL_REDUCE) * self.shared.predict(ALL_REDUCE, num_tokens=tokens)

    def shared_ms(self, stage: str, *, bsz: Array, length: Array) -> dict[str, Array]:
        """Return ms of one call of each operator that all methods share."""
        tokens = bsz * length if stage == "prefill" else bsz
        return {
            operator: self.shared.predict(operator, num_tokens=bsz if operator == LM_HEAD else tokens)
            for operator in _shared_operators(self.shared)
        }

    def own_ms(self, stage: str, *, bsz: Array, length: Array) -> dict[str, Array]:
        """Return ms of one call of each operator of the method's attention and cache upkeep in this stage.

        Raises
        ------
        NotCoveredError
            If the stage's attention was not profiled.
        """
        if f"attn_{stage}" not in self.own.models:
            raise NotCoveredError(f"the profile has no attention operator of {stage}: profile it")
        family = PREFILL if stage == "prefill" else DECODE
        times = {}
        for operator, model in self.own.models.items():
            if model.family is family:
                times[operator] = _attention_ms(model, bsz=bsz, length=length)
            elif model.family is TOKENS and operator in ATTENTION_OPERATORS:
                tokens = bsz * length if stage == "prefill" else bsz
                times[operator] = model.predict(num_tokens=tokens)
        return times


def _attention_ms(model: OperatorModel, *, bsz: Array, length: Array) -> Array:
    if model.family is DECODE:
        return model.predict(batch_size=bsz, kv_len=length)
    if model.regressor.high_[0] > 1:
        return model.predict(batch_size=bsz, prefill_chunk_size=length, kv_len=0)
    # Profiled with single sequences, as Vidur's are: a batch passes attention one after the other.
    return np.asarray(bsz * model.predict(batch_size=1, prefill_chunk_size=length, kv_len=0))


def profiled_steps(profiles: Sequence[Profile], *, place: Place, kind: str) -> Profiles:
    """Fit the operators of profiles of one model and device, and sum them to steps.

    Parameters
    ----------
    profiles : sequence of Profile
        One of fp16, and any of other methods.
    place : Place
    kind : str
        Regressor; see `fit_operators`.

    Returns
    -------
    mapping of str to ProfiledStep
        By full method string.

    Raises
    ------
    DataError
        If none is of fp16, or two are of one method.
    NotCoveredError
        If fp16's has no linear layers at this tensor-parallel degree, or nothing says how long an all-reduce
        takes.
    """
    by_method = {get_method(profile.method).spec: profile for profile in profiles}
    if len(by_method) < len(profiles):
        raise DataError("two profiles are of the same method; give one of each")
    if BASELINE not in by_method:
        raise DataError(f"none of the profiles is of {BASELINE}; its shared operators serve all methods")
    sets = {
        name: fit_operators(profile if name == BASELINE else replace(profile, mlp={}), kind, tp=place.tp)
        for name, profile in by_method.items()
    }
    if not _shared_operators(sets[BASELINE]):
        baseline = by_method[BASELINE]
        raise NotCoveredError(
            f"the profile of {baseline.model} on {baseline.device} has no linear layers (mlp.csv) at "
            f"tp={place.tp}: profile them"
        )
    if place.tp > 1:
        all_reduce = _all_reduce(by_method[BASELINE], place, kind)
        models = {**sets[BASELINE].models, ALL_REDUCE: all_reduce}
        sets[BASELINE] = replace(sets[BASELINE], models=models)
    return {
        name: ProfiledStep(sets[BASELINE], own, place.model.n_layers, cold=_is_cold(by_method[name]))
        for name, own in sets.items()
    }


def _shared_operators(operators: OperatorSet) -> list[str]:
    """Return the operators that do not belong to the method."""
    return [
        name
        for name, model in operators.models.items()
        if model.family is TOKENS and name not in ATTENTION_OPERATORS
    ]


def _all_reduce(profile: Profile, place: Place, kind: str) -> OperatorModel:
    """Fit one all-reduce of a step's tokens to the measured times, or else to the link's data sheet."""
    if ALL_REDUCE in profile.collectives:
        sizes, ms = profile.collectives[ALL_REDUCE].among(place.tp)
        if len(sizes):
            return _fitted_all_reduce(kind, sizes / (2 * place.model.hidden_size), ms)
    fixed_s, token_s = place.all_reduce_s()
    calls = 2 * place.model.n_layers
    return _fitted_all_reduce("physics", _SHEET_TOKENS, (fixed_s + token_s * _SHEET_TOKENS) / calls / MS)


def _fitted_all_reduce(kind: str, tokens: Array, ms: Array) -> OperatorModel:
    return OperatorModel(ALL_REDUCE, make_regressor(kind, family=TOKENS.name).fit(tokens[:, None], ms))


def _is_cold(profile: Profile) -> bool:
    return profile.manifest is not None and profile.manifest.cache_state == "cold"


def predictor_of_profile(
    profiles: Sequence[Profile], *, place: Place, engine: str, provenance: str, kind: str = "physics"
) -> Predictor:
    """Make a predictor of operator profiles alone: basis `profiled`, step overhead unknown.

    Parameters
    ----------
    profiles : sequence of Profile
    place : Place
    engine : str
    provenance : str
    kind : str
        Regressor; see `fit_operators`.
    """
    steps = profiled_steps(profiles, place=place, kind=kind)
    by_method = {get_method(profile.method).spec: profile for profile in profiles}
    stages = {}
    for stage in STAGES:
        fits = {
            name: StageFit(
                candidate_forms(stage, np.ones(1), profile=step)[0],
                coef=np.array([0.0, 1.0, 1.0]),
                covariance=np.zeros((3, 3)),
            )
            for name, step in steps.items()
        }
        noise = dict.fromkeys(fits, ASSUMED_RUN_NOISE)
        stages[stage] = StageCalibration(
            StageFits(fits[BASELINE].form, fits, site_error=noise, run_noise=noise, typical_count=1.0),
            _domain(by_method[BASELINE], stage, place.tp),
            scores=np.zeros(0),
            growth_per_octave=0.0,
        )
    return Predictor(place, engine, stages, SiteTable.empty(), provenance)


def _domain(profile: Profile, stage: str, tp: int) -> Domain:
    """Return the range that was profiled at a tensor-parallel degree.

    Decode: batch and cached tokens of attention. Prefill: prompts as long as attention's, in its batches, or,
    where it took one sequence at a time, in batches as large as the tokens of the shared operators allow.

    Raises
    ------
    NotCoveredError
        If the stage's attention was not profiled.
    """
    columns = profile.attention
    rows = np.zeros(0, dtype=bool)
    if columns:
        rows = columns["is_prefill"] == (stage == "prefill")
        rows &= columns["num_tensor_parallel_workers"] == tp
    if not rows.any():
        raise NotCoveredError(
            f"the profile of {profile.model} has no attention of {stage} (attention.csv) at tp={tp}: "
            "profile it"
        )
    bsz = columns["batch_size"][rows]
    if stage == "decode":
        return Domain.of(bsz=bsz, length=np.maximum(columns["kv_cache_size"][rows], 1))
    length = columns["prefill_chunk_size"][rows]
    if bsz.max() > 1:
        return Domain.of(bsz=bsz, length=length)
    shared = profile.mlp
    most_tokens = shared["num_tokens"][shared["num_tensor_parallel_workers"] == tp].max()
    largest = np.maximum(most_tokens // length, 1)
    return Domain.of(bsz=np.concatenate([np.ones_like(largest), largest]), length=np.tile(length, 2))

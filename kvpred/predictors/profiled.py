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
)
from kvpred.predictors.predictor import Predictor, StageCalibration
from kvpred.predictors.scaling import Place

# kvpred's own column. Of a prompt, only the last token passes it.
LM_HEAD = "lm_head"
# Run once per step, not once per layer: the LM head and the embedding (Vidur's).
ONCE_PER_STEP = (LM_HEAD, "emb")
MS = 1e-3


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

        ``step = n_layers * sum(operators) + lm_head``, as Vidur sums (Agrawal et al., 2024): shared operators
        depend on the tokens of the step, attention on batch and length.
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
        return 1 if operator in ONCE_PER_STEP else self.n_layers

    def shared_ms(self, stage: str, *, bsz: Array, length: Array) -> dict[str, Array]:
        """Return ms of one call of each operator that all methods share."""
        tokens = bsz * length if stage == "prefill" else bsz
        return {
            operator: self.shared.predict(operator, num_tokens=bsz if operator == LM_HEAD else tokens)
            for operator, model in self.shared.models.items()
            if model.family is TOKENS and operator not in ATTENTION_OPERATORS
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
    return {
        name: ProfiledStep(sets[BASELINE], own, place.model.n_layers, cold=_is_cold(by_method[name]))
        for name, own in sets.items()
    }


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
            _domain(by_method[BASELINE], stage),
            scores=np.zeros(0),
            growth_per_octave=0.0,
        )
    return Predictor(place, engine, stages, SiteTable.empty(), provenance)


def _domain(profile: Profile, stage: str) -> Domain:
    """Return the range that was profiled.

    Decode: batch and cached tokens of attention. Prefill: prompts as long as attention's, in its batches, or,
    where it took one sequence at a time, in batches as large as the tokens of the shared operators allow.
    """
    columns = profile.attention
    if not columns:
        raise NotCoveredError(f"the profile of {profile.model} has no attention table: profile it")
    rows = columns["is_prefill"] == (stage == "prefill")
    bsz = columns["batch_size"][rows]
    if stage == "decode":
        return Domain.of(bsz=bsz, length=np.maximum(columns["kv_cache_size"][rows], 1))
    length = columns["prefill_chunk_size"][rows]
    if bsz.max(initial=1) > 1:
        return Domain.of(bsz=bsz, length=length)
    most_tokens = profile.mlp["num_tokens"].max() if profile.mlp else length.max()
    largest = np.maximum(most_tokens // length, 1)
    return Domain.of(bsz=np.concatenate([np.ones_like(largest), largest]), length=np.tile(length, 2))

"""Whole steps summed from profiled operators, and the predictor that rests on such a profile alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvpred.data.profiles import Profile
from kvpred.data.sites import SiteTable
from kvpred.errors import DataError, NotCoveredError
from kvpred.methods import get_method
from kvpred.predictors.calibration import ASSUMED_RUN_NOISE, BASELINE, Profiles, StageFits
from kvpred.predictors.domain import Domain
from kvpred.predictors.greybox import STAGES, Array, StageFit, candidate_forms
from kvpred.predictors.operators import DECODE, PREFILL, OperatorSet, fit_operators
from kvpred.predictors.predictor import Predictor, StageCalibration
from kvpred.predictors.scaling import Place

# Run once per step, not once per layer: the LM head (kvpred's own column) and the embedding (Vidur's).
ONCE_PER_STEP = ("lm_head", "emb")
MS = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class ProfiledStep:
    """The operators of one method's layers, summed to a step.

    Parameters
    ----------
    shared, own : OperatorSet
        fp16's operators, and the method's, of which only attention is taken.
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
        depend on the tokens of the step, attention on batch and length. Prefill passes one sequence at a time
        through attention, as profiles time it.
        """
        tokens = bsz * length if stage == "prefill" else bsz
        shared = np.zeros(np.shape(tokens))
        for operator, model in self.shared.models.items():
            if model.family not in (DECODE, PREFILL):
                layers = 1 if operator in ONCE_PER_STEP else self.n_layers
                shared = shared + layers * self.shared.predict(operator, num_tokens=tokens)
        attention = self._attention_ms(stage, bsz=bsz, length=length)
        return np.asarray(MS * np.stack([shared, self.n_layers * attention], axis=-1))

    def _attention_ms(self, stage: str, *, bsz: Array, length: Array) -> Array:
        family = PREFILL if stage == "prefill" else DECODE
        total = np.zeros(np.broadcast_shapes(np.shape(bsz), np.shape(length)))
        found = [name for name, model in self.own.models.items() if model.family is family]
        if not found:
            raise NotCoveredError(f"the profile has no attention operator of {stage}: profile it")
        for operator in found:
            if stage == "prefill":
                one = self.own.predict(operator, batch_size=1, prefill_chunk_size=length, kv_len=0)
                total = total + bsz * one
            else:
                total = total + self.own.predict(operator, batch_size=bsz, kv_len=length)
        return total


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
    sets = {name: fit_operators(profile, kind, tp=place.tp) for name, profile in by_method.items()}
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

    Decode: batch and cached tokens of attention. Prefill: prompts as long as attention's, in batches as large
    as the tokens of the shared operators allow, for attention takes one sequence at a time.
    """
    columns = profile.attention
    if not columns:
        raise NotCoveredError(f"the profile of {profile.model} has no attention table: profile it")
    rows = columns["is_prefill"] == (stage == "prefill")
    if stage == "decode":
        return Domain.of(
            bsz=columns["batch_size"][rows], length=np.maximum(columns["kv_cache_size"][rows], 1)
        )
    length = columns["prefill_chunk_size"][rows]
    most_tokens = profile.mlp["num_tokens"].max() if profile.mlp else length.max()
    largest = np.maximum(most_tokens // length, 1)
    return Domain.of(bsz=np.concatenate([np.ones_like(largest), largest]), length=np.tile(length, 2))

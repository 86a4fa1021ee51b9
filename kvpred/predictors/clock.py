"""The time of any step that a scheduler makes up: prompts, parts of them, and decoding sequences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import exp, log

import numpy as np

from kvpred.methods import BASELINE, Method, get_method
from kvpred.methods.quantities import IntArray
from kvpred.predictors.calibration import StageFits
from kvpred.predictors.domain import Domain
from kvpred.predictors.greybox import ATTENTION, Array, StageFit
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.scaling import Place, split_fixed, transfer
from kvpred.predictors.steps import coverage, ideal_seconds

# Profiled operators are looked up at lengths this far apart on the logarithm: 0.5 %.
_LENGTH_STEP = 0.005
# Tokens by which what a sequence reads is computed ahead.
_AHEAD = 256


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a step's time is made of, in seconds: see `kvpred.predictors.greybox`."""

    fixed_s: float
    shared_s: float
    device_attention_s: float
    overlap: float

    def step_s(self, beside_s: float = 0.0) -> float:
        """Return the step's time, with more work of the device beside."""
        device_s = self.shared_s + self.device_attention_s + beside_s
        if self.overlap == 1.0:
            return self.fixed_s + device_s
        return float((self.fixed_s**self.overlap + device_s**self.overlap) ** (1.0 / self.overlap))

    def attention_s(self) -> float:
        """Return attention's share of the step's time."""
        device_s, step_s = self.shared_s + self.device_attention_s, self.step_s()
        return float(self.device_attention_s * (device_s / step_s) ** (self.overlap - 1.0))


@dataclass(slots=True)
class StepClock:
    """Step times of one method at one place; see `clock_for`.

    Sequences of unlike lengths count with what a stage's form is made of: a prefill with the sum of its
    tokens and of their squares, a decode step with its sequences and the sum of the tokens that they attend
    to. In a step that does both, decoding tokens pass the linear layers with the prompts', and only their
    attention comes on top; it takes no less than its decoding sequences alone (an assumption: chunked
    prefill as in Sarathi-Serve, Agrawal et al., OSDI 2024, rests on it). Where attention is joint, a step
    with prompts computes that of all its tokens to all that any of its sequences attends to. No step takes
    less than its FLOPs at the device's peak, unless such steps were measured.

    Parameters
    ----------
    method : Method
    place : Place
    prefill, decode : StageFits
        At the place.
    fit_of : str
        Full string of the method whose fits serve: the method's own, or fp16's where it has none.
    peak_s : tuple of float
        `Place.peak_s`.
    domains : mapping of str to Domain
        Where each stage of the method was measured at this place; empty where it was not.
    """

    method: Method
    place: Place
    prefill: StageFits
    decode: StageFits
    fit_of: str
    peak_s: tuple[float, float]
    domains: Mapping[str, Domain]
    _reads: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    _prompt_extra: dict[int, float] = field(default_factory=dict)
    _device: dict[tuple[str, float, int], tuple[float, float]] = field(default_factory=dict)

    def step_s(
        self, prefills: Iterable[tuple[int, int]] = (), decodes: Iterable[tuple[int, int]] = ()
    ) -> float:
        """Return the seconds of one step.

        Parameters
        ----------
        prefills : iterable of (int, int)
            Of each prompt or part of one: tokens that passed before, and tokens of this step.
        decodes : iterable of (int, int)
            Of each decoding sequence: tokens in its cache before this step, and those of its prompt.
        """
        tokens = seen = n_prompts = n_decodes = cached = 0
        squares = prompt_extra_s = decode_extra_s = attended = 0.0
        for passed, chunk in prefills:
            n_prompts += 1
            tokens += chunk
            seen += passed + chunk
            squares += (passed + chunk) ** 2 - passed**2
            prompt_extra_s += self._extra_of_prompt(passed + chunk) - self._extra_of_prompt(passed)
        for kv_len, prompt_len in decodes:
            n_decodes += 1
            cached += kv_len
            read, extra_s = self._reads_of(prompt_len, kv_len - prompt_len)
            attended += read
            decode_extra_s += extra_s
        if not tokens + n_decodes:
            return 0.0
        of_all = tokens + n_decodes
        pairs = of_all * (seen + attended) if self._joint else squares + n_decodes
        prompts = self._parts("prefill", of_all, pairs) if tokens else None
        decoding = self._parts("decode", n_decodes, attended) if n_decodes else None
        step_s = beside_s = 0.0
        if decoding is not None:
            # No more is saved than attention takes.
            step_s = decoding.step_s() + max(decode_extra_s, -decoding.attention_s())
            beside_s = max(decoding.device_attention_s + decode_extra_s, 0.0)
        if prompts is not None:
            prefill_s = prompts.step_s(beside_s) + max(prompt_extra_s, -prompts.attention_s())
            step_s = max(step_s, prefill_s)
        token_s, pair_s = self.peak_s
        least_s = of_all * token_s + squares * pair_s
        if step_s >= least_s:
            return step_s
        measured = self._measured("prefill", n_prompts, tokens) and self._measured(
            "decode", n_decodes, cached
        )
        return step_s if measured else least_s

    def _measured(self, stage: str, many: int, tokens: int) -> bool:
        """Return whether so many sequences of so many tokens together lie where the stage was measured."""
        if not many:
            return True
        domain = self.domains.get(stage)
        return domain is not None and bool(domain.contains(bsz=many, length=tokens / many))

    @property
    def _fitted(self) -> bool:
        return self.fit_of == self.method.spec

    @property
    def _joint(self) -> bool:
        return self.prefill.fits[self.fit_of].form.joint

    def _parts(self, stage: str, many: int, attention: float) -> _Parts:
        """Return the parts of a prefill of so many tokens, or of decoding so many sequences.

        ``attention`` counts what grows with it: pairs of tokens, or tokens attended to.
        """
        fit = (self.prefill if stage == "prefill" else self.decode).fits[self.fit_of]
        form, coef = fit.form, fit.coef.tolist()
        if form.profile is not None:
            # As many sequences of one length as have these tokens and pairs.
            length = max(attention / many, 1.0)
            bsz = many / length if stage == "prefill" else many
            shared_s, attention_s = self._profiled(stage, fit, bsz, length)
            return _Parts(coef[0], coef[1] * shared_s, coef[2] * attention_s, form.overlap)
        shared_s, attention_s = coef[1] * many, coef[ATTENTION] * attention
        if form.hinge is not None:
            shared_s += coef[3] * max(many - form.hinge, 0)
        if form.crowded and many > 1:
            attention_s += coef[-1] * attention
        if form.batched and many > 1:
            shared_s += coef[-1]
        return _Parts(coef[0], shared_s, attention_s, form.overlap)

    def _profiled(self, stage: str, fit: StageFit, bsz: float, length: float) -> tuple[float, float]:
        place = round(log(length) / _LENGTH_STEP)
        key = (stage, round(bsz, 2), place)
        if key not in self._device:
            assert fit.form.profile is not None
            at = exp(place * _LENGTH_STEP)
            found = fit.form.profile.device_s(stage, bsz=np.array([bsz]), length=np.array([at]))[0]
            self._device[key] = (float(found[0]), float(found[1]))
        return self._device[key]

    def _reads_of(self, prompt_len: int, answered: int) -> tuple[float, float]:
        """Return what a sequence attends to, and the seconds that a method without fits adds to fp16's."""
        known = self._reads.setdefault(prompt_len, [])
        while answered >= len(known):
            begin = prompt_len + len(known)
            kv_len = np.arange(begin, begin + _AHEAD, dtype=np.int64)
            prompts = np.full_like(kv_len, prompt_len)
            attended = np.asarray(get_method(self.fit_of).attended_tokens(kv_len, prompt_len=prompts), float)
            extra = (
                np.zeros(_AHEAD) if self._fitted else self._ideal("decode", kv_len=kv_len, prompt_len=prompts)
            )
            known += zip(attended.tolist(), extra.tolist(), strict=True)
        return known[answered]

    def _extra_of_prompt(self, tokens: int) -> float:
        if self._fitted or not tokens:
            return 0.0
        if tokens not in self._prompt_extra:
            at = np.array([tokens])
            self._prompt_extra[tokens] = float(self._ideal("prefill", kv_len=at, prompt_len=at)[0])
        return self._prompt_extra[tokens]

    def _ideal(self, stage: str, *, kv_len: IntArray, prompt_len: IntArray) -> Array:
        fits = self.prefill if stage == "prefill" else self.decode
        efficiency = split_fixed(fits, self.place).efficiency
        own, baseline = (
            ideal_seconds(stage, one, self.place, kv_len=kv_len, prompt_len=prompt_len)
            for one in (self.method, get_method(BASELINE))
        )
        return np.asarray((own - baseline) / efficiency)


def clock_for(predictor: Predictor, method: Method, place: Place, engine: str) -> StepClock:
    """Return the clock of a method at a place, which ticks as `kvpred.predictors.steps.step_times` does.

    Parameters
    ----------
    predictor : Predictor
    method : Method
    place : Place
    engine : str

    Raises
    ------
    NotCoveredError
        If the place lacks a number that the scaling needs.
    """
    known = coverage(predictor, method, place, engine)
    prefill, decode = (
        stage.fits if known.same_place else transfer(stage.fits, predictor.place, place)
        for stage in (predictor.stages["prefill"], predictor.stages["decode"])
    )
    return StepClock(
        method,
        place,
        prefill,
        decode,
        fit_of=method.spec if known.measured else BASELINE,
        peak_s=place.peak_s,
        domains={name: stage.domain for name, stage in predictor.stages.items()} if known.in_place else {},
    )

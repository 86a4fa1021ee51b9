"""What answers weigh in a bill: how many tokens they have, and how a method shifts that, on which basis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import log
from pathlib import Path
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvpred import data
from kvpred.data.traces import Counts, whole_tokens
from kvpred.errors import NotCoveredError, UsageError
from kvpred.methods import BASELINE, Method, get_method
from kvpred.methods.quantities import MAX_TOKENS, whole
from kvpred.predictors.length.base import LengthDistributions
from kvpred.predictors.length.published import published_shifts
from kvpred.predictors.length.shift import LengthShift, read_shifts, shift_for

Floats = NDArray[np.float64]

MEASURED_SHIFTS = Path(data.__file__).parent / "packaged" / "length_shift.json"
# A prompt and a whole sequence that no budget of a method in use exceeds.
_LONG_PROMPT, _LONG_SEQUENCE = 2**16, 2**17
# Points that stand for a predicted distribution: its mean is then kept to 0.5 %.
_POINTS = 40


@dataclass(frozen=True, slots=True)
class OutputShift:
    """How many times as long a method's answers are as fp16's.

    Parameters
    ----------
    multiplier, low, high : float
        Total tokens over fp16's, and the interval at `level`.
    basis : {"measured", "published", "assumed-none"}
        This method with these parameters was measured; others published a method of this name; or nothing
        is known, and no shift is assumed.
    provenance : str
        What it rests on, and where that differs from what is asked.
    level : float
    """

    multiplier: float
    low: float
    high: float
    basis: Literal["measured", "published", "assumed-none"]
    provenance: str
    level: float = 0.9

    def at(self, normal: ArrayLike) -> Floats:
        """Return multipliers at standard normal numbers: log-normal on each side, in the interval's width."""
        z = np.asarray(normal, dtype=np.float64)
        outer = NormalDist().inv_cdf((1 + self.level) / 2) if self.level < 1 else np.inf
        width = np.where(z < 0, log(self.multiplier / self.low), log(self.high / self.multiplier))
        return np.asarray(self.multiplier * np.exp(width * z / outer))


REFERENCE = OutputShift(1.0, 1.0, 1.0, "measured", f"{BASELINE} is what other methods are compared with")
ASSUMED_NONE = OutputShift(
    1.0, 1.0, 1.0, "assumed-none", "nobody measured lengths under this method: no shift is assumed"
)


@dataclass(frozen=True, slots=True, eq=False)
class OutputLengths:
    """How many tokens answers have: a distribution over k lengths under fp16, and a method's shift of it.

    Parameters
    ----------
    tokens : array of int, shape (k,)
        Under fp16, at least 1.
    weights : array, shape (k,)
        Shares, which sum to 1.
    source : str
        Where the lengths come from.
    shift : OutputShift
    prompt_tokens : array of int, shape (k,), optional
        Of the prompts that the answers belong to, where known.
    """

    tokens: Counts
    weights: Floats
    source: str
    shift: OutputShift = REFERENCE
    prompt_tokens: Counts | None = None

    @classmethod
    def given(cls, tokens: int) -> OutputLengths:
        """Return one length for all answers.

        Raises
        ------
        UsageError
            If it is no whole number from 1 on.

        Examples
        --------
        >>> OutputLengths.given(256).under(OutputShift(1.5, 1.4, 1.6, "measured", "")).mean_tokens
        384.0
        """
        length = whole("output_len", np.asarray(tokens), low=1, high=MAX_TOKENS)
        return cls(length.reshape(1), np.ones(1), f"every answer has {int(length):,} tokens")

    @classmethod
    def of(cls, tokens: ArrayLike, source: str, *, prompt_tokens: ArrayLike | None = None) -> OutputLengths:
        """Return the distribution of lengths that were seen, with their prompts' if given.

        Raises
        ------
        UsageError
            If there are none, or one is no whole number from 1 on.
        """
        seen = [whole("output tokens", np.asarray(tokens), low=1, high=MAX_TOKENS).reshape(-1)]
        if not seen[0].size:
            raise UsageError(f"{source}: there is no answer's length")
        if prompt_tokens is not None:
            seen.append(whole("prompt tokens", np.asarray(prompt_tokens), low=1, high=MAX_TOKENS).reshape(-1))
        rows, counts = np.unique(np.stack(seen), axis=1, return_counts=True)
        return cls(rows[0], counts / counts.sum(), source, prompt_tokens=rows[1] if len(rows) > 1 else None)

    @classmethod
    def predicted(
        cls, found: LengthDistributions, source: str, *, prompt_tokens: ArrayLike | None = None
    ) -> OutputLengths:
        """Return the mixture of predicted distributions, each of the same weight.

        Parameters
        ----------
        found : LengthDistributions
            Of one conversation or many, under fp16; see `kvpred.predictors.length.model.LengthModel`.
        source : str
        prompt_tokens : array_like of int, shape (n,), optional
            Of each conversation.
        """
        shares = (np.arange(_POINTS) + 0.5) / _POINTS
        points = found.at_share(shares)
        prompts = None if prompt_tokens is None else np.repeat(np.asarray(prompt_tokens), _POINTS)
        return cls.of(whole_tokens(points), source, prompt_tokens=prompts)

    def under(self, shift: OutputShift) -> OutputLengths:
        """Return the same lengths under a method with this shift."""
        return replace(self, shift=shift)

    @property
    def base_mean_tokens(self) -> float:
        """Mean tokens under fp16."""
        return float(self.weights @ self.tokens)

    @property
    def mean_tokens(self) -> float:
        """Mean tokens under the method."""
        return self.base_mean_tokens * self.shift.multiplier

    def pick(self, shares: ArrayLike) -> NDArray[np.intp]:
        """Return the row of the length at each share of the distribution, from 0 to 1."""
        ends = np.cumsum(self.weights)
        return np.minimum(np.searchsorted(ends, np.asarray(shares), side="right"), len(ends) - 1)


def output_shift(
    method: str | Method, model: str | None = None, *, shifts: Sequence[LengthShift] = ()
) -> OutputShift:
    """Return how much longer a method's answers are, from the best that is known of it.

    Parameters
    ----------
    method : str or Method
    model : str, optional
        The served model's name; a shift measured on another says so, and is as unsure as those published.
    shifts : sequence of LengthShift
        Measured ones that go before those of the package.

    Raises
    ------
    UsageError
        If there is no such method; never because it was not measured.

    Examples
    --------
    >>> [output_shift(name).basis for name in ("kivi", "h2o:heavy=10,recent=90", "turboquant")]
    ['measured', 'published', 'assumed-none']
    """
    asked = get_method(method)
    if asked.spec == BASELINE:
        return REFERENCE
    published = _published(asked)
    for known in (shifts, _measured()):
        try:
            found = shift_for(asked.spec, known, model=model)
        except NotCoveredError:
            continue
        own = found.model == model
        elsewhere = "" if own or model is None else f"; not measured on {model}"
        beside = f"; published of this name: {published.multiplier:.2f}" if published else ""
        low, high = found.low, found.high
        if published and not own:
            # Models differ, and others found another shift on another model.
            low, high = min(low, published.low), max(high, published.high)
            beside += ", whose interval this one contains"
        provenance = f"{found.provenance}{elsewhere}{beside}"
        return OutputShift(found.multiplier, low, high, "measured", provenance, found.level)
    return published or ASSUMED_NONE


def _published(asked: Method) -> OutputShift | None:
    """Return the published shift whose budget is nearest, in the interval of all those of the same name."""
    own = [shift for shift in published_shifts() if shift.method == asked.name]
    if not own:
        return None
    stored = int(asked.stored_tokens(_LONG_SEQUENCE, prompt_len=_LONG_PROMPT))
    nearest = min(own, key=lambda shift: abs(log(shift.kept_tokens / stored)))
    return OutputShift(
        nearest.multiplier,
        min(shift.low for shift in own),
        max(shift.high for shift in own),
        "published",
        f"{nearest.setup} on {nearest.model}, which keeps {nearest.kept_tokens:,} tokens where {asked.spec} "
        f"keeps {stored:,}; interval of all {len(own)} published setups; {nearest.prompts} prompts, cut at "
        f"the cap: {nearest.cut:.0%} (fp16 {nearest.cut_baseline:.0%}), which draws it towards 1; "
        f"{nearest.source}",
        nearest.level,
    )


@cache
def _measured() -> tuple[LengthShift, ...]:
    return tuple(read_shifts(MEASURED_SHIFTS))

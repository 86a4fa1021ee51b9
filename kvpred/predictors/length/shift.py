"""How much longer a method's answers are than fp16's: a measured multiplier with its uncertainty."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kvpred.data.files import read_text, write_text
from kvpred.errors import DataError, NotCoveredError, UsageError
from kvpred.methods import BASELINE, get_method
from kvpred.predictors.steps import BASES


@dataclass(frozen=True, slots=True)
class LengthShift:
    """One method's measured shift.

    Parameters
    ----------
    method_params : str
        Full method string.
    multiplier, low, high : float
        Total tokens over fp16's of the same prompts, and its bootstrap interval at `level`.
    level : float
    basis : str
        A basis word of DESIGN.md §2.
    provenance : str
        One sentence: model, prompts, seeds, temperature, cap.
    beyond_noise : bool
        Whether it exceeds what two seeds of fp16 differ by.
    model : str
        On which it was measured; empty if unknown. Used for any other it is ``transferred``.
    """

    method_params: str
    multiplier: float
    low: float
    high: float
    level: float
    basis: str
    provenance: str
    beyond_noise: bool
    model: str = ""


NO_SHIFT = LengthShift(
    method_params=BASELINE,
    multiplier=1.0,
    low=1.0,
    high=1.0,
    level=1.0,
    basis="calibrated",
    provenance=f"{BASELINE} is what other methods are compared with",
    beyond_noise=False,
)


def shift_for(method_params: str, shifts: Sequence[LengthShift], *, model: str | None = None) -> LengthShift:
    """Return the measured shift of a method with exactly these parameters.

    Parameters
    ----------
    method_params : str
        Method string; parameters not given take their defaults.
    shifts : sequence of LengthShift
    model : str, optional
        Whose answers are asked for. The basis is ``transferred`` unless the shift was measured on it.

    Raises
    ------
    NotCoveredError
        If the method was not measured, or only with other parameters, which it names.
    UsageError
        If there is no such method.

    Examples
    --------
    >>> shift_for("fp16", []).multiplier
    1.0
    """
    wanted = get_method(method_params).spec
    if wanted == BASELINE:
        return NO_SHIFT
    for shift in shifts:
        if get_method(shift.method_params).spec == wanted:
            return shift if shift.model and shift.model == model else replace(shift, basis="transferred")
    name = wanted.partition(":")[0]
    measured = [shift.method_params for shift in shifts]
    known = [spec for spec in measured if spec.partition(":")[0] == name] or measured
    raise NotCoveredError(
        f"no length shift was measured for {wanted}, only for {', '.join(known) or 'no method at all'}: "
        "collect lengths with it (`kvpred collect-lengths`) and run `kvpred shift --output`"
    )


def write_shifts(path: Path | str, shifts: Sequence[LengthShift]) -> None:
    """Write shifts as JSON, in one step; `read_shifts` returns the same shifts."""
    write_text(path, json.dumps([asdict(shift) for shift in shifts], indent=2, allow_nan=False) + "\n")


def read_shifts(path: Path | str) -> list[LengthShift]:
    """Read what `write_shifts` wrote.

    Raises
    ------
    DataError
        If the file is no JSON, lacks a field, holds one of another type, or says what cannot be.
    """
    from pydantic import TypeAdapter, ValidationError

    text = read_text(path)
    try:
        found = TypeAdapter(list[LengthShift]).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or None
        value = None if first["type"] in ("missing", "json_invalid") else first["input"]
        raise DataError(first["msg"], path=path, column=place, value=value) from None
    for number, shift in enumerate(found):
        if fault := _fault(shift):
            field, message = fault
            raise DataError(message, path=path, column=f"{number}.{field}", value=getattr(shift, field))
    return found


def _fault(shift: LengthShift) -> tuple[str, str] | None:
    """Return the field that cannot be, and why."""
    if not 0 < shift.low <= shift.multiplier <= shift.high < float("inf"):
        return "multiplier", f"expected a positive number in its interval {shift.low} to {shift.high}"
    if not 0 < shift.level <= 1:
        return "level", "expected a share between 0 and 1"
    if shift.basis not in BASES:
        return "basis", f"expected one of {', '.join(BASES)}"
    try:
        get_method(shift.method_params)
    except UsageError as error:
        return "method_params", str(error)
    return None

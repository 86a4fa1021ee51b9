"""Copies among operator profiles: columns that are another profile's, as they are or times a constant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvpred.data.profiles import SCHEMAS, Columns, Profile, time_column, timed_operators
from kvpred.evaluation.findings import Finding

Floats = NDArray[np.float64]

# Independent measurements scatter by 0.1 % at the very least; a product of printed numbers by its rounding.
RELATIVE_TOLERANCE = 1e-4
# Rows whose rounding blurs them by more than this cannot tell a copy from a coincidence.
ROUNDING_SHARE = 5e-4
# Equal rounded values say something only where a value has this many steps of the resolution.
STEPS_TO_TELL = 50
MIN_ROWS = 8
MIN_RANGE = 1.5
MIN_SHARE = 0.99
MIN_SPREAD_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Relation:
    """How one column of times follows from another: ``factor * other + offset_ms`` in `share` of `rows`."""

    factor: float
    offset_ms: float
    share: float
    rows: int

    @property
    def identical(self) -> bool:
        """Whether the column is the other one, unchanged."""
        return self.factor == 1 and self.offset_ms == 0


def resolution_ms(times: Floats) -> float:
    """Return the largest power of ten (1 ms to 1 ns) that all times are multiples of; 0 if there is none."""
    times = times[np.isfinite(times)]
    for digits in range(7):
        steps = times * 10.0**digits
        if np.allclose(steps, np.round(steps), rtol=0, atol=1e-6):
            return float(10.0**-digits)
    return 0.0


def relate(times: Floats, other: Floats) -> Relation | None:
    """Return how `times` follows from `other`, or None if it looks like a measurement of its own.

    Parameters
    ----------
    times, other : array of shape (n_rows,)
        Times in ms at the same grid points; rows with NaN or zero are left out.

    Examples
    --------
    >>> measured = np.linspace(0.2, 9.0, 50)
    >>> relate(1.4 * measured, measured).factor
    1.4
    """
    both = (times > 0) & (other > 0)
    times, other = times[both], other[both]
    resolution = resolution_ms(times)
    if _equal(times, other):
        told = np.count_nonzero(times >= STEPS_TO_TELL * resolution)
        return Relation(1.0, 0.0, 1.0, len(times)) if told >= MIN_ROWS else None
    precise = resolution / 2 <= ROUNDING_SHARE * times
    times, other = times[precise], other[precise]
    if len(times) < MIN_ROWS or other.max() < MIN_RANGE * other.min():
        return None
    factor = float(np.median(times / other))
    for relation in (_relation(times, other, factor, 0.0, resolution), _line(times, other, resolution)):
        if relation.share >= MIN_SHARE:
            return relation
    return None


def _equal(times: Floats, other: Floats) -> bool:
    """Whether two columns are the same but for the last digits of floating point."""
    return np.allclose(times, other, rtol=1e-9, atol=0, equal_nan=True)


def _line(times: Floats, other: Floats, resolution: float) -> Relation:
    """Return the line through most rows: the median slope between distant rows, the median offset."""
    order = np.argsort(other, kind="stable")
    low, high = order[: len(order) // 2], order[-(len(order) // 2) :]
    apart = other[high] > other[low]
    slopes = (times[high] - times[low])[apart] / (other[high] - other[low])[apart]
    factor = float(np.median(slopes))
    return _relation(times, other, factor, float(np.median(times - factor * other)), resolution)


def _relation(times: Floats, other: Floats, factor: float, offset: float, resolution: float) -> Relation:
    allowed = RELATIVE_TOLERANCE * times + resolution / 2
    share = float(np.mean(np.abs(times - factor * other - offset) <= allowed))
    # Beyond six digits there is only the noise of floating point.
    return Relation(round(factor, 6), round(offset, 6), share, len(times))


def find_copies(profiles: Sequence[Profile]) -> list[Finding]:
    """Report each column that follows from another profile's, once: against the first it follows from."""
    # What is scaled gets finer digits than the stopwatch had: the coarsest profile is taken for the original.
    ordered = sorted(profiles, key=_finest_resolution, reverse=True)
    findings: list[Finding] = []
    for index, profile in enumerate(ordered):
        for name in profile.tables():
            traced: set[str] = set()
            for original in ordered[:index]:
                if name in original.tables():
                    findings += _compare(profile, original, name, traced)
    return findings


def _finest_resolution(profile: Profile) -> float:
    tables = profile.tables().values()
    found = (resolution_ms(table[time_column(op)]) for table in tables for op in timed_operators(table))
    return min(found, default=0.0)


def _compare(profile: Profile, original: Profile, name: str, traced: set[str]) -> list[Finding]:
    """Compare a table with an original's; operators in `traced` are explained already, new ones are added."""
    table, other = aligned(getattr(profile, name), getattr(original, name), SCHEMAS[name].key)
    operators = [op for op in timed_operators(table) if time_column(op) in other and op not in traced]
    pair, mirrored = _Pair(profile, original, name), _Pair(original, profile, name)
    relations: dict[str, Relation] = {}
    findings: list[Finding] = []
    for op in operators:
        times, others = table[time_column(op)], other[time_column(op)]
        relation, inverse = relate(times, others), relate(others, times)
        if relation is None:
            continue
        relations[op] = relation
        # People multiply by round numbers: 1.4 rather than 0.714286.
        if inverse is not None and len(f"{inverse.factor:g}") < len(f"{relation.factor:g}"):
            findings.append(mirrored.scaled(op, inverse))
        elif not relation.identical:
            findings.append(pair.scaled(op, relation))
    traced.update(relations)
    identical = [op for op, relation in relations.items() if relation.identical]
    differing = [op for op in operators if not _equal(table[time_column(op)], other[time_column(op)])]
    if identical:
        findings.append(
            pair.identical(identical, whole=not differing, rows=len(table[time_column(identical[0])]))
        )
    spreads = [op for op in differing if _same_spread(table, other, op)]
    if spreads:
        findings.append(pair.same_spread(spreads))
    return findings


def aligned(table: Columns, other: Columns, key: Sequence[str]) -> tuple[Columns, Columns]:
    """Return the rows of two tables that stand for the same grid points, the first row of each point."""
    if all(np.array_equal(table[name], other[name]) for name in key):
        return table, other
    places = [_first_rows(columns, key) for columns in (table, other)]
    shared = [point for point in places[0] if point in places[1]]
    rows = [np.array([place[point] for point in shared], dtype=np.intp) for place in places]
    left = {name: values[rows[0]] for name, values in table.items()}
    right = {name: values[rows[1]] for name, values in other.items()}
    return left, right


def _first_rows(columns: Columns, key: Sequence[str]) -> dict[tuple[int, ...], int]:
    rows: dict[tuple[int, ...], int] = {}
    for row, point in enumerate(zip(*(columns[name].tolist() for name in key), strict=True)):
        rows.setdefault(point, row)
    return rows


def _same_spread(table: Columns, other: Columns, operator: str) -> bool:
    column = time_column(operator, "std")
    if column not in table or column not in other:
        return False
    both = (table[column] > 0) & (other[column] > 0)
    spread, others = table[column][both], other[column][both]
    if len(np.unique(spread)) < MIN_ROWS:
        return False
    return bool(np.mean(np.isclose(spread, others, rtol=1e-6, atol=0)) >= MIN_SPREAD_SHARE)


def subject_of(profile: Profile) -> str:
    """Return a profile's name in a report."""
    return f"{profile.model} {profile.method} on {profile.device}"


@dataclass(frozen=True, slots=True)
class _Pair:
    """Words for what a profile's table shares with an original's."""

    profile: Profile
    original: Profile
    table: str

    @property
    def subject(self) -> str:
        return f"{subject_of(self.profile)}, {self.table}"

    def scaled(self, operator: str, relation: Relation) -> Finding:
        offset = f" {relation.offset_ms:+g} ms" if relation.offset_ms else ""
        return Finding(
            check="scaled-copy",
            severity="error",
            subject=self.subject,
            message=f"{operator} is {relation.factor:g} times that of {subject_of(self.original)}{offset} in "
            f"{relation.share:.1%} of {relation.rows} rows, so it was computed and not measured.",
            evidence={
                "factor": relation.factor,
                "offset_ms": relation.offset_ms,
                "share": relation.share,
                "rows": relation.rows,
            },
        )

    def identical(self, operators: Sequence[str], *, whole: bool, rows: int) -> Finding:
        other_device = self.profile.device != self.original.device
        verdict = (
            "no two devices are equally fast to the last digit"
            if other_device
            else "it is the same measurement, and confirms nothing anew"
        )
        what = f"the whole {self.table} table" if whole else f"{', '.join(operators)}"
        return Finding(
            check="identical-table" if whole else "identical-columns",
            severity="error" if other_device else "warning",
            subject=self.subject,
            message=f"{what} equals that of {subject_of(self.original)} in all {rows} rows: {verdict}.",
            evidence={"operators": len(operators), "rows": rows},
        )

    def same_spread(self, operators: Sequence[str]) -> Finding:
        return Finding(
            check="copied-spread",
            severity="error",
            subject=self.subject,
            message=f"the standard deviations of {', '.join(operators)} are those of "
            f"{subject_of(self.original)}, though the medians differ: noise is never twice the same.",
            evidence={"operators": len(operators)},
        )

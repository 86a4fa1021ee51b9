"""From collected lengths to what compression does to them: read, compare, keep the multipliers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from kvpred.data.lengths import LengthRun, read_lengths
from kvpred.data.scope import read_scope
from kvpred.errors import UsageError
from kvpred.evaluation.length_shift_report import ShiftStudy, shifts_of, study_lengths
from kvpred.methods import BASELINE, get_method
from kvpred.predictors.length.shift import write_shifts
from kvpred.workflows.reading import blamed_on


def study_shifts(
    lengths: Sequence[Path] = (),
    *,
    scope: Path | None = None,
    baseline: str = BASELINE,
    level: float = 0.9,
    seed: int = 0,
    output: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[ShiftStudy]:
    """Compare collected lengths with the baseline's.

    Parameters
    ----------
    lengths : sequence of Path
        CSV files of one model's lengths, or folders of them.
    scope : Path, optional
        SCOPE's table of published lengths, which is compared for itself.
    baseline : str
        Method that `lengths` are compared with.
    level : float
        Of the intervals.
    seed : int
        Of the bootstrap.
    output : Path, optional
        JSON file for the multipliers of `lengths`.
    progress : callable
        Told in a sentence what is read and written.

    Returns
    -------
    list of ShiftStudy
        Of `lengths`, then of `scope`.

    Raises
    ------
    UsageError
        If neither is given, the level is no share, or `output` asks for multipliers that are not fp16's.
    DataError
        If a file is wrong, or holds nothing to compare.
    """
    if not lengths and scope is None:
        raise UsageError("nothing to compare: give --lengths, or --scope")
    if not 0.5 <= level <= 0.99:
        raise UsageError(f"--level {level}: give a share from 0.5 to 0.99")
    against = get_method(baseline).spec
    if output is not None and (not lengths or against != BASELINE):
        raise UsageError(
            f"--output holds multipliers of collected lengths on {BASELINE}'s: give --lengths "
            f"and leave --baseline out"
        )
    found = []
    if lengths:
        runs = read_lengths(*lengths)
        progress(f"{len(runs):,} answers of {runs[0].model}")
        with blamed_on(lengths):
            study = study_lengths(
                _canonical(runs, lengths), name="lengths", baseline=against, level=level, seed=seed
            )
        found.append(study)
        if output is not None:
            write_shifts(output, shifts_of(study))
            progress(f"wrote {output}")
    if scope is not None:
        published = read_scope(scope)
        progress(f"{len(published.runs):,} published answers")
        dropped = [f"{rows} rows left out: {reason}." for reason, rows in published.dropped.items()]
        note = (
            "Published by SCOPE (github.com/Linking-ai/SCOPE, MIT): one greedy answer per prompt; "
            "labels name what compresses the prompt and the answer, and the tokens kept of each; cache sizes "
            "are not given, so there is no compression ratio."
        )
        with blamed_on([scope]):
            found.append(
                study_lengths(published.runs, name="scope", level=level, seed=seed, notes=(note, *dropped))
            )
    return found


def _canonical(runs: Sequence[LengthRun], paths: Sequence[Path]) -> list[LengthRun]:
    """Write every method in full, however the file spells it."""
    full = {}
    for spec in sorted({run.method_params for run in runs}):
        with blamed_on(paths, column="method_params", value=spec):
            full[spec] = get_method(spec).spec
    return [replace(run, method_params=full[run.method_params]) for run in runs]

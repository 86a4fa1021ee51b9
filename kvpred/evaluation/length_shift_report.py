"""All setups of one collection of lengths against the baseline: which shift, by how much, what was seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kvpred.data.lengths import LengthRun
from kvpred.errors import DataError
from kvpred.evaluation.length_answers import Answers, Setup, answers_by_setup
from kvpred.evaluation.length_shift import (
    FAMILY_ERROR,
    FEWEST_PROMPTS,
    LONGER,
    NO_SHIFT,
    SHORTER,
    Comparison,
    compare,
    judge,
    seeds_apart,
)
from kvpred.methods import BASELINE
from kvpred.predictors.length.shift import LengthShift

# What temperatures are compared with, where it was collected: the models' usual one, and the paper's.
_USUAL_TEMPERATURE = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class ShiftStudy:
    """What one collection of lengths shows.

    Parameters
    ----------
    name : str
        For files.
    model, engine : str
    baseline : Setup
        What temperatures are compared with, and methods of the same temperature.
    level : float
        Of the intervals.
    n_prompts, n_seeds : int
        Of the baseline's answers.
    caps : tuple of int
        Tokens that ended answers.
    floor : Comparison or None
        The baseline's seeds against each other; None where it has but one.
    comparisons : mapping of Setup to Comparison
    notes : tuple of str
        A sentence each.
    """

    name: str
    model: str
    engine: str
    baseline: Setup
    level: float
    n_prompts: int
    n_seeds: int
    caps: tuple[int, ...]
    floor: Comparison | None
    comparisons: Mapping[Setup, Comparison]
    notes: tuple[str, ...]

    @property
    def sampled(self) -> str:
        """What was collected, in words."""
        how = f"T = {self.baseline.temperature:g}" if self.baseline.temperature else "greedy"
        seeds = f"{self.n_seeds} seed{'s' * (self.n_seeds > 1)}"
        caps = " or ".join(f"{cap:,}" for cap in self.caps)
        return (
            f"{self.model} on {self.engine}, {self.n_prompts} prompts, {seeds}, {how}, at most {caps} tokens"
        )

    @property
    def methods(self) -> dict[Setup, Comparison]:
        """The comparisons of other methods at the baseline's temperature."""
        return {
            setup: found
            for setup, found in self.comparisons.items()
            if setup.method_params != self.baseline.method_params
            and setup.temperature == self.baseline.temperature
        }

    @property
    def detectable(self) -> float:
        """The smallest shift that would be found 4 times in 5 of any method, as a relative difference."""
        return max(found.detectable for found in self.judged.values())

    @property
    def judged(self) -> Mapping[Setup, Comparison]:
        """What the finding is about: methods, or temperatures where there are no others."""
        return self.methods or self.comparisons

    @property
    def finding(self) -> str:
        """How many methods shift, and which the most."""
        judged = self.judged
        longer, shorter = (
            sum(found.verdict == word for found in judged.values()) for word in (LONGER, SHORTER)
        )
        what = f"{len(judged)} {'methods' if self.methods else 'temperatures'}"
        if not longer + shorter:
            return f"{NO_SHIFT.capitalize()} at this model size: none of {what} changes the total"
        said = [
            f"{n} of {what} give {word} answers" for n, word in ((longer, LONGER), (shorter, SHORTER)) if n
        ]
        return f"{' and '.join(said)}; the others show {NO_SHIFT}"


def study_lengths(
    runs: Sequence[LengthRun],
    *,
    name: str,
    baseline: str = BASELINE,
    level: float = 0.9,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> ShiftStudy:
    """Compare every method with the baseline at the same temperature, and its temperatures with each other.

    Parameters
    ----------
    runs : sequence of LengthRun
        Of one model on one engine.
    name : str
    baseline : str
        Full method string.
    level : float
        Of the intervals.
    seed : int
        Of the bootstrap.
    notes : sequence of str
        What else a reader must know.

    Raises
    ------
    DataError
        If the runs are of several models or engines, or there is nothing to compare: no baseline, no answer
        of it to the same prompt, seed and temperature, under `FEWEST_PROMPTS` prompts, or every answer cut.
    """
    for what, names in (("models", {r.model for r in runs}), ("engines", {r.engine for r in runs})):
        if len(names) > 1:
            raise DataError(
                f"the lengths are of {len(names)} {what} ({', '.join(sorted(names))}): give one's"
            )
    if all(run.censored for run in runs):
        raise DataError("every answer was cut at its cap, so nothing is known of lengths: raise the cap")
    answers = answers_by_setup(runs)
    reference = _reference(answers, baseline)
    compared, left_out = {}, []
    for setup, own in answers.items():
        against = Setup(
            baseline, reference.temperature if setup.method_params == baseline else setup.temperature
        )
        if setup == reference:
            continue
        if fault := _fault(setup, own, answers.get(against), against):
            left_out.append(fault)
        else:
            compared[setup] = compare(own, answers[against], level=level, seed=seed)
    if not compared:
        raise DataError("; ".join(left_out) or f"only {baseline} at one temperature: nothing to compare")
    base = answers[reference]
    floor = seeds_apart(base, level=level, seed=seed)
    study = ShiftStudy(
        name=name,
        model=runs[0].model,
        engine=runs[0].engine,
        baseline=reference,
        level=level,
        n_prompts=int(base.known.any(axis=1).sum()),
        n_seeds=int(base.known.any(axis=0).sum()),
        caps=tuple(sorted({run.cap for run in runs})),
        floor=floor,
        comparisons=judge(compared),
        notes=(*notes, *(f"Left out: {fault}." for fault in left_out)),
    )
    return replace(study, notes=(*study.notes, *_notes(study)))


def _reference(answers: Mapping[Setup, Answers], baseline: str) -> Setup:
    """Return the baseline's setup at the usual temperature, or else the one with most answers."""
    own = [setup for setup in answers if setup.method_params == baseline]
    if not own:
        found = ", ".join(sorted({setup.method_params for setup in answers}))
        raise DataError(f"no lengths of {baseline} to compare with, only of {found}")
    return max(
        own, key=lambda setup: (setup.temperature == _USUAL_TEMPERATURE, int(answers[setup].known.sum()))
    )


def _fault(setup: Setup, own: Answers, base: Answers | None, against: Setup) -> str | None:
    """Say why a setup cannot be compared."""
    what = f"{setup.method_params} at T = {setup.temperature:g}"
    same = None if base is None else own.known & base.known
    if base is None or same is None or not same.any():
        return (
            f"{what}: no answer of {against.method_params} at T = {against.temperature:g} to the same prompt "
            "with the same seed"
        )
    n_prompts = int(same.any(axis=1).sum())
    if n_prompts < FEWEST_PROMPTS:
        return f"{what}: {n_prompts} prompts are too few to tell a shift; collect {FEWEST_PROMPTS} or more"
    if (own.cut & base.cut)[same].all():
        return f"{what}: every answer was cut at its cap, there and with {against.method_params}"
    return None


def _notes(study: ShiftStudy) -> Iterator[str]:
    compared, floor = study.comparisons, study.floor
    yield (
        f"Verdicts hold for all {len(compared)} comparisons together: the chance of even one false shift is "
        f"{100 * FAMILY_ERROR:.0f} % at most (Holm). Intervals are of {100 * study.level:.0f} % for each "
        "alone, from resampled prompts."
    )
    surest = min(found.detectable for found in study.judged.values())
    yield (
        f"The smallest shift that this could detect, 4 times in 5 at 5 % in a test alone: "
        f"{100 * surest:.1f} % of the total where lengths scatter least, {100 * study.detectable:.1f} % "
        "where they scatter most."
    )
    if floor is not None and floor.floor is not None:
        yield (
            f"Noise: two seeds of the baseline itself give a mean D of {100 * floor.floor.mean:+.1f} %, "
            f"D ≥ 50 % in {100 * floor.floor.much_longer:.1f} % and D ≤ −50 % in "
            f"{100 * floor.floor.much_shorter:.1f} % of pairs (each both ways). Excess shares are "
            "across seeds on both sides, beyond that."
        )
    else:
        yield (
            "One seed: how far two runs of the baseline itself differ is unknown, so shares of D have no "
            "floor here. Multipliers are tested on the spread between prompts."
        )
    cut = max(max(found.cut, found.base_cut) for found in compared.values())
    if cut:
        yield (
            f"Up to {100 * cut:.0f} % of a setup's answers were cut at the cap. Totals are of answers up to "
            "the cap, on both sides, which draws multipliers towards 1; the uncut multiplier assumes that "
            "cut answers would have gone on to end at their setup's average rate."
        )
    alike = [setup.method_params for setup, found in compared.items() if not np.any(found.same.d)]
    if alike:
        yield f"Same length as the baseline's in every pair: {', '.join(alike)}. Did the method act at all?"


def shifts_of(study: ShiftStudy) -> list[LengthShift]:
    """Return each method's multiplier at the baseline's temperature, with its uncertainty and origin."""
    return [
        LengthShift(
            method_params=setup.method_params,
            multiplier=found.multiplier.value,
            low=found.multiplier.low,
            high=found.multiplier.high,
            level=study.level,
            basis="calibrated",
            provenance=(
                f"{study.sampled}; {found.n_pairs} pairs of {found.n_prompts} prompts; cut at the cap: "
                f"{100 * found.cut:.0f} % (fp16 {100 * found.base_cut:.0f} %); {found.verdict}"
            ),
            beyond_noise=found.verdict != NO_SHIFT,
            model=study.model,
        )
        for setup, found in study.methods.items()
    ]

"""Collected lengths as arrays: one row per prompt, one column per seed, for each method and temperature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvpred.data.lengths import LengthRun
from kvpred.errors import DataError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, order=True)
class Setup:
    """What was answered with: a full method string and a temperature."""

    method_params: str
    temperature: float


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """The lengths of one setup's answers.

    Parameters
    ----------
    tokens : array, shape (n_prompts, n_seeds)
        NaN where there is no answer.
    cut : array of bool, shape (n_prompts, n_seeds)
        Whether the cap ended it.
    compression : float
        Bytes of fp16's cache over the method's at the answers' end, on average; NaN if unknown.
    """

    tokens: Floats
    cut: Bools
    compression: float = np.nan

    @property
    def known(self) -> Bools:
        """Where there is an answer, shape (n_prompts, n_seeds)."""
        return np.isfinite(self.tokens)

    def of(self, rows: Bools | slice = slice(None), seeds: slice = slice(None)) -> Answers:
        """Return the answers to some prompts, of some seeds."""
        return Answers(self.tokens[rows, seeds], self.cut[rows, seeds], self.compression)


def answers_by_setup(runs: Sequence[LengthRun]) -> dict[Setup, Answers]:
    """Arrange lengths so that one place stands for the same prompt and the same seed in every setup.

    Equal rows count once.

    Raises
    ------
    DataError
        If rows of one prompt, seed and setup differ, an answer has no token, or one prompt's answers have
        several caps.
    """
    _check(runs)
    prompts = {prompt: row for row, prompt in enumerate(sorted({run.prompt_id for run in runs}))}
    seeds = {seed: column for column, seed in enumerate(sorted({run.seed for run in runs}))}
    by_setup: dict[Setup, list[LengthRun]] = {}
    for run in runs:
        by_setup.setdefault(Setup(run.method_params, run.temperature), []).append(run)
    found = {}
    for setup, own in sorted(by_setup.items()):
        tokens = np.full((len(prompts), len(seeds)), np.nan)
        cut = np.zeros(tokens.shape, dtype=np.bool_)
        for run in own:
            place = prompts[run.prompt_id], seeds[run.seed]
            tokens[place], cut[place] = run.output_tokens, run.censored
        ratios = [run.cache_ratio for run in own if np.isfinite(run.cache_ratio)]
        found[setup] = Answers(tokens, cut, 1 / float(np.mean(ratios)) if ratios else np.nan)
    return found


def _check(runs: Sequence[LengthRun]) -> None:
    seen: dict[tuple[str, float, str, int], LengthRun] = {}
    caps: dict[str, int] = {}
    for run in runs:
        what = f"{run.method_params} on prompt {run.prompt_id}, seed {run.seed}, T = {run.temperature:g}"
        if run.output_tokens < 1:
            raise DataError(
                f"{what}: an answer of no tokens has no relative difference; leave its prompt out",
                column="output_tokens",
                value=run.output_tokens,
            )
        if caps.setdefault(run.prompt_id, run.cap) != run.cap:
            raise DataError(
                f"{what}: its cap is not the {caps[run.prompt_id]} of the prompt's other answers, and cut "
                "lengths compare only under one cap",
                column="cap",
                value=run.cap,
            )
        first = seen.setdefault((run.method_params, run.temperature, run.prompt_id, run.seed), run)
        if (first.output_tokens, first.censored) != (run.output_tokens, run.censored):
            raise DataError(
                f"{what}: stands there twice, with {first.output_tokens} and {run.output_tokens} tokens; "
                "keep one",
                column="output_tokens",
                value=run.output_tokens,
            )

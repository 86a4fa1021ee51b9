"""How well the operators of an in-place profile are predicted at sites that their fits did not see."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kvpred.data.profiles import Columns, Profile, timed_operators
from kvpred.evaluation.profile_tables import (
    RepeatNoise,
    Rows,
    drift,
    halves,
    of_stage,
    operator_share,
    pooled_repeats,
    repeat_noise,
    repeats,
    token_rows,
)
from kvpred.methods import BASELINE
from kvpred.predictors.greybox import STAGES, Array
from kvpred.predictors.in_place import at_rows, site_lengths, site_tokens
from kvpred.predictors.operators import OperatorSet, fit_operators, operator_tables, stage_operator
from kvpred.predictors.operators.folds import whole_value_folds

Counts = NDArray[np.int64]
Errors = defaultdict[str, list[Array]]

HALF, BATCHES, LENGTHS, TOKEN_COUNTS = "half of the sites", "batch sizes", "lengths", "token counts"
MOST_NOISE = 1.5
"""A prediction is good that errs by no more than this many times the noise of the repeats."""


@dataclass(frozen=True, slots=True)
class OperatorError:
    """How far predictions of held-out points were from what was measured there.

    Parameters
    ----------
    method, stage, operator : str
    split : str
        What was held out: half of the sites (five random halves, and their other halves), whole batch sizes
        or lengths, or, of the shared operators, each token count. Their rows pool all sites at which as many
        tokens pass, so that half of the sites leave most token counts known.
    n_points : int
        Predictions; about five of each point where halves are held out.
    share : float
        Of a step's time that the operator takes, median over sites.
    error : float
        Median of ``|predicted - measured| / measured``.
    noise : RepeatNoise or None
        Of the held-out points.
    drift : float or None
        Of the stage's sites, see `kvpred.evaluation.profile_tables.drift`: what no prediction can know.
    """

    method: str
    stage: str
    operator: str
    split: str
    n_points: int
    share: float
    error: float
    noise: RepeatNoise | None
    drift: float | None

    @property
    def of_noise(self) -> float | None:
        """Error over the noise of a single repeat."""
        return self.error / self.noise.single if self.noise is not None and self.noise.single > 0 else None

    @property
    def within(self) -> bool | None:
        """Whether the error is at most `MOST_NOISE` times the noise of a single repeat."""
        return self.of_noise <= MOST_NOISE if self.of_noise is not None else None

    @property
    def of_noise_and_drift(self) -> float | None:
        """Error over the noise of a single repeat and the drift between sites together."""
        if self.noise is None or self.drift is None:
            return None
        return self.error / float(np.hypot(self.noise.single, self.drift))


def held_out_operators(
    profiles: Mapping[str, Profile], *, kind: str = "physics", seed: int = 0
) -> list[OperatorError]:
    """Hold sites out of the fit of every operator, and predict them.

    A method's attention and upkeep are predicted from its own other sites. Shared operators are predicted
    from fp16's at other sites, for every method, as a predictor does it: what differs between methods counts
    as error.

    Parameters
    ----------
    profiles : mapping of str to Profile
        By full method string, fp16's among them; timed in place.
    kind : str
        Regressor; see `fit_operators`.
    seed : int
        Deals sites out to halves and folds.
    """
    found: list[OperatorError] = []
    for method, profile in profiles.items():
        for split, folds in _site_folds(profile.attention, seed):
            found += _attention_errors(method, profile, split, folds, kind)
    shared = profiles[BASELINE]
    for split, count_folds in _count_folds(shared, seed):
        fits = [_fit(shared, "mlp", np.isin(shared.mlp["num_tokens"], kept), kind) for kept, _ in count_folds]
        for method, profile in profiles.items():
            found += _shared_errors(method, profile, split, [tested for _, tested in count_folds], fits)
    return found


def _site_folds(columns: Columns, seed: int) -> Iterator[tuple[str, list[Rows]]]:
    """Yield the name of each split of attention's rows, and its test masks."""
    bsz, length = columns["batch_size"], site_lengths(columns)
    yield HALF, _site_halves(columns, seed)
    for name, values in ((BATCHES, bsz), (LENGTHS, length)):
        yield name, list(whole_value_folds(values.astype(np.float64), len(values), seed=seed))


def _site_halves(columns: Columns, seed: int) -> list[Rows]:
    """Return test masks, each half of the sites of both stages."""
    prefill = columns["is_prefill"]
    tests = []
    for of_prefill, of_decode in zip(
        halves(int(prefill.sum()), seed=seed), halves(int((~prefill).sum()), seed=seed), strict=True
    ):
        test = np.zeros(len(prefill), dtype=bool)
        test[prefill], test[~prefill] = of_prefill, of_decode
        tests.append(test)
    return tests


def _count_folds(shared: Profile, seed: int) -> Iterator[tuple[str, list[tuple[Counts, Counts]]]]:
    """Yield the name of each split of fp16's token counts, and the counts kept and tested in each fold."""
    passed = site_tokens(shared.attention)
    yield HALF, [(passed[~test], passed[test]) for test in _site_halves(shared.attention, seed)]
    counts = np.unique(passed)
    yield TOKEN_COUNTS, [(counts[counts != one], counts[counts == one]) for one in counts]


def _fit(profile: Profile, table: str, rows: Rows, kind: str) -> OperatorSet:
    return fit_operators(_only(profile, table, rows), kind)


def _only(profile: Profile, table: str, rows: Rows) -> Profile:
    """Return a profile of nothing but these rows of this table."""
    tables: dict[str, Columns] = {"attention": {}, "mlp": {}}
    tables[table] = at_rows(getattr(profile, table), rows)
    return replace(profile, attention=tables["attention"], mlp=tables["mlp"])


def _attention_errors(
    method: str, profile: Profile, split: str, folds: Sequence[Rows], kind: str
) -> Iterator[OperatorError]:
    columns = profile.attention
    errors: Errors = defaultdict(list)
    for test in folds:
        if len(np.unique(columns["is_prefill"][~test])) == 2:
            _add(errors, _fit(profile, "attention", ~test, kind), _only(profile, "attention", test))
    count = np.full(len(columns["is_prefill"]), repeats(profile))
    for stage in STAGES:
        rows = of_stage(columns, stage)
        for operator in timed_operators(columns):
            if found := errors.get(stage_operator(operator, stage)):
                noise = repeat_noise(columns, operator, rows, count=count)
                yield _summary(profile, (method, stage, operator, split), found, noise)


def _shared_errors(
    method: str, profile: Profile, split: str, folds: Sequence[Counts], fits: Sequence[OperatorSet]
) -> Iterator[OperatorError]:
    columns, count = profile.mlp, pooled_repeats(profile)
    for stage in STAGES:
        in_stage = token_rows(profile, stage)
        errors: Errors = defaultdict(list)
        for held, fitted in zip(folds, fits, strict=True):
            if (rows := in_stage & np.isin(columns["num_tokens"], held)).any():
                _add(errors, fitted, _only(profile, "mlp", rows))
        for operator, found in errors.items():
            noise = repeat_noise(columns, operator, in_stage, count=count)
            yield _summary(profile, (method, stage, operator, split), found, noise)


def _add(errors: Errors, fitted: OperatorSet, tests: Profile) -> None:
    """Predict a profile's rows, and add the relative errors to each operator's."""
    for table in operator_tables(tests):
        timed = table.time_ms > 0
        if timed.any() and table.operator in fitted.models:
            predicted = fitted.models[table.operator].regressor.predict(table.inputs[timed])
            errors[table.operator].append(np.abs(predicted / table.time_ms[timed] - 1))


def _summary(
    profile: Profile, names: tuple[str, str, str, str], errors: Sequence[Array], noise: RepeatNoise | None
) -> OperatorError:
    method, stage, operator, split = names
    every = np.concatenate(errors)
    return OperatorError(
        method=method,
        stage=stage,
        operator=operator,
        split=split,
        n_points=len(every),
        share=operator_share(profile, operator, stage),
        error=float(np.median(every)),
        noise=noise,
        drift=drift(profile, stage),
    )

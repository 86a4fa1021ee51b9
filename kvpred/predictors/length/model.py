"""A finished model of response lengths: a predictor, its corrected intervals, and what is known of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from kvpred.data.conversations import Turn
from kvpred.errors import DataError
from kvpred.methods import BASELINE, get_method
from kvpred.predictors.length.base import LEVELS, LengthDistributions, LengthPredictor, Messages
from kvpred.predictors.length.recalibration import Recalibration
from kvpred.predictors.length.shift import LengthShift

INTERVAL_LEVEL = 0.9
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class LengthEstimate:
    """The predicted length of one answer, in tokens.

    Parameters
    ----------
    method : str
        Full method string.
    median_tokens : float
        The best point estimate.
    mean_tokens : float
        What to sum for costs: sums of medians are too low.
    low_tokens, high_tokens : float
        Central interval at `level`.
    level : float
    quantiles : mapping of float to float
        Level to tokens.
    limit_tokens : float or None
        The training data's answers were cut there: nothing is known beyond, and the mean counts a longer
        answer with what was left of it. None if they were not cut.
    reaches_limit : float or None
        Probability that the answer is at least `limit_tokens` long.
    basis : str
        ``calibrated``: learnt from this very method's answers; that of the measured shift otherwise.
    provenance : str
        What it rests on.
    """

    method: str
    median_tokens: float
    mean_tokens: float
    low_tokens: float
    high_tokens: float
    level: float
    quantiles: Mapping[float, float]
    limit_tokens: float | None
    reaches_limit: float | None
    basis: str
    provenance: str

    def stops_by(self, tokens: float) -> float | None:
        """Return the probability that the answer ends within `tokens`; None beyond `limit_tokens`."""
        quantiles = np.array([list(self.quantiles.values())])
        limit = np.inf if self.limit_tokens is None else self.limit_tokens
        share = float(LengthDistributions(quantiles, np.zeros(1), limit).stopped_by(tokens)[0])
        return None if np.isnan(share) else share


@dataclass(frozen=True, slots=True, eq=False)
class OutOfFold:
    """What models that had not seen an answer's conversation said of it.

    Parameters
    ----------
    pieces : tuple of str
        `Turn.piece` of each answer.
    indices : array of int, shape (n,)
        `Turn.index`.
    folds : array of int, shape (n,)
    predicted : LengthDistributions
        Of n answers; not yet recalibrated.
    """

    pieces: tuple[str, ...]
    indices: np.ndarray[Any, np.dtype[np.int64]]
    folds: np.ndarray[Any, np.dtype[np.int64]]
    predicted: LengthDistributions

    def rows(self, turns: Sequence[Turn]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return each turn's row, -1 where it is none of these."""
        places = {key: row for row, key in enumerate(zip(self.pieces, self.indices.tolist(), strict=True))}
        return np.array([places.get((turn.piece, turn.index), -1) for turn in turns], dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class LengthModel:
    """A predictor with intervals that were checked on conversations it had not seen.

    Parameters
    ----------
    predictor : LengthPredictor
    recalibration : Recalibration
    method_params : str
        What the training answers were served with.
    out_of_fold : OutOfFold
        Held-out predictions of the training answers.
    groups : frozenset of str
        `group_key` of every conversation learnt from.
    provenance : str
    facts : mapping
        Training data's counts, accuracy and the like, for people.
    """

    predictor: LengthPredictor
    recalibration: Recalibration
    out_of_fold: OutOfFold
    groups: frozenset[str]
    provenance: str
    method_params: str = BASELINE
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The kind of predictor: ``lightgbm``, ``longformer`` or ``stacked``."""
        return self.predictor.name

    def distributions(self, conversations: Sequence[Messages]) -> LengthDistributions:
        """Return the distributions of the answers to conversations, under the method learnt from.

        Parameters
        ----------
        conversations : sequence of sequences of Message
            Each ends with the user's message.
        """
        return self.recalibration.apply(self.predictor.predict(conversations))

    def held_out(self, turns: Sequence[Turn]) -> LengthDistributions:
        """Return distributions that owe nothing to the turns' own answers.

        Answers that were learnt from come out of fold; those of unknown conversations are predicted. The
        recalibration has seen the former: refitted on other folds it moves coverage by less than 0.1 points.

        Raises
        ------
        DataError
            For an answer that was not learnt from, of a conversation that was.
        """
        rows = self.out_of_fold.rows(turns)
        for turn, row in zip(turns, rows, strict=True):
            if row < 0 and group_key(turn.group) in self.groups:
                raise DataError(
                    f"conversation {turn.piece} was learnt from, this answer of it was not: it is neither "
                    "new nor held out. Judge with the very files that were trained on, or with new ones."
                )
        known = rows >= 0
        quantiles, mean = np.empty((len(turns), len(LEVELS))), np.empty(len(turns))
        if known.any():
            seen = self.recalibration.apply(self.out_of_fold.predicted[rows[known]])
            quantiles[known], mean[known] = seen.quantiles, seen.mean
        if not known.all():
            new = self.distributions([turns[row].messages for row in np.flatnonzero(~known).tolist()])
            quantiles[~known], mean[~known] = new.quantiles, new.mean
        return LengthDistributions(quantiles, mean, self.predictor.limit_)

    def estimates(
        self,
        conversations: Sequence[Messages],
        *,
        shift: LengthShift | None = None,
        level: float = INTERVAL_LEVEL,
    ) -> list[LengthEstimate]:
        """Return one estimate per conversation.

        Parameters
        ----------
        conversations : sequence of sequences of Message
        shift : LengthShift, optional
            Of the method to serve with, measured against `method_params`.
        level : float
            Of the intervals, at most 0.95.
        """
        found = self.distributions(conversations)
        method, basis, provenance = self.method_params, "calibrated", self.provenance
        if shift is not None and shift.method_params != self.method_params:
            found = shifted(found, shift)
            method, basis = get_method(shift.method_params).spec, shift.basis
            provenance = f"{self.provenance}; times {shift.multiplier:.3f}: {shift.provenance}"
        median, (low, high) = found.median, found.interval(level)
        limit = found.limit if np.isfinite(found.limit) else None
        reaches = None if limit is None else 1 - found.stopped_by(limit - 1)
        return [
            LengthEstimate(
                method=method,
                median_tokens=float(median[row]),
                mean_tokens=float(found.mean[row]),
                low_tokens=float(low[row]),
                high_tokens=float(high[row]),
                level=level,
                quantiles=dict(zip(LEVELS.tolist(), found.quantiles[row].tolist(), strict=True)),
                limit_tokens=limit,
                reaches_limit=None if reaches is None else float(reaches[row]),
                basis=basis,
                provenance=provenance,
            )
            for row in range(len(found))
        ]


def shifted(found: LengthDistributions, shift: LengthShift) -> LengthDistributions:
    """Return distributions times a measured shift, whose own uncertainty widens them.

    The spread of each quantile about the median and that of the multiplier at the same level add in
    quadrature, on the logarithm: the two are independent, and close to log-normal.
    """
    median = found.median[:, None]
    spread = np.log(found.quantiles / median)
    normal = np.array([_NORMAL.inv_cdf(level) for level in LEVELS])
    unit = np.log(shift.high / shift.low) / (2 * _NORMAL.inv_cdf((1 + shift.level) / 2))
    widened = np.sign(normal) * np.sqrt(spread**2 + (unit * normal) ** 2)
    quantiles = np.maximum.accumulate(median * np.exp(widened), axis=1) * shift.multiplier
    factor = shift.multiplier
    return LengthDistributions(np.maximum(quantiles, 1.0), found.mean * factor, found.limit * factor)


def group_key(group: str) -> str:
    """Return what a bundle keeps of a conversation's name, to know it again: a part of its SHA-256."""
    return hashlib.sha256(group.encode()).hexdigest()[:16]


def group_keys(groups: Iterable[str]) -> frozenset[str]:
    """Return the keys of conversations."""
    return frozenset(map(group_key, groups))

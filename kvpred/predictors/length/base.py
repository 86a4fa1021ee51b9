"""What a predictor of response lengths is, and what it returns."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from kvpred.data.conversations import Message, Turn
from kvpred.data.journal import Progress
from kvpred.errors import DataError

Floats = NDArray[np.float64]
Messages = Sequence[Message]
# Of the quantiles that every predictor gives.
LEVELS: Floats = np.array([0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975])
MIN_CONVERSATIONS = 20
# Answers that one conversation counts for at most.
MAX_WEIGHT = 10.0
_ALL_LEVELS = np.concatenate([[0.0], LEVELS, [1.0]])


@dataclass(frozen=True, slots=True)
class LengthDistributions:
    """One distribution of the response length for each of n conversations, in tokens.

    Parameters
    ----------
    quantiles : array, shape (n, len(LEVELS))
        At `LEVELS`, never falling from left to right, at least 1.
    mean : array, shape (n,)
        Expected length, of answers as the training data hold them: cut ones count with what is left of them.
    limit : float
        Where the training data's answers were cut: nothing is known beyond; infinite if they were not.
    """

    quantiles: Floats
    mean: Floats
    limit: float = np.inf

    @classmethod
    def from_shares(
        cls, below: Floats, thresholds: Floats, *, most: float, limit: float = np.inf
    ) -> LengthDistributions:
        """Make distributions of the shares of answers that end within some lengths, linear in between.

        Parameters
        ----------
        below : array, shape (n, m)
            P(length ≤ threshold), never falling from left to right.
        thresholds : array, shape (m,)
            Tokens, rising.
        most : float
            The longest answer there can be; at least the last threshold.
        limit : float
        """
        ends = np.concatenate([[0.0], thresholds, [max(most, thresholds[-1] + 1)]])
        n = len(below)
        shares = np.column_stack([np.zeros(n), below, np.ones(n)])
        mean = ((1 - (shares[:, 1:] + shares[:, :-1]) / 2) * np.diff(ends)).sum(axis=1)
        quantiles = np.array([np.interp(LEVELS, row, ends) for row in shares]).reshape(n, len(LEVELS))
        return cls(np.maximum(quantiles, 1.0), np.maximum(mean, 1.0), limit)

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> LengthDistributions:
        return LengthDistributions(self.quantiles[rows], self.mean[rows], self.limit)

    @property
    def median(self) -> Floats:
        """The median of each, shape (n,)."""
        return self.quantile(0.5)

    def quantile(self, level: float) -> Floats:
        """Return each one's quantile at `level`, linear between those known and flat beyond, shape (n,)."""
        place = float(np.interp(level, LEVELS, np.arange(len(LEVELS))))
        low = min(int(place), len(LEVELS) - 2)
        share = place - low
        return (1 - share) * self.quantiles[:, low] + share * self.quantiles[:, low + 1]

    def interval(self, level: float) -> tuple[Floats, Floats]:
        """Return the central interval of `level`, low and high, shape (n,) each."""
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def stopped_by(self, tokens: float) -> Floats:
        """Return the probability that each answer ends within `tokens`, shape (n,).

        NaN beyond `limit`, where nothing is known.
        """
        if tokens > self.limit:
            return np.full(len(self), np.nan)
        return self.share_below(np.full(len(self), tokens))

    def share_below(self, tokens: Floats) -> Floats:
        """Return the probability that each answer is at most as long as its own `tokens`, shape (n,).

        Linear between the quantiles, and as far beyond the outer ones as they are from their neighbours.
        """
        ends = self._ends()
        return np.array([np.interp(n, row, _ALL_LEVELS) for n, row in zip(tokens, ends, strict=True)])

    def at_share(self, shares: Floats) -> Floats:
        """Return the lengths that given shares of each answer's distribution stay below.

        The inverse of `share_below`.

        Parameters
        ----------
        shares : array, shape (k,) or (n, k)
            From 0 to 1.

        Returns
        -------
        array, shape (n, k)
        """
        each = np.broadcast_to(shares, (len(self), np.shape(shares)[-1]))
        return np.array(
            [np.interp(own, _ALL_LEVELS, row) for own, row in zip(each, self._ends(), strict=True)]
        )

    def mean_up_to(self, cap: int) -> Floats:
        """Return each answer's mean length if it ends after `cap` tokens at the latest, shape (n,)."""
        tokens = np.arange(cap) + 0.5
        return np.array([np.sum(1 - np.interp(tokens, row, _ALL_LEVELS)) for row in self._ends()])

    def _ends(self) -> Floats:
        known = self.quantiles
        return np.column_stack([np.zeros(len(self)), known, 2 * known[:, -1] - known[:, -2] + 1])


class LengthPredictor(ABC):
    """A model of response lengths.

    Attributes
    ----------
    limit_ : float
        See `LengthDistributions.limit`; set by `fit`.
    """

    name: ClassVar[str]
    limit_: float

    @abstractmethod
    def fit(self, turns: Sequence[Turn], *, progress: Callable[[Progress], None] | None = None) -> Self:
        """Learn from answered turns; returns self. Deterministic for given parameters."""

    @abstractmethod
    def predict(self, conversations: Sequence[Messages]) -> LengthDistributions:
        """Return one distribution per conversation; each ends with the user's message."""

    def predict_held_out(self, turns: Sequence[Turn]) -> LengthDistributions:
        """Return the distributions of answers that were not learnt from."""
        return self.predict([turn.messages for turn in turns])

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what was learnt into an existing folder, in safe formats only."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""


def pinball(tokens: Floats, quantiles: Floats) -> Floats:
    """Return each answer's quantile loss in tokens, averaged over `LEVELS`, shape (n,)."""
    miss = tokens[:, None] - quantiles
    return np.asarray(np.maximum(LEVELS * miss, (LEVELS - 1) * miss).mean(axis=1))


def fold_of(group: str, n_folds: int) -> int:
    """Return the fold of a conversation, 0 … n_folds - 1: by its name alone, so the same for every model."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8]) % n_folds


def cut_of(turns: Sequence[Turn]) -> float:
    """Return the length of the shortest answer that was cut; infinite if none was."""
    return min((float(turn.response_tokens) for turn in turns if turn.censored), default=np.inf)


def telling(thresholds: Floats, cut: float) -> Floats:
    """Return thresholds, sorted, none of them at the cut itself.

    Where all answers are cut at one cap, the threshold below tells those that reach it from the others.
    """
    return np.unique(np.where(thresholds == cut, thresholds - 1, thresholds))


def check_enough(turns: Sequence[Turn]) -> None:
    """Raise `DataError` if the turns are of fewer than 20 conversations: nothing could be held out."""
    if (count := len({turn.group for turn in turns})) < MIN_CONVERSATIONS:
        raise DataError(
            f"{count} conversations with answers, expected at least {MIN_CONVERSATIONS}: a predictor of "
            "lengths cannot be learnt, let alone judged, from so few."
        )


def conversation_weights(turns: Sequence[Turn]) -> Floats:
    """Return what each answer counts in training: a conversation never more than ten answers do.

    On the ShareGPT sample, where one conversation holds 62, equal weights of all conversations cost a token
    of mean absolute error.
    """
    counts = Counter(turn.group for turn in turns)
    return np.array([min(1.0, MAX_WEIGHT / counts[turn.group]) for turn in turns])

"""Keep time while an engine serves requests that come one after another."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from kvpred.data.requests import ServedRequests
from kvpred.engines.base import Arrival


class Recorder:
    """When each request came, was answered, and what of the engine's steps fell to it.

    Parameters
    ----------
    arrivals : sequence of Arrival
        In the order in which they come.
    prompt_tokens : sequence of int
        Tokens of each prompt, as the engine counts them.
    """

    def __init__(self, arrivals: Sequence[Arrival], prompt_tokens: Sequence[int]) -> None:
        self._arrivals, self._prompt_tokens = arrivals, prompt_tokens
        self._first = [np.nan] * len(arrivals)
        self._last = [np.nan] * len(arrivals)
        self._tokens = [0] * len(arrivals)
        self._device = [0.0] * len(arrivals)
        self._come = 0
        self._open: list[int] = []
        self._begin = 0.0

    def start(self) -> None:
        """Let the time begin."""
        self._begin = time.perf_counter()

    @property
    def open(self) -> tuple[int, ...]:
        """Requests that have come and are not answered, by their place."""
        return tuple(self._open)

    @property
    def done(self) -> bool:
        """Whether all requests are answered."""
        return self._come == len(self._arrivals) and not self._open

    def come(self) -> int:
        """Return how many requests have come by now."""
        while self._come < len(self._arrivals) and self._arrivals[self._come].at_s <= self._now():
            self._open.append(self._come)
            self._come += 1
        return self._come

    def until_next_s(self) -> float:
        """Return the seconds until the next request comes; infinite after the last."""
        if self._come == len(self._arrivals):
            return float("inf")
        return max(self._arrivals[self._come].at_s - self._now(), 0.0)

    def wait(self) -> None:
        """Sleep until the next request comes."""
        time.sleep(self.until_next_s())

    @contextmanager
    def step(self) -> Iterator[dict[int, int]]:
        """Time one step; the caller fills in how many new tokens it brought each request."""
        begin, tokens = self._now(), dict[int, int]()
        yield tokens
        end = self._now()
        took_part = [i for i, count in tokens.items() if count]
        for i in took_part:
            self._device[i] += (end - begin) / len(took_part)
            self.token(i, tokens[i], at_s=end)

    def token(self, place: int, count: int = 1, *, at_s: float | None = None) -> None:
        """Note new tokens of a request, by now if not told when."""
        at_s = self._now() if at_s is None else at_s
        if not self._tokens[place]:
            self._first[place] = at_s
        self._last[place] = at_s
        self._tokens[place] += count
        if self._tokens[place] >= self._arrivals[place].output_len:
            self._open.remove(place)

    def served(self, *, device_known: bool = True) -> ServedRequests:
        """Return what was noted."""
        return ServedRequests(
            ids=tuple(one.id for one in self._arrivals),
            arrived_at_s=np.array([one.at_s for one in self._arrivals]),
            first_token_at_s=np.array(self._first),
            completed_at_s=np.array(self._last),
            prompt_tokens=np.array(self._prompt_tokens, dtype=np.int64),
            output_tokens=np.array(self._tokens, dtype=np.int64),
            restarts=np.zeros(len(self._arrivals), dtype=np.int64),
            device_s=np.array(self._device) if device_known else np.full(len(self._device), np.nan),
        )

    def _now(self) -> float:
        return time.perf_counter() - self._begin

"""Requests on their way through a simulated replica, and the steps that serve them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan, nan

import numpy as np

from kvpred.simulation.memory import CacheBudget, Holding

NEVER = -1


class TracedRequest:
    """A request of a trace; Vidur asks only its number and when it arrives.

    Vidur's own, when preempted, loses count of its pipeline stages, and takes what had passed of an
    unfinished prompt for the whole.

    Parameters
    ----------
    id : int
    arrived_at : float
    prompt_len, output_len : int
    holding : Holding
        What it holds of the cache.
    budget : CacheBudget
        Asked again after a restart.
    """

    __slots__ = (
        "_budget", "_changes", "_holding", "arrived_at", "changes_at", "completed_at", "device_s", "end",
        "first_token_at", "held_bytes", "id", "next_bytes", "processed", "prompt_bytes", "prompt_len",
        "restarts", "scheduled_at",
    )  # fmt: skip

    def __init__(
        self,
        id: int,
        arrived_at: float,
        prompt_len: int,
        output_len: int,
        holding: Holding,
        budget: CacheBudget,
    ) -> None:
        self.id = id
        self.arrived_at = arrived_at
        self.prompt_len = prompt_len
        self.end = prompt_len + output_len
        # Tokens that the model has seen or made; the newest one made is not stored yet.
        self.processed = 0
        self.held_bytes = 0
        self.prompt_bytes = holding.prompt_bytes
        # Where the next change of what decode steps hold is, in processed tokens, and to how much.
        self.changes_at = NEVER
        self.next_bytes = 0
        self._changes: list[tuple[int, int]] = []
        self._holding = holding
        self._budget = budget
        self.scheduled_at = self.first_token_at = self.completed_at = nan
        self.restarts = 0
        self.device_s = 0.0

    @property
    def prefilled(self) -> bool:
        """Whether its prompt has passed."""
        return self.processed > self.prompt_len

    def admit(self) -> int:
        """Take the cache that the prompt needs; return its bytes."""
        self.held_bytes = self.prompt_bytes
        return self.held_bytes

    def compress(self) -> int:
        """Give back what the prompt held beyond what is kept of it; return the bytes, negative."""
        held = self._holding.held_bytes
        at = np.flatnonzero(np.diff(held)) + 1
        self._changes = list(zip((at + self.prompt_len).tolist(), held[at].tolist(), strict=True))[::-1]
        before, self.next_bytes = self.held_bytes, int(held[0])
        self.grow()
        return self.held_bytes - before

    def grow(self) -> None:
        """Hold `next_bytes`, which the decode step at `changes_at` needs, and find the next change."""
        self.held_bytes = self.next_bytes
        if self._changes:
            self.changes_at, self.next_bytes = self._changes.pop()
        else:
            self.changes_at = NEVER

    def restart(self) -> int:
        """Lose the cache; what was answered passes again with the prompt. Return the bytes, negative."""
        if self.prefilled:
            self.prompt_len = self.processed
            holding = self._budget.holding(self.prompt_len, self.end - self.prompt_len)
            # What fitted compressed may not as one 16-bit prompt; engines would pass it in parts.
            self.prompt_bytes = min(holding.prompt_bytes, self._budget.capacity_bytes)
            self._holding = holding
        self.processed = 0
        self.changes_at = NEVER
        self.restarts += 1
        before, self.held_bytes = self.held_bytes, 0
        return -before


class Step:
    """One step of a replica, or several alike in a row: to Vidur a batch and its only stage.

    Parameters
    ----------
    prompts : sequence of (TracedRequest, int)
        Requests whose prompts pass, each with its tokens of this step.
    decodes : sequence of TracedRequest
        Requests that get one more token.
    again : callable, optional
        Asked at the end of the step, with its time: whether the same requests decode again right away. They
        are then ready for that.
    """

    __slots__ = (
        "_again",
        "begins_at",
        "bsz",
        "decodes",
        "ended",
        "execution_time",
        "left",
        "prefilled",
        "prompts",
    )

    def __init__(
        self,
        prompts: Sequence[tuple[TracedRequest, int]],
        decodes: Sequence[TracedRequest],
        again: Callable[[Step, float], bool] | None = None,
    ) -> None:
        self.prompts = prompts
        self.decodes = decodes
        self.bsz = len(prompts) + len(decodes)
        self.begins_at = 0.0
        self.execution_time = 0.0
        self.prefilled: list[TracedRequest] = []
        self.ended = False
        # Steps until the first of its requests ends, this one included.
        self.left = min(request.end - request.processed for request in decodes) if again else 1
        self._again = again

    def goes_on(self, seconds: float) -> bool:
        """Return whether one more step of the same requests follows after so many seconds."""
        return self._again is not None and self.left > 1 and self._again(self, self.begins_at + seconds)

    def to_batch_stage(self, stage_id: int, execution_time: float) -> Step:
        """Begin the only stage: take its seconds."""
        self.execution_time = execution_time
        return self

    def on_schedule(self, time: float) -> None:
        """Note when the step begins, and with it the requests that are first taken up."""
        self.begins_at = time
        for request, _ in self.prompts:
            if isnan(request.scheduled_at):
                request.scheduled_at = time

    def on_stage_end(self, time: float) -> None:
        """Do nothing: the step ends with its only stage."""

    def on_batch_end(self, time: float) -> None:
        """Count the tokens; the end of a prompt yields the first of the answer."""
        for request in self.decodes:
            request.processed += 1
            if request.processed == request.end:
                request.completed_at = time
                self.ended = True
        for request, tokens in self.prompts:
            request.processed += tokens
            if request.processed == request.prompt_len:
                request.processed += 1
                self.prefilled.append(request)
                if isnan(request.first_token_at):
                    request.first_token_at = time
                if request.processed == request.end:
                    request.completed_at = time
                    self.ended = True

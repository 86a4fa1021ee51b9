"""Schedulers for Vidur: prompts first as in vLLM, or in parts as in Sarathi; memory counted to the byte."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections import deque
from typing import Any

from vidur.scheduler.replica_scheduler.base_replica_scheduler import BaseReplicaScheduler

from kvpred.simulation.requests import Step, TracedRequest

# Share of the cache that admitting a prompt leaves free, so that running requests are not preempted at once:
# vLLM's own (BlockSpaceManager's watermark), and Vidur's.
WATERMARK = 0.01


class ReplicaScheduler(BaseReplicaScheduler):  # type: ignore[misc]
    """What both share: requests in the order of their arrival, and the bytes that they hold.

    Vidur's own schedulers count blocks of equal worth and visit every request several times a step; the order
    in which they serve is kept (a test runs both).
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._request_queue: deque[TracedRequest] = deque()
        self._running: list[TracedRequest] = []
        self._capacity: int = self._cache_config.num_blocks
        self._used: int = 0
        self._spare = int(WATERMARK * self._capacity)
        self._arrivals: list[float] = self._config.arrivals

    @property
    def n_requests(self) -> int:
        """Requests that wait or run."""
        return len(self._request_queue) + len(self._running)

    @property
    def memory_usage_percent(self) -> float:
        """Share of the cache that is held, in percent."""
        return 100 * self._used / self._capacity

    def is_empty(self) -> bool:
        """Return whether no request waits or runs."""
        return not self.n_requests

    @abstractmethod
    def _get_next_batch(self, time: float) -> Step | None:
        """Return the next step; None if there is nothing to do."""

    def on_batch_end(self, step: Step) -> None:
        """Let go of the requests that are done, and of what prompts held beyond what is kept of them."""
        super().on_batch_end(step)
        self._used += sum(request.compress() for request in step.prefilled)
        if step.ended:
            self._used -= sum(r.held_bytes for r in self._running if r.processed == r.end)
            self._running = [r for r in self._running if r.processed != r.end]

    def _admit(self, request: TracedRequest) -> bool:
        """Admit the first waiting request if there is room. Alone every request fits: that was checked."""
        if self._running and (
            len(self._running) == self._config.batch_size_cap
            or self._used + request.prompt_bytes > self._capacity - self._spare
        ):
            return False
        self._request_queue.popleft()
        self._used += request.admit()
        self._running.append(request)
        ledger = self._config.ledger
        ledger.peak_bsz = max(ledger.peak_bsz, len(self._running))
        ledger.peak_bytes = max(ledger.peak_bytes, self._used)
        return True

    def _in_order(self) -> None:
        """Bring running requests into the order of arrival: a restarted one is older than those after it."""
        self._running.sort(key=lambda request: (request.arrived_at, request.id))

    def _make_room(self) -> None:
        """Give every decoding request room for its next token; preempt the youngest if it is short."""
        used = self._used
        for request in self._running:
            if request.processed == request.changes_at:
                used += request.next_bytes - request.held_bytes
                request.grow()
        while used > self._capacity:
            victim = self._running.pop()
            used += victim.restart()
            self._request_queue.appendleft(victim)
        self._used = used
        ledger = self._config.ledger
        ledger.peak_bytes = max(ledger.peak_bytes, used)

    def _decoding(self, decodes: list[TracedRequest]) -> Step | None:
        """Return a step that only decodes; None if nobody does.

        Vidur handles eight events a step. Steps in a row that nobody joins or leaves are one step to it.
        """
        if not decodes:
            return None
        # Who waits may be let in by what running requests give back; if all places are taken, only by an end.
        steady = not self._request_queue or len(self._running) == self._config.batch_size_cap
        return Step((), decodes, self._again if steady else None)

    def _again(self, step: Step, ends_at: float) -> bool:
        """Get ready to decode again right away, unless a request has come meanwhile, or room is short."""
        place = bisect_right(self._arrivals, step.begins_at)
        if place < len(self._arrivals) and self._arrivals[place] <= ends_at:
            return False
        grown = [request for request in step.decodes if request.processed + 1 == request.changes_at]
        used = self._used + sum([request.next_bytes - request.held_bytes for request in grown])
        if used > self._capacity:
            return False
        self._used = used
        for request in grown:
            request.grow()
        for request in step.decodes:
            request.processed += 1
        step.left -= 1
        ledger = self._config.ledger
        ledger.peak_bytes = max(ledger.peak_bytes, self._used)
        return True


class PromptsFirst(ReplicaScheduler):
    """Waiting prompts pass whole, in a step of their own, before any running request decodes."""

    def _get_next_batch(self, time: float) -> Step | None:
        prompts: list[tuple[TracedRequest, int]] = []
        left: int = self._config.max_tokens_in_batch
        while self._request_queue:
            request = self._request_queue[0]
            if request.prompt_len > left or not self._admit(request):
                break
            prompts.append((request, request.prompt_len))
            left -= request.prompt_len
        if prompts:
            self._in_order()
            return Step(prompts, ())
        self._make_room()
        return self._decoding(self._running.copy())


class Chunked(ReplicaScheduler):
    """Every step decodes all that run, and passes parts of prompts with what is left of its tokens."""

    def _get_next_batch(self, time: float) -> Step | None:
        self._make_room()
        decodes = [request for request in self._running if request.prefilled]
        left: int = self._config.chunk_size - len(decodes)
        prompts: list[tuple[TracedRequest, int]] = []
        for request in self._running:
            if left > 0 and not request.prefilled:
                prompts.append((request, min(request.prompt_len - request.processed, left)))
                left -= prompts[-1][1]
        n_begun = len(prompts)
        while left > 0 and self._request_queue:
            request = self._request_queue[0]
            if not self._admit(request):
                break
            prompts.append((request, min(request.prompt_len, left)))
            left -= prompts[-1][1]
        if len(prompts) > n_begun:
            self._in_order()
        return Step(prompts, decodes) if prompts else self._decoding(decodes)

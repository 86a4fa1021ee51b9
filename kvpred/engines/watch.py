"""Make single runs, and watch the host while they are made."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from statistics import median
from typing import Any

from kvpred.data.sites import RunSite
from kvpred.engines.base import Engine, EngineError, Generation
from kvpred.engines.load import BUSY_SHARE, OtherLoad
from kvpred.engines.plan import MeasurePlan, Visit
from kvpred.methods import Method, get_method

DRIFT = 1.25
"""A run counts as disturbed when the reference took this many times its usual time right before it."""
_CALM_TRIES, _CALM_PAUSE_S = 4, 2.0
_REFERENCE_PROMPT, _REFERENCE_OUTPUT = 256, 8
# Prompts that an engine answers before it is timed: one may lay out its weights anew for few tokens.
_WARM_UP_PROMPTS = (_REFERENCE_PROMPT, 32)
_FEWEST_REFERENCES = 3


class Watch:
    """Make runs, and a reference before each site that tells when the host itself got slower.

    Parameters
    ----------
    plan : MeasurePlan
    engines : mapping of str to Engine
        By full method string, all started.
    usual_s : sequence of float
        What the reference took so far, where earlier calls made runs.
    """

    def __init__(
        self, plan: MeasurePlan, engines: Mapping[str, Engine], *, usual_s: Sequence[float] = ()
    ) -> None:
        self._plan, self._engines = plan, engines
        self._load = OtherLoad()
        self._usual = list(usual_s)
        self._reference = get_method(next(iter(plan.sites)))
        for spec in engines:
            for prompt_len in _WARM_UP_PROMPTS:
                self._generate_small(get_method(spec), prompt_len)
        while len(self._usual) < _FEWEST_REFERENCES:
            self._usual.append(self._generate_small(self._reference))
        self._site: tuple[RunSite, int] | None = None
        self._reference_s, self._drift = self._usual[-1], 1.0

    def measure(self, visit: Visit) -> dict[str, Any]:
        """Return a run's line of the journal."""
        begin = time.monotonic()
        site = visit.site
        if (site, visit.repeat) != self._site:
            self._calm()
            self._site = (site, visit.repeat)
        self._load.start()
        done = self._engines[visit.method.spec].generate(
            visit.method,
            bsz=site.bsz,
            prompt_len=site.prompt_len,
            output_len=site.output_len,
            seed=_seed(visit, self._plan.target.seed),
        )
        others = self._load.cores_busy()
        return {
            "method": visit.method.spec,
            **asdict(site),
            "repeat": visit.repeat,
            "run": _record(done),
            "reference_s": self._reference_s,
            "drift": round(self._drift, 3),
            "other_cores_busy": round(others, 3),
            "mark": self._mark(others),
            "tokens": visit.tokens,
            "took_s": round(time.monotonic() - begin, 3),
            "at": now(),
        }

    def _mark(self, others: float) -> str | None:
        # Of a server elsewhere, this host's load says nothing.
        if not self._plan.engine.remote and others > BUSY_SHARE * self._load.cores:
            return "busy host"
        return "drift" if self._drift > DRIFT else None

    def _calm(self) -> None:
        """Wait a little until the reference takes its usual time, and keep how long it takes."""
        for attempt in range(_CALM_TRIES):
            if attempt:
                time.sleep(_CALM_PAUSE_S)
            self._reference_s = self._generate_small(self._reference)
            self._drift = self._reference_s / median(self._usual)
            if self._drift <= DRIFT:
                # What is disturbed does not become usual.
                self._usual.append(self._reference_s)
                break

    def _generate_small(self, method: Method, prompt_len: int = _REFERENCE_PROMPT) -> float:
        engine = self._engines[method.spec]
        room = self._plan.target.max_seq_len - _REFERENCE_OUTPUT
        sizes = {"bsz": 1, "prompt_len": min(prompt_len, room), "output_len": _REFERENCE_OUTPUT}
        return engine.generate(method, **sizes, seed=len(self._usual)).e2e_s


def _record(done: Generation) -> dict[str, Any]:
    """Return what the journal keeps of a batch."""
    tpot_s = done.tpot_s
    if done.output_len > 1 and math.isnan(tpot_s):
        raise EngineError(
            "the engine served the sequences of a batch one after another: there is no decode step of the "
            "whole batch to time. Let the server run as many sequences at once as the batch has."
        )
    return {
        "prompt_tokens": sum(done.prompt_tokens),
        "prefill_time_s": done.prefill_time_s,
        "ttft_s": done.ttft_s,
        "tpot_s": None if math.isnan(tpot_s) else tpot_s,
        "e2e_s": done.e2e_s,
        "own_ttft_s": done.own_ttft_s,
        "own_tpot_s": done.own_tpot_s,
        "peak_memory_bytes": done.peak_memory_bytes,
    }


def _seed(visit: Visit, seed: int) -> int:
    """Return a seed that all methods share in a round, so that they serve the same prompts."""
    site = visit.site
    return (seed * 1_000_003 + visit.repeat * 10_007 + site.bsz * 101 + site.prompt_len) % 2**31


def now() -> str:
    """Return the time as the journal writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")

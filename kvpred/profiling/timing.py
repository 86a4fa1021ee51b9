"""One point of a sweep, measured: repeats with and without hooks in turns, reduced to medians per repeat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from kvpred.caches import MethodCache
from kvpred.methods import Method
from kvpred.profiling.clocks import Clock
from kvpred.profiling.grid import Grid, Site
from kvpred.profiling.stack import Stack
from kvpred.profiling.timeline import ONCE, Timeline, hooked, watched

WARM_UP = 2
HOOKED_LAYERS = 10
"""Most layers hooked at a time, evenly spaced, so that hooks cost little; repeats take turns at them."""

UPKEEP = "attn_kv_cache_save"
OUTLIER = 1.5
"""A step that takes this many times its repeat's median is counted as an outlier."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What one point took: one number per repeat, in seconds.

    Parameters
    ----------
    step, hooked_step : list of float
        Median whole step of each repeat, without and with hooks.
    operators : dict of str to list of float
        Of each repeat with hooks: an operator's time per layer, or per step for those that run once.
    operators_sum : list of float
        Of each repeat with hooks: all operators of a step, each as often as it runs.
    outliers : int
        Steps that took more than 1.5 times their repeat's median.
    """

    step: list[float]
    hooked_step: list[float]
    operators: dict[str, list[float]]
    operators_sum: list[float]
    outliers: int


@dataclass(slots=True)
class _Repeat:
    """Steps of one repeat; `bulk` are those in which the method compressed a whole period at once."""

    steps: list[float] = field(default_factory=list)
    operators: dict[str, list[float]] = field(default_factory=dict)
    bulk: dict[str, float] = field(default_factory=dict)

    def add(self, seconds: float, operators: Mapping[str, list[float]], *, bulk: bool) -> None:
        means = {name: fmean(times) for name, times in operators.items()}
        if bulk:
            self.bulk |= means
            return
        self.steps.append(seconds)
        for name, time in means.items():
            self.operators.setdefault(name, []).append(time)


def time_point(stack: Stack, method: Method, site: Site, *, grid: Grid, clock: Clock) -> Timing:
    """Measure one method at one site.

    Parameters
    ----------
    stack : Stack
    method : Method
    site : Site
    grid : Grid
        For its repeats and steps.
    clock : Clock

    Returns
    -------
    Timing
    """
    layer: Any = stack.empty_cache(method).layers[0]
    if site.stage == "prefill":
        runs = _prefills(stack, method, site, grid, clock)
    else:
        runs = _decodes(stack, method, site, grid, clock, period=layer.period)
    with torch.inference_mode():
        plain: list[_Repeat] = []
        watched_runs: list[_Repeat] = []
        for with_hooks, repeat in runs:
            (watched_runs if with_hooks else plain).append(repeat)
    return _reduced(plain, watched_runs, n_layers=stack.n_layers, period=layer.period)


Runs = Iterator[tuple[bool, _Repeat]]


def pooled(timings: Sequence[Timing]) -> Timing | None:
    """Put the repeats of several visits of one point together; None if there was none."""
    if not timings:
        return None
    return Timing(
        step=[time for timing in timings for time in timing.step],
        hooked_step=[time for timing in timings for time in timing.hooked_step],
        operators={
            name: [time for timing in timings for time in timing.operators[name]]
            for name in timings[0].operators
        },
        operators_sum=[time for timing in timings for time in timing.operators_sum],
        outliers=sum(timing.outliers for timing in timings),
    )


def _prefills(stack: Stack, method: Method, site: Site, grid: Grid, clock: Clock) -> Runs:
    """Pass the prompt through an empty cache, with and without hooks in turns; the first run warms up."""
    tokens = stack.tokens(bsz=site.bsz, length=site.length)
    for turn in range(-1, 2 * grid.repeats):
        cache = stack.empty_cache(method)
        with_hooks = turn % 2 == 1
        repeat = _Repeat()
        with _Probe(stack, cache, clock, turn // 2 if with_hooks else None) as probe:
            seconds, operators, _ = probe.timed(stack, tokens, cache)
            repeat.add(seconds, operators, bulk=False)
        if turn >= 0:
            yield with_hooks, repeat


def _decodes(stack: Stack, method: Method, site: Site, grid: Grid, clock: Clock, *, period: int) -> Runs:
    """Decode around `length` tokens, with and without hooks in turns.

    The steps lie evenly about the length, and about a bulk compression where the method has them.
    """
    length = site.length
    before = grid.repeats * grid.steps + WARM_UP
    if period > 1:
        # No nearer to the start than the steps before it: else it would fall into a turn without hooks.
        length = max(round(length / period), before // period + 1) * period
    start = max(length - before, 1)
    cache = stack.filled_cache(method, bsz=site.bsz, length=start)
    tokens = stack.tokens(bsz=site.bsz, length=1)
    for _ in range(WARM_UP):
        tokens = stack.step(tokens, cache)
    for turn in range(2 * grid.repeats):
        # The turn in which the length is reached, and with it a bulk compression, has hooks.
        with_hooks = turn % 2 == (grid.repeats - 1) % 2
        repeat = _Repeat()
        with _Probe(stack, cache, clock, turn // 2 if with_hooks else None) as probe:
            for _ in range(grid.steps):
                bulk = period > 1 and (cache.get_seq_length() + 1) % period == 0
                seconds, operators, tokens = probe.timed(stack, tokens, cache)
                repeat.add(seconds, operators, bulk=bulk)
        yield with_hooks, repeat


class _Probe(ExitStack):
    """Times steps, with the hooks of one repeat or (turn None) without any."""

    def __init__(self, stack: Stack, cache: MethodCache, clock: Clock, turn: int | None) -> None:
        super().__init__()
        self._clock = clock
        self._timeline: Timeline | None = None
        if turn is not None:
            stride = -(-stack.n_layers // HOOKED_LAYERS)
            layers = range(turn % stride, stack.n_layers, stride)
            self._timeline = self.enter_context(hooked(stack.model, layers, clock))
            self.enter_context(watched(cache, layers, self._timeline))

    def timed(
        self, stack: Stack, tokens: Tensor, cache: MethodCache
    ) -> tuple[float, dict[str, list[float]], Tensor]:
        """Return a step's seconds, those of its operators, and the tokens it chose."""
        self._clock.wait()
        begin = self._clock.mark()
        chosen = stack.step(tokens, cache)
        end = self._clock.mark()
        seconds = self._clock.seconds([begin, end])[1]
        return seconds, self._timeline.take() if self._timeline else {}, chosen


def _reduced(plain: list[_Repeat], watched_runs: list[_Repeat], *, n_layers: int, period: int) -> Timing:
    """Take medians per repeat, and spread what a bulk compression adds over its period."""
    operators: dict[str, list[float]] = {}
    for repeat in watched_runs:
        for name, times in repeat.operators.items():
            operators.setdefault(name, []).append(median(times))
    bulk = [repeat.bulk[UPKEEP] for repeat in watched_runs if UPKEEP in repeat.bulk]
    extra = (max(bulk[0] - median(operators[UPKEEP]), 0.0) / period) if bulk else 0.0
    operators[UPKEEP] = [time + extra for time in operators[UPKEEP]]
    sums = [
        sum(times[i] * (1 if name in ONCE else n_layers) for name, times in operators.items())
        for i in range(len(watched_runs))
    ]
    return Timing(
        step=[median(repeat.steps) + n_layers * extra for repeat in plain],
        hooked_step=[median(repeat.steps) + n_layers * extra for repeat in watched_runs],
        operators=operators,
        operators_sum=sums,
        outliers=sum(
            step > OUTLIER * median(repeat.steps)
            for repeat in (*plain, *watched_runs)
            for step in repeat.steps
        ),
    )

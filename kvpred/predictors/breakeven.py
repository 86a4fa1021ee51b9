"""Where a method beats fp16, over a grid of requests: per token, per request, and in money."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from kvpred.errors import UsageError
from kvpred.hardware import get_device, get_engine_spec
from kvpred.methods import BASELINE, Method, get_method
from kvpred.methods.quantities import MAX_BSZ, MAX_TOKENS, IntArray
from kvpred.models import get_model
from kvpred.predictors.breakeven_map import (
    AXES,
    BATCHES,
    DECODE,
    E2E,
    EQUAL,
    PREFILL,
    USD,
    BreakEven,
    Grid,
    Map,
)
from kvpred.predictors.cost import check_price
from kvpred.predictors.crossval import check_level
from kvpred.predictors.greybox import Array
from kvpred.predictors.length.outputs import REFERENCE, OutputShift, output_shift
from kvpred.predictors.memory import predict_memory
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.relative import Ratio, Relative, Yardstick
from kvpred.predictors.scaling import Place
from kvpred.predictors.steps import Query, coverage

HOUR_S = 3600.0


def break_even(
    predictor: Predictor,
    grid: Grid,
    *,
    methods: Sequence[str],
    model: str,
    device: str,
    engine: str,
    tp: int = 1,
    batches: Sequence[str] = BATCHES,
    shifted: bool = True,
    price_per_hour: float | None = None,
    level: float = 0.9,
    weight_bits: int = 16,
    memory_utilization: float = 0.9,
) -> BreakEven:
    """Hold methods against fp16 over a grid of requests.

    Parameters
    ----------
    predictor : Predictor
    grid : Grid
    methods : sequence of str
        fp16 among them is left out.
    model, device, engine : str
    tp : int
    batches : sequence of str
        Of `BATCHES`.
    shifted : bool
        Take each method's answers to be as much longer as `output_shift` knows them to be.
    price_per_hour : float, optional
        US dollars per device.
    level : float
    weight_bits : {16, 8, 4}
        For what fits in memory.
    memory_utilization : float

    Raises
    ------
    UsageError
        If a name is unknown, a number out of range, or there is no method but fp16.
    NotCoveredError
        If there is no basis for an estimate.
    """
    check_level(level)
    compared = [one for one in map(get_method, methods) if one.spec != BASELINE]
    if not compared:
        raise UsageError(f"methods are held against {BASELINE}: name another one")
    if price_per_hour is not None:
        check_price(price_per_hour)
    place, runner = Place(get_model(model), get_device(device), tp), get_engine_spec(engine)

    def largest(method: Method, output_len: IntArray) -> IntArray:
        found = predict_memory(
            place.model,
            method,
            place.device,
            bsz=1,
            prompt_len=grid.prompt_len,
            output_len=output_len[:, None],
            tp=tp,
            weight_bits=weight_bits,
            block_tokens=runner.block_tokens,
            prefill_tokens=runner.prefill_tokens,
            reserve_bytes=runner.reserve_bytes,
            memory_utilization=memory_utilization,
        )
        return np.broadcast_to(np.minimum(found.max_bsz, MAX_BSZ), grid.shape)

    maps = [
        found
        for kind in batches
        for found in _maps(
            _Ground(predictor, place, engine, grid, kind, level, price_per_hour, largest), compared, shifted
        )
    ]
    tokens = grid.prompts + grid.filled(grid.output_len)
    return BreakEven(
        grid,
        place.model.name,
        place.device.name,
        engine,
        tp,
        level,
        price_per_hour,
        predictor.provenance,
        float(np.mean(tokens > place.model.max_position)),
        place.model.max_position,
        tuple(maps),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Ground:
    """What all methods of one kind of batches are compared on."""

    predictor: Predictor
    place: Place
    engine: str
    grid: Grid
    batches: str
    level: float
    price_per_hour: float | None
    largest: Callable[[Method, IntArray], IntArray]

    def batch(self, method: Method, output_len: IntArray) -> tuple[IntArray, NDArray[np.bool_]]:
        """Return the sequences that a method serves at once, and whether they fit."""
        most, asked = self.largest(method, output_len), self.grid.filled(self.grid.bsz)
        if self.batches == EQUAL:
            return asked, asked <= most
        # No more are served at once than there are requests.
        own = np.minimum(most, asked) if self.grid.axis == AXES[0] else most
        return np.maximum(own, 1), most >= 1

    def query(self, bsz: IntArray, output_len: IntArray) -> Query:
        """Return the batches of all cells."""
        return Query(bsz, self.grid.prompts, self.grid.filled(output_len))


def _maps(ground: _Ground, methods: Sequence[Method], shifted: bool) -> Iterator[Map]:
    """Yield each method's map."""
    base_bsz, base_fits = ground.batch(get_method(BASELINE), ground.grid.output_len)
    query = ground.query(base_bsz, ground.grid.output_len)
    yardstick = Yardstick.at(ground.predictor, ground.place, ground.engine, query=query, level=ground.level)
    steps = query.output_len.astype(float) - 1
    base_s = {PREFILL: yardstick.time_s(PREFILL), DECODE: yardstick.time_s(DECODE)}
    base_e2e_s = base_s[PREFILL] + steps * base_s[DECODE]
    base_usd = (
        None
        if ground.price_per_hour is None
        else ground.price_per_hour * ground.place.tp / HOUR_S * base_e2e_s / base_bsz
    )
    for method in methods:
        shift = output_shift(method, ground.place.model.name) if shifted else REFERENCE
        longer = np.rint(shift.multiplier * ground.grid.output_len).astype(np.int64).clip(1, MAX_TOKENS)
        bsz, fits = ground.batch(method, longer)
        own = None if ground.batches == EQUAL else ground.query(bsz, ground.grid.output_len)
        stages = yardstick.compare(method, own)
        whole = stages
        if (longer != ground.grid.output_len).any():
            whole = stages | yardstick.compare(method, ground.query(bsz, longer), stages=(DECODE,))
        e2e = _end_to_end(whole, base_s, steps, shift, level=ground.level)
        crowd = base_bsz / bsz
        yield Map(
            method.spec,
            ground.batches,
            coverage(ground.predictor, method, ground.place, ground.engine).basis,
            shift,
            bsz,
            base_bsz,
            fits,
            base_fits,
            {
                DECODE: _scaled(stages[DECODE].ratio, crowd),
                PREFILL: _scaled(stages[PREFILL].ratio, crowd),
                E2E: e2e,
                USD: _scaled(e2e, crowd),
            },
            {stage: found.in_domain for stage, found in stages.items()}
            | dict.fromkeys((E2E, USD), whole[PREFILL].in_domain & whole[DECODE].in_domain),
            base_usd,
        )


def _scaled(ratio: Ratio, factor: Array) -> Ratio:
    value, low, high = ratio
    return value * factor, low * factor, high * factor


def _end_to_end(
    stages: Mapping[str, Relative],
    base_s: Mapping[str, Array],
    steps: Array,
    shift: OutputShift,
    *,
    level: float,
) -> Ratio:
    """Return requests' times over fp16's: prefill and, of as many more tokens as the shift says, decoding.

    Both stages are cautiously taken to err the same way, the shift independently of them.
    """
    base = base_s[PREFILL] + steps * base_s[DECODE]

    def whole(end: int, multiplier: float) -> Array:
        answered = np.maximum(multiplier * (steps + 1) - 1, 0.0)
        prefill_s = base_s[PREFILL] * stages[PREFILL].ratio[end]
        return np.asarray((prefill_s + answered * base_s[DECODE] * stages[DECODE].ratio[end]) / base)

    value = whole(0, shift.multiplier)
    outer = NormalDist().inv_cdf((1 + level) / 2)
    shortest, longest = shift.at([-outer, outer]).tolist()
    below, above = (
        np.asarray(np.hypot(np.log(value / whole(end, shift.multiplier)), np.log(value / whole(0, length))))
        for end, length in ((1, shortest), (2, longest))
    )
    return value, value * np.exp(-below), value * np.exp(above)

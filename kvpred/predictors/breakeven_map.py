"""What a break-even map is: a grid of requests, and in each cell a method's times and cost over fp16's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvpred.errors import UsageError
from kvpred.methods.quantities import IntArray
from kvpred.predictors.greybox import Array
from kvpred.predictors.length.outputs import OutputShift
from kvpred.predictors.relative import Ratio

EQUAL, LARGEST = "equal", "largest"
BATCHES = (EQUAL, LARGEST)
DECODE, PREFILL, E2E, USD = "decode", "prefill", "e2e", "usd"
QUANTITIES = (DECODE, PREFILL, E2E, USD)
AXES = ("bsz", "output_len")
BETTER, WORSE, UNCERTAIN, NO_ROOM, ONLY_THIS = (
    "better",
    "worse",
    "uncertain",
    "does not fit",
    "only this fits",
)
VERDICTS = (BETTER, WORSE, UNCERTAIN, NO_ROOM, ONLY_THIS)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Requests on two axes: batch or answers' lengths across, prompts' lengths up.

    Parameters
    ----------
    axis : {"bsz", "output_len"}
        What varies across; the other of the two is one number.
    bsz, prompt_len, output_len : array of int, one-dimensional
    """

    axis: str
    bsz: IntArray
    prompt_len: IntArray
    output_len: IntArray

    def __post_init__(self) -> None:
        """Refuse an axis that is none, and more values than one where there is no axis."""
        if self.axis not in AXES:
            raise UsageError(f"axis {self.axis!r}: use one of {', '.join(AXES)}")
        (other,) = (name for name in AXES if name != self.axis)
        if getattr(self, other).size != 1:
            raise UsageError(f"{other} must be one number where {self.axis} is an axis")

    @property
    def across(self) -> IntArray:
        """Return the values of the axis across."""
        return self.bsz if self.axis == AXES[0] else self.output_len

    @property
    def shape(self) -> tuple[int, int]:
        """Return the cells across and up."""
        return len(self.across), len(self.prompt_len)

    @property
    def prompts(self) -> IntArray:
        """Return the prompt's length of every cell."""
        return np.broadcast_to(self.prompt_len, self.shape)

    def filled(self, across: IntArray) -> IntArray:
        """Return values across, or a single one, for every cell."""
        return np.broadcast_to(across[:, None], self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """One method held against fp16; arrays have the grid's shape.

    Parameters
    ----------
    method : str
        Full method string.
    batches : {"equal", "largest"}
        Both serve the same batch; or each the largest that fits, of at most `bsz` sequences where that is an
        axis.
    basis : str
        What the method's times rest on.
    shift : OutputShift
        How much longer its answers are taken to be, end to end and in money.
    bsz, base_bsz : array of int
        Batches of the method and of fp16.
    fits, base_fits : array of bool
        Whether these fit, of the largest batches whether one sequence does.
    ratios : mapping of str to tuple of array
        The method's over fp16's with the ends of the interval, by ``decode`` (seconds per token of the
        batch), ``prefill`` (seconds per prompt), ``e2e`` (seconds until the last token of a request), ``usd``
        (device time, so money, per request).
    in_domain : mapping of str to array of bool
        Whether all that a ratio rests on was measured around here.
    base_usd : array or None
        fp16's dollars per request, where a price is given.
    """

    method: str
    batches: str
    basis: str
    shift: OutputShift
    bsz: IntArray
    base_bsz: IntArray
    fits: NDArray[np.bool_]
    base_fits: NDArray[np.bool_]
    ratios: Mapping[str, Ratio]
    in_domain: Mapping[str, NDArray[np.bool_]]
    base_usd: Array | None

    def verdicts(self, quantity: str) -> NDArray[np.str_]:
        """Return a word of `VERDICTS` per cell: memory first, then where the interval lies about 1."""
        _, low, high = self.ratios[quantity]
        # Places in `VERDICTS`: handling words would take several times as long.
        judged = np.where(high < 1, 0, np.where(low > 1, 1, 2))
        return np.array(VERDICTS)[np.where(~self.fits, 3, np.where(self.base_fits, judged, 4))]

    def share(self, quantity: str, verdict: str) -> float:
        """Return the share of cells with a verdict."""
        return float(np.mean(self.verdicts(quantity) == verdict))


@dataclass(frozen=True, slots=True, eq=False)
class BreakEven:
    """Maps of several methods over one grid.

    Parameters
    ----------
    grid : Grid
    model, device, engine : str
    tp : int
    level : float
        Of the intervals.
    price_per_hour : float or None
        US dollars per device.
    provenance : str
    beyond_context : float
        Share of cells whose prompt and answer are longer than the model's context.
    context : int
        Tokens.
    maps : tuple of Map
    """

    grid: Grid
    model: str
    device: str
    engine: str
    tp: int
    level: float
    price_per_hour: float | None
    provenance: str
    beyond_context: float
    context: int
    maps: tuple[Map, ...]

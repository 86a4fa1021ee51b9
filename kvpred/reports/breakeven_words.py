"""Break-even maps in words: what is compared, where the border lies, what a reader must know."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from kvpred.predictors.breakeven_map import E2E, EQUAL, QUANTITIES, USD, BreakEven, Grid, Map
from kvpred.predictors.greybox import Array
from kvpred.reports.axes import some_batches
from kvpred.reports.style import method_label

NAMES = {"decode": "decode", "prefill": "prefill", "e2e": "end to end", "usd": "$ per request"}
BATCH_NAMES = {"equal": "at equal batch", "largest": "each at the largest batch that fits"}
# Places across at which the border is told.
_ROWS_IN_WORDS = 3
# Ratios within 1 % of 1 are called alike.
_ALIKE = 0.01
# Where batches go up and down by whole sequences a ratio may pass 1 many times.
_MOST_TURNS = 2


def quantities_of(batches: str) -> tuple[str, ...]:
    """Return what is compared: at equal batch money goes with the time end to end."""
    return tuple(name for name in QUANTITIES if batches != EQUAL or name != USD)


def quantity_name(quantity: str, batches: str) -> str:
    """Return what is compared, in words."""
    return f"{NAMES[E2E]}, $" if batches == EQUAL and quantity == E2E else NAMES[quantity]


def place_name(found: BreakEven) -> str:
    """Say what is served, and where."""
    tp = f" x {found.tp}" if found.tp > 1 else ""
    return f"{found.model} on {found.device}{tp}, {found.engine}"


def fixed_name(grid: Grid, batches: str) -> str:
    """Say which of the request's numbers does not vary, if any is given."""
    if grid.axis == "bsz":
        return f", output {grid.output_len[0]:,}"
    return f", bsz {grid.bsz[0]:,}" if batches == EQUAL else ""


def span_name(grid: Grid) -> str:
    """Say what the axes span."""
    across, up = (f"{values[0]:,}-{values[-1]:,}" for values in (grid.across, grid.prompt_len))
    return f"{grid.axis.removesuffix('_len')} {across} x prompt {up}"


def border(grid: Grid, one: Map, quantity: str) -> str:
    """Say in words where a method's best estimate passes fp16's, at a few places across.

    Such as "slower at bsz 1; faster from 1,900 tokens on at 8-64".
    """
    places = some_batches(grid.across.tolist(), _ROWS_IN_WORDS)
    said = []
    for place in places:
        row = int(np.flatnonzero(grid.across == place)[0])
        both = one.fits[row] & one.base_fits[row]
        said.append(_passage(one.ratios[quantity][0][row][both], grid.prompt_len[both], words_of(quantity)))
    if len(set(said)) == 1:
        return f"{said[0]} at every {grid.axis}" if "tokens" in said[0] else f"{said[0]} throughout"
    parts, name = [], f"{grid.axis.removesuffix('_len')} "
    for phrase, run in groupby(zip(said, places, strict=True), key=lambda pair: pair[0]):
        at = [place for _, place in run]
        parts.append(f"{phrase} at {name}{at[0]:,}{f'-{at[-1]:,}' if len(at) > 1 else ''}")
        name = ""
    return "; ".join(parts)


def words_of(quantity: str) -> tuple[str, str]:
    """Return the words for less and for more than fp16's."""
    return ("cheaper", "dearer") if quantity == USD else ("faster", "slower")


def _passage(ratio: Array, lengths: NDArray[np.int64], words: tuple[str, str]) -> str:
    """Say where along the prompts' lengths a ratio passes 1."""
    better, worse = words
    if not len(ratio):
        return "one of the two does not fit"
    logs = np.log(ratio)
    if np.max(np.abs(logs)) < _ALIKE:
        return "alike"
    signs = logs < 0
    turns = np.flatnonzero(signs[1:] != signs[:-1])
    if not len(turns):
        return better if signs[0] else worse
    if len(turns) > _MOST_TURNS:
        return f"{better} at {np.mean(signs):.0%} of lengths"
    at = [_rounded(_crossing(logs[turn : turn + 2], lengths[turn : turn + 2])) for turn in turns]
    ends = ["", *at, ""]
    spans = [(ends[n], ends[n + 1]) for n in range(len(at) + 1) if signs[0] == (n % 2 == 0)]
    return f"{better} {' and '.join(_span(low, high) for low, high in spans)}"


def _span(low: str, high: str) -> str:
    if low and high:
        return f"from {low} to {high} tokens"
    return f"from {low} tokens on" if low else f"up to {high} tokens"


def _crossing(logs: Array, lengths: NDArray[np.int64]) -> float:
    """Return where a line through two places on logarithmic axes is zero."""
    low, high = np.log(lengths)
    return float(np.exp(low + (high - low) * logs[0] / (logs[0] - logs[1])))


def _rounded(tokens: float) -> str:
    """Write tokens with two significant digits."""
    step = 10 ** max(int(np.floor(np.log10(tokens))) - 1, 0)
    return f"{int(round(tokens / step) * step):,}"


def breakeven_notes(found: BreakEven) -> list[str]:
    """Say what a reader must know: the verdicts, the basis, the shift of lengths, the model's context."""
    notes = [
        f"Better or worse: the {found.level:.0%} interval of the ratio to fp16 is below or above 1; unsure: "
        "it holds 1. No room: it does not fit; only it: fp16 does not. Measured: within range of the runs. "
        "Ratio: median of the cells where both fit.",
        f"Basis: {found.provenance}",
    ]
    if any(one.batches != EQUAL for one in found.maps):
        cap = ", of at most bsz sequences" if found.grid.axis == "bsz" else ""
        notes.append(
            f"Largest batch{cap}: decode and prefill count per token of the batch, end to end is the latency "
            "of one request in it, $ its share of the device's time."
        )
    maps = {one.method: one for one in found.maps}
    bare = [method_label(name) for name, one in maps.items() if one.basis == "roofline"]
    if bare:
        notes.append(
            f"Without runs at this place ({', '.join(bare)}): the interval is that of published ratios, the "
            "estimate is of bytes and FLOPs."
        )
    shifts = [
        f"{method_label(name)} {one.shift.multiplier:.2f} ({one.shift.low:.2f}-{one.shift.high:.2f}, "
        f"{one.shift.basis})"
        for name, one in maps.items()
    ]
    if any(one.shift.low != one.shift.high or one.shift.basis != "measured" for one in maps.values()):
        notes.append(f"Answers' length over fp16's, in end to end and $: {', '.join(shifts)}.")
    else:
        notes.append("Answers are taken to be as long as fp16's (--no-shift).")
    if found.beyond_context:
        notes.append(
            f"{found.beyond_context:.0%} of the cells are longer than the context of {found.model}, "
            f"{found.context:,} tokens: it does not serve them as it is."
        )
    return notes


def cells_name(batches: str) -> str:
    """Return the stem of the file that holds the cells."""
    return f"cells_{batches}"

"""The grid of a break-even map, from what options say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kvpred.errors import UsageError
from kvpred.methods.quantities import MAX_BSZ, MAX_TOKENS, IntArray
from kvpred.predictors.breakeven_map import Grid
from kvpred.predictors.predictor import Predictor

_PROMPTS, _ANSWERS, _SEQUENCES = (128, 16_384), (16, 2048), (1, 64)
_FIXED_BATCH, _FIXED_ANSWER = 8, 256


def predictor_at(path: str | None) -> Predictor:
    """Return the throughput predictor at a path, or the packaged one."""
    import kvpred
    from kvpred.predictors import bundle

    return bundle.load(kvpred.PACKAGED if path is None else path)


def break_even_grid(
    axis: str, *, bsz: str | None, prompt_len: str | None, output_len: str | None, cells: int, context: int
) -> Grid:
    """Return the grid of a break-even map.

    Parameters
    ----------
    axis : {"bsz", "output_len"}
        What varies across.
    bsz, prompt_len, output_len : str or None
        One number, or LOW:HIGH of an axis.
    cells : int
        Along each axis at most, evenly in octaves.
    context : int
        Of the model in tokens; prompts go no further if they are not given.

    Raises
    ------
    UsageError
        If a range is none, or is given where there is no axis.
    """
    half = max(context // 2, 1)
    if axis == "bsz":
        across = _spaced("bsz", bsz, _SEQUENCES, cells, MAX_BSZ)
        sequences, answers = across, _spaced("output_len", output_len, (_FIXED_ANSWER,), cells, MAX_TOKENS)
    else:
        sequences = _spaced("bsz", bsz, (_FIXED_BATCH,), cells, MAX_BSZ)
        usual = tuple(min(tokens, half) for tokens in _ANSWERS)
        answers = _spaced("output_len", output_len, usual, cells, MAX_TOKENS)
    longest = max(min(_PROMPTS[1], context - int(answers[-1])), 2)
    usual = (min(_PROMPTS[0], longest // 2), longest)
    return Grid(axis, sequences, _spaced("prompt_len", prompt_len, usual, cells, MAX_TOKENS), answers)


def _spaced(name: str, text: str | None, usual: Sequence[int], cells: int, most: int) -> IntArray:
    """Return whole numbers evenly spaced in octaves, each once."""
    ends = list(usual) if text is None else [_whole(name, part, most) for part in text.split(":")]
    if len(ends) > 2 or ends[0] > ends[-1]:
        raise UsageError(f"{name} {text!r}: write a number, or LOW:HIGH such as 128:4096")
    return np.unique(np.rint(np.geomspace(ends[0], ends[-1], cells)).astype(np.int64))


def _whole(name: str, text: str, most: int) -> int:
    written = text.strip()
    if not written.isdecimal() or not 1 <= int(written) <= most:
        raise UsageError(f"{name} {text!r}: write a whole number from 1 to {most:,}")
    return int(written)

"""Shifts of response lengths computed from lengths that others published: packaged, with their source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kvpred import data
from kvpred.data.files import read_text

PUBLISHED_SHIFTS = Path(data.__file__).parent / "packaged" / "length_shift_published.json"


@dataclass(frozen=True, slots=True)
class PublishedShift:
    """A multiplier computed from lengths that others published.

    Parameters
    ----------
    method : str
        Bare name.
    setup : str
        As published.
    kept_prompt_tokens, kept_answer_tokens : int
        What the method kept of each.
    multiplier, low, high, level : float
        As in `LengthShift`.
    prompts : int
    cut, cut_baseline : float
        Share of answers that ended at the cap, which draws the multiplier towards 1.
    model, verdict, source : str
    """

    method: str
    setup: str
    kept_prompt_tokens: int
    kept_answer_tokens: int
    multiplier: float
    low: float
    high: float
    level: float
    prompts: int
    cut: float
    cut_baseline: float
    model: str
    verdict: str
    source: str

    @property
    def kept_tokens(self) -> int:
        """Tokens kept in all."""
        return self.kept_prompt_tokens + self.kept_answer_tokens


@cache
def published_shifts() -> tuple[PublishedShift, ...]:
    """Return the packaged ones."""
    from pydantic import TypeAdapter

    return TypeAdapter(tuple[PublishedShift, ...]).validate_json(read_text(PUBLISHED_SHIFTS))

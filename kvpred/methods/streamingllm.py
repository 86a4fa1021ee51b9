"""StreamingLLM: keep the attention sinks and the most recent tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kvpred.methods.eviction import StepEvicting
from kvpred.methods.quantities import MAX_TOKENS


@dataclass(frozen=True)
class StreamingLLM(StepEvicting):
    """StreamingLLM (Xiao et al., 2023).

    The prompt uses full causal attention; then all but the first `sinks` and the last `recent` tokens are
    evicted, and decoding evicts the oldest of the recent ones for each new token. Positions stay the original
    ones, so that keys are not rotated again.

    Parameters
    ----------
    sinks : int, default 64
        First tokens kept.
    recent : int, default 448
        Most recent tokens kept.

    Examples
    --------
    >>> StreamingLLM(sinks=4, recent=508).attended_tokens(300)
    300
    """

    name: ClassVar[str] = "streamingllm"
    title: ClassVar[str] = "StreamingLLM"
    paper: ClassVar[str] = "https://arxiv.org/abs/2309.17453"

    sinks: int = 64
    recent: int = 448

    def __post_init__(self) -> None:
        """Refuse empty windows."""
        super().__post_init__()
        self._require("sinks", 0 <= self.sinks <= MAX_TOKENS, f"from 0 to {MAX_TOKENS:,}")
        self._require("recent", 1 <= self.recent <= MAX_TOKENS, f"from 1 to {MAX_TOKENS:,}")

    @property
    def _budget(self) -> int:
        return self.sinks + self.recent

"""SnapKV: keep the prompt tokens that its last queries look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvpred.methods.eviction import PromptEvicting
from kvpred.methods.quantities import MAX_TOKENS, Heads, IntArray, Traffic


@dataclass(frozen=True)
class SnapKV(PromptEvicting):
    """SnapKV (Li et al., 2024).

    The prompt uses full causal attention; then the tokens that score highest under the last `window` queries,
    max-pooled over `kernel` neighbours, are kept together with the window itself, `budget` in all. Nothing is
    evicted while decoding.

    Parameters
    ----------
    budget : int, default 512
        Prompt tokens kept, the window included.
    window : int, default 32
        Last tokens of the prompt whose queries vote; less than `budget`.
    kernel : int, default 7
        Width of the max-pooling; odd.

    Examples
    --------
    >>> SnapKV().stored_tokens(2148, prompt_len=2048)
    612
    """

    name: ClassVar[str] = "snapkv"
    title: ClassVar[str] = "SnapKV"
    paper: ClassVar[str] = "https://arxiv.org/abs/2404.14469"

    budget: int = 512
    window: int = 32
    kernel: int = 7

    def __post_init__(self) -> None:
        """Refuse windows beyond the budget and even kernels."""
        super().__post_init__()
        self._require("budget", 2 <= self.budget <= MAX_TOKENS, f"from 2 to {MAX_TOKENS:,}")
        self._require("window", 1 <= self.window < self.budget, f"from 1 to {self.budget - 1} (below budget)")
        self._require("kernel", 1 <= self.kernel <= MAX_TOKENS and self.kernel % 2 == 1, "odd and positive")

    @property
    def _budget(self) -> int:
        return self.budget

    def _attended(self, kv_len: IntArray, prompt_len: IntArray) -> IntArray:
        kept: IntArray = np.minimum(prompt_len, self.budget)
        return kept + (kv_len - prompt_len)

    def _prefill_upkeep(self, heads: Heads, prompt_len: IntArray) -> Traffic:
        """Score the prompt's keys under the window's queries, pool, rank, evict; nothing if all are kept.

        Scores: 2 FLOPs per query head, channel, window query and key, an exponential and an addition per
        score; pooling: `kernel` comparisons per key and KV head, ranking: one. Keys are read once more.
        """
        scores = heads.q * self.window * (2 * heads.dim + 2) + heads.kv * (self.kernel + 1)
        evicting = prompt_len > self.budget
        return super()._prefill_upkeep(heads, prompt_len) + Traffic(
            read_bytes=evicting * prompt_len * (heads.token_bytes / 2),
            flops=evicting * prompt_len * float(scores),
        )

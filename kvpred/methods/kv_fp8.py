"""An 8-bit floating-point cache, as serving engines offer it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kvpred.methods.quantisation import WriteQuantised
from kvpred.methods.quantities import Heads

SCALE_BYTES = 4
"""An fp32 scale."""


@dataclass(frozen=True)
class KvFp8(WriteQuantised):
    """Keys and values in e4m3, with one static fp32 scale per layer and KV head for each.

    The scales belong to the model, not to a sequence: all sequences share them.

    Examples
    --------
    >>> KvFp8().spec
    'kv-fp8'
    """

    name: ClassVar[str] = "kv-fp8"
    title: ClassVar[str] = "8-bit floating-point cache (e4m3)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2209.05433"

    def _entry_bytes(self, heads: Heads) -> dict[str, int]:
        return {"codes": 2 * heads.kv * heads.dim}

    def _shared_parts(self, heads: Heads) -> dict[str, int]:
        return {"scales": 2 * heads.kv * SCALE_BYTES}

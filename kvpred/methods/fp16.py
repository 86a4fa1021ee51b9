"""The uncompressed cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kvpred.methods.base import Method
from kvpred.methods.quantities import Heads, IntArray


@dataclass(frozen=True)
class Fp16(Method):
    """Keys and values of every token in 16 bit (fp16 or bf16): the baseline.

    Examples
    --------
    >>> from kvpred.models import get_model
    >>> Fp16().cache_bytes(get_model("llama-2-7b"), bsz=1, kv_len=2048) == 2**30
    True
    """

    name: ClassVar[str] = "fp16"
    title: ClassVar[str] = "16-bit cache"
    paper: ClassVar[str] = "https://arxiv.org/abs/1706.03762"

    def _sequence_parts(self, heads: Heads, kv_len: IntArray, prompt_len: IntArray) -> dict[str, IntArray]:
        return {"kv": heads.token_bytes * kv_len}

"""An integer cache of 4 bits, as serving engines offer it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kvpred.methods.quantisation import PerTokenInteger


@dataclass(frozen=True)
class KvInt4(PerTokenInteger):
    """Keys and values in 4-bit integers, asymmetric, one fp16 scale and zero per token and head.

    The layout of LMDeploy's ``quant_policy=4``.

    Examples
    --------
    >>> KvInt4().spec
    'kv-int4'
    """

    name: ClassVar[str] = "kv-int4"
    title: ClassVar[str] = "4-bit integer cache"
    paper: ClassVar[str] = "https://lmdeploy.readthedocs.io/en/latest/quantization/kv_quant.html"

    bits: ClassVar[int] = 4

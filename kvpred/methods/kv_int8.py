"""An integer cache of 8 bits, as serving engines offer it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kvpred.methods.quantisation import PerTokenInteger


@dataclass(frozen=True)
class KvInt8(PerTokenInteger):
    """Keys and values in 8-bit integers, asymmetric, one fp16 scale and zero per token and head.

    The layout of LMDeploy's ``quant_policy=8``.

    Examples
    --------
    >>> KvInt8().spec
    'kv-int8'
    """

    name: ClassVar[str] = "kv-int8"
    title: ClassVar[str] = "8-bit integer cache"
    paper: ClassVar[str] = "https://lmdeploy.readthedocs.io/en/latest/quantization/kv_quant.html"

    bits: ClassVar[int] = 8

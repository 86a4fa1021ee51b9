"""The 8-bit integer cache."""

from __future__ import annotations

from kvpred.caches.quantisation import PerTokenLayer
from kvpred.methods.kv_int8 import KvInt8


class KvInt8Layer(PerTokenLayer[KvInt8]):
    """Keys and values in 8-bit integers."""

    method_type = KvInt8

"""The 4-bit integer cache."""

from __future__ import annotations

from kvpred.caches.quantisation import PerTokenLayer
from kvpred.methods.kv_int4 import KvInt4


class KvInt4Layer(PerTokenLayer[KvInt4]):
    """Keys and values in 4-bit integers."""

    method_type = KvInt4

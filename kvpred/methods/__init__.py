"""How the KV cache is compressed, on paper: parameters, exact bytes, attended tokens; one file per method."""

from __future__ import annotations

from kvpred.methods.base import Method
from kvpred.methods.quantities import Floats, Heads, Ints, Traffic
from kvpred.methods.registry import BASELINE, get_method, list_methods, split_methods

__all__ = [
    "BASELINE", "Floats", "Heads", "Ints", "Method", "Traffic", "get_method", "list_methods", "split_methods",
]  # fmt: skip

"""The methods for real, one file each as in `kvpred.methods`: torch operators, and caches made of them.

Needs the extra ``profile`` (torch, transformers).
"""

from __future__ import annotations

import importlib.util

from kvpred.errors import MissingExtraError

for _package in ("torch", "transformers"):
    if importlib.util.find_spec(_package) is None:
        raise MissingExtraError(_package, "profile")

from kvpred.caches.attention import NAME  # noqa: E402
from kvpred.caches.base import CacheLayer  # noqa: E402
from kvpred.caches.cache import MethodCache, cache_for  # noqa: E402
from kvpred.caches.registry import layer_class, make_layer  # noqa: E402
from kvpred.caches.tokens import Tokens  # noqa: E402

__all__ = ["NAME", "CacheLayer", "MethodCache", "Tokens", "cache_for", "layer_class", "make_layer"]

"""Find a method's cache layer: the file of this folder named as the method's own, or another package's."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any

from kvpred.caches.base import CacheLayer
from kvpred.errors import UsageError
from kvpred.methods import Method

ENTRY_POINTS = "kvpred.caches"


def make_layer(method: Method) -> CacheLayer[Any]:
    """Make an empty layer of a method.

    Raises
    ------
    UsageError
        If the method has no cache layer here.

    Examples
    --------
    >>> from kvpred.methods import get_method
    >>> make_layer(get_method("fp16")).seen
    0
    """
    return layer_class(type(method))(method)


@cache
def layer_class(method_type: type[Method]) -> type[CacheLayer[Any]]:
    """Return the layer class of a method's class: of its file's twin here, or of an entry point.

    Raises
    ------
    UsageError
        If there is none.
    """
    twin = f"kvpred.caches.{method_type.__module__.rpartition('.')[2]}"
    if method_type.__module__.startswith("kvpred.methods.") and importlib.util.find_spec(twin):
        found: list[Any] = list(vars(importlib.import_module(twin)).values())
    else:
        from importlib.metadata import entry_points

        found = [entry.load() for entry in entry_points(group=ENTRY_POINTS, name=method_type.name)]
    for value in found:
        layer = isinstance(value, type) and issubclass(value, CacheLayer)
        if layer and vars(value).get("method_type") is method_type:
            twin_class: type[CacheLayer[Any]] = value
            return twin_class
    raise UsageError(
        f"{method_type.name} has no cache layer that runs here; an entry point {ENTRY_POINTS} named "
        f"{method_type.name} may bring one."
    )

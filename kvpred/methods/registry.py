"""Find methods by name: every file of this folder, and other packages' entry points ``kvpred.methods``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any

import kvpred.methods
from kvpred.errors import UsageError, unknown_name
from kvpred.methods.base import Method

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "kvpred.methods"

BASELINE = "fp16"
"""The method that every other one is compared with and learnt from: the uncompressed 16-bit cache."""


def list_methods() -> list[Method]:
    """List every known method with its default parameters, by name.

    Examples
    --------
    >>> [m.name for m in list_methods()][:3]
    ['fp16', 'gear', 'h2o']
    """
    known = _own() | _foreign()
    return [known[name]() for name in sorted(known)]


def get_method(spec: str | Method) -> Method:
    """Build a method from its name and parameters.

    Parameters
    ----------
    spec : str or Method
        Such as ``kivi`` or ``kivi:bits=2,group_size=32``; parameters not given take their defaults. A
        method is returned as it is.

    Returns
    -------
    Method
        Its `spec` reads back to an equal method.

    Raises
    ------
    UsageError
        If the name or a parameter is unknown, or a value not allowed.

    Examples
    --------
    >>> get_method("kivi:bits=2").spec
    'kivi:bits=2,group_size=32,residual_length=128'
    """
    if isinstance(spec, Method):
        return spec
    name, _, text = spec.partition(":")
    method = _find(name)
    return method(**_parameters(method, text))


def split_methods(text: str) -> list[str]:
    """Split a list of method strings whose parameters hold commas too.

    Parameters
    ----------
    text : str
        Such as ``h2o,kivi:bits=2,group_size=32,fp16``, or ``all``.

    Returns
    -------
    list of str
        One string per method, in the order given, each once.

    Raises
    ------
    UsageError
        If there is none, or a parameter comes before any method.

    Examples
    --------
    >>> split_methods("h2o,kivi:bits=2,group_size=32,fp16")
    ['h2o', 'kivi:bits=2,group_size=32', 'fp16']
    """
    if text.strip().lower() == "all":
        return [method.name for method in list_methods()]
    found: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if "=" in part and ":" not in part:
            if not found:
                raise UsageError(f"{part!r} is a parameter without a method; write method:name=value.")
            found[-1] += f",{part}"
        else:
            found.append(part)
    if not found:
        raise UsageError("no method named; see `kvpred methods`.")
    return list(dict.fromkeys(found))


def _find(name: str) -> type[Method]:
    key = name.strip().lower().replace("_", "-")
    if key in _own():
        return _own()[key]
    known = _own() | _foreign()
    if key in known:
        return known[key]
    raise unknown_name("method", name, sorted(known))


def _parameters(method: type[Method], text: str) -> dict[str, Any]:
    """Read ``a=1,b=2`` into values of the parameters' types."""
    defaults = {field.name: field.default for field in fields(method)}
    has = ", ".join(defaults) or "none"
    found: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise UsageError(f"{method.name}: {item!r} is no parameter; write name=value, joined by commas.")
        if key not in defaults:
            raise UsageError(f"{method.name} has no parameter {key!r}; it has {has}.")
        if key in found:
            raise UsageError(f"{method.name}: parameter {key} is given twice.")
        kind: Any = type(defaults[key])
        try:
            found[key] = kind(value)
        except ValueError:
            raise UsageError(f"{method.name}: {key}={value} must be of type {kind.__name__}.") from None
    return found


@cache
def _own() -> dict[str, type[Method]]:
    """Methods of this folder, by name."""
    modules = [
        importlib.import_module(f"{kvpred.methods.__name__}.{info.name}")
        for info in pkgutil.iter_modules(kvpred.methods.__path__)
        if f"{kvpred.methods.__name__}.{info.name}" != __name__
    ]
    return {method.name: method for module in modules for method in _defined_in(module)}


def _defined_in(module: Any) -> Iterator[type[Method]]:
    """Methods that a module defines itself and names."""
    for value in vars(module).values():
        own = isinstance(value, type) and value.__module__ == module.__name__
        if own and issubclass(value, Method) and "name" in vars(value):
            yield value


@cache
def _foreign() -> dict[str, type[Method]]:
    """Methods of other packages, by name."""
    from importlib.metadata import entry_points  # 20 ms that the own methods do not need

    return {method.name: method for method in map(_load, entry_points(group=ENTRY_POINTS))}


def _load(entry: EntryPoint) -> type[Method]:
    try:
        method = entry.load()
    except Exception as error:
        raise UsageError(f"Entry point {entry.name} = {entry.value} cannot be loaded: {error}.") from error
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise UsageError(f"Entry point {entry.name} = {entry.value} is no subclass of kvpred.methods.Method.")
    if method.name in _own():
        raise UsageError(f"Entry point {entry.name} = {entry.value}: the name {method.name} is kvpred's own.")
    return method

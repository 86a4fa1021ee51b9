"""Read what options say: times, numbers, pairs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from kvpred.errors import UsageError

_UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds(option: str, text: str) -> float:
    """Return a time such as 90s, 10m or 2h in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip().lower())
    if not match or float(match[1]) <= 0:
        raise UsageError(f"{option} {text!r}: write a time such as 90s, 10m or 2h.")
    return float(match[1]) * _UNITS[match[2] or "s"]


def integers(option: str, text: str) -> list[int]:
    """Return whole numbers of at least 1 that are separated by commas."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{option} {text!r}: write whole numbers of at least 1, separated by commas.")
    return [int(part) for part in parts]


def pairs(option: str, texts: Sequence[str], *, alone: str | None = None) -> Iterator[tuple[str, str]]:
    """Split KEY=VALUE; a value alone has the key `alone`."""
    for text in texts:
        key, equals, value = text.partition("=")
        # A URL may have an equals sign of its own.
        if alone is not None and (not equals or "/" in key):
            yield alone, text
        elif not equals or not key:
            raise UsageError(f"{option} {text!r}: write KEY=VALUE.")
        else:
            yield key.strip(), value.strip()


def numbers(option: str, text: str) -> list[float]:
    """Return positive numbers that are separated by commas."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < value < float("inf") for value in found):
        raise UsageError(f"{option} {text!r}: write positive numbers, separated by commas.")
    return found


def shard_of(option: str, text: str) -> tuple[int, int]:
    """Return K and N of K/N."""
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"{option} {text!r}: write K/N with K from 1 to N.")
    return int(match[1]), int(match[2])

"""Read what options say: times, numbers, pairs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from kvpred.data.limits import duration_s
from kvpred.errors import UsageError


def seconds(option: str, text: str) -> float:
    """Return a time such as 90s, 10m or 2h in seconds; a number alone is in seconds."""
    written = text.strip()
    try:
        return duration_s(option, f"{written}s" if written[-1:].isdigit() else written)
    except UsageError:
        raise UsageError(f"{option} {text!r}: write a time such as 90s, 10m or 2h.") from None


def share(option: str, text: str) -> float:
    """Return a share such as 2% or 0.02."""
    written = text.strip()
    number = written.removesuffix("%").strip()
    plain = re.fullmatch(r"\d+(?:\.\d+)?|\.\d+", number)
    found = float(number) / (100 if written.endswith("%") else 1) if plain else -1.0
    if not 0 <= found <= 1:
        raise UsageError(f"{option} {text!r}: write a share such as 2% or 0.02.")
    return found


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


def rates(option: str, text: str) -> list[float]:
    """Return requests per second that are separated by commas; ``inf`` is all at once."""
    parts = [part.strip().lower() for part in text.split(",")]
    return [float("inf") if part == "inf" else numbers(option, part)[0] for part in parts]

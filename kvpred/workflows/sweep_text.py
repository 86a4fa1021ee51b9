"""What a sweep asks for: the values of each key, read from one line of text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from kvpred.errors import UsageError
from kvpred.hardware import get_device, get_engine_spec
from kvpred.methods import get_method, split_methods
from kvpred.methods.quantities import MAX_BSZ, MAX_TOKENS
from kvpred.models import get_model

_NUMBERS = {"bsz": MAX_BSZ, "prompt_len": MAX_TOKENS, "output_len": MAX_TOKENS, "tp": 2**10}
_NAMES: dict[str, Callable[[str], object]] = {
    "model": get_model,
    "device": get_device,
    "engine": get_engine_spec,
    "method": get_method,
}
KEYS = (*_NAMES, *_NUMBERS)
# A table of so many rows takes about a gigabyte while it is made.
MOST_CELLS = 1_000_000
_RANGE = re.compile(r"(\d+)(?::(\d+)(?::(x?)(\d+(?:\.\d+)?))?)?")


@dataclass(frozen=True, slots=True)
class Sweep:
    """The values of each key; all their combinations are asked for.

    Parameters
    ----------
    names : mapping of str to tuple of str
        Of model, device, engine and method.
    numbers : mapping of str to tuple of int
        Of tp, bsz, prompt_len and output_len.
    """

    names: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, tuple[int, ...]]

    @property
    def cells(self) -> int:
        """Return how many there are."""
        return int(np.prod([len(values) for values in (*self.names.values(), *self.numbers.values())]))

    def places(self) -> Iterator[dict[str, Any]]:
        """Yield each combination of model, device, engine, tp and method."""
        keys = ("model", "device", "engine", "tp", "method")
        known: dict[str, tuple[Any, ...]] = {**self.names, **self.numbers}
        for values in product(*(known[key] for key in keys)):
            yield dict(zip(keys, values, strict=True))


def parse_sweep(text: str, *, usual: Mapping[str, str | int | None]) -> Sweep:
    """Read ``model=llama-2-7b|llama-3-8b,method=fp16|kivi:bits=2,group_size=32,bsz=1:64:x2,prompt_len=2048``.

    Values are separated by ``|``. ``1:8`` are all numbers from 1 to 8, ``1:64:x2`` doubles, ``512:2048:512``
    adds; both ends count. Commas between a method's parameters belong to the method.

    Parameters
    ----------
    text : str
    usual : mapping of str to str, int or None
        Values of the keys that the text leaves out; None where it must not.

    Raises
    ------
    UsageError
        If a key is unknown, missing or given twice, a value is wrong, or there are too many cells.

    Examples
    --------
    >>> usual = {"method": "fp16", "output_len": 256, "tp": 1, "model": "llama-2-7b", "device": "a6000"}
    >>> parse_sweep("bsz=1:64:x4,prompt_len=512|2048,engine=vllm", usual=usual).numbers["bsz"]
    (1, 4, 16, 64)
    """
    given = {key: str(value) for key, value in usual.items() if value is not None} | _split(text)
    for key in KEYS:
        if key not in given:
            raise UsageError(f"the sweep needs {key}: add {key}=... to --sweep, or --{key.replace('_', '-')}")
    names = {}
    for key, find in _NAMES.items():
        values = [
            one
            for part in given[key].split("|")
            for one in (split_methods(part) if key == "method" else [part.strip()])
        ]
        for value in values:
            find(value)
        names[key] = tuple(dict.fromkeys(values))
    numbers = {key: _numbers(key, given[key], most) for key, most in _NUMBERS.items()}
    sweep = Sweep(names, numbers)
    if sweep.cells > MOST_CELLS:
        raise UsageError(f"the sweep has {sweep.cells:,} cells; ask for at most {MOST_CELLS:,} at a time")
    return sweep


def _split(text: str) -> dict[str, str]:
    """Return the text of each key."""
    found: dict[str, str] = {}
    last = ""
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        name = key.lower().replace("-", "_")
        if equals and name in KEYS:
            if name in found:
                raise UsageError(f"--sweep gives {name} twice: separate its values by |")
            found[name], last = value, name
        elif last == "method" and ":" in found[last].rpartition("|")[2]:
            found[last] += f",{part.strip()}"
        elif equals:
            raise UsageError(f"--sweep: key {key!r} is not known; keys are {', '.join(KEYS)}")
        else:
            raise UsageError(f"--sweep {part!r}: write KEY=VALUE|VALUE,...; keys are {', '.join(KEYS)}")
    return found


def _numbers(key: str, text: str, most: int) -> tuple[int, ...]:
    """Return the whole numbers that values and ranges speak of, ascending."""
    found: set[int] = set()
    for part in text.split("|"):
        match = _RANGE.fullmatch(part.strip())
        low, high, times, step = match.groups() if match else ("0", None, None, None)
        first, last, by = int(low), int(high or low), float(step or 1)
        if not 1 <= first <= last <= most or (by <= 1 if times else by < 1 or by % 1):
            raise UsageError(
                f"--sweep {key}={part.strip()}: write whole numbers from 1 to {most:,}, or ranges such as "
                "1:8, 1:64:x2 or 512:2048:512"
            )
        if times:
            count = int(np.log(last / first) / np.log(by) + 1e-9) + 1
            found.update(round(first * by**power) for power in range(count))
        elif (last - first) / by < MOST_CELLS:
            found.update(range(first, last + 1, int(by)))
        else:
            raise UsageError(f"--sweep {key}={part.strip()}: more than {MOST_CELLS:,} numbers")
    return tuple(sorted(found))

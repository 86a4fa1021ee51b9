"""The grid of a sweep: which batches and lengths, of which stage, in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from kvpred.data.grids import read_grid_file
from kvpred.data.sites import farthest_first
from kvpred.errors import UsageError

STAGES = ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class Site:
    """One point of a grid.

    Parameters
    ----------
    stage : {"prefill", "decode"}
    bsz : int
        Sequences.
    length : int
        Tokens of the prompt, or tokens in the cache before the decode step, of each sequence.
    """

    stage: str
    bsz: int
    length: int

    @property
    def num_tokens(self) -> int:
        """Tokens that pass the layers in one step."""
        return self.bsz * (self.length if self.stage == "prefill" else 1)


class StageGrid(BaseModel):
    """Batches and lengths of one stage, every one with every other.

    Parameters
    ----------
    bsz : list of int
    length : list of int
    max_tokens : int, optional
        Most tokens that a batch may pass (prefill) or hold (decode); larger combinations are left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    bsz: list[int] = Field(min_length=1)
    length: list[int] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> StageGrid:
        for name, values, high in (("bsz", self.bsz, 4096), ("length", self.length, 10**6)):
            wrong = [value for value in values if not 1 <= value <= high]
            if wrong:
                raise ValueError(f"{name}: {wrong[0]} must be from 1 to {high:,}")
        return self

    def sites(self, stage: str) -> list[Site]:
        """Return the stage's sites, each once."""
        most = self.max_tokens or np.inf
        pairs = product(dict.fromkeys(self.bsz), dict.fromkeys(self.length))
        return [Site(stage, bsz, length) for bsz, length in pairs if bsz * length <= most]


class Grid(BaseModel):
    """What a sweep measures, and how often.

    Parameters
    ----------
    prefill, decode : StageGrid or None
        A stage that is not named is not measured.
    rounds : int
        Visits of every site, spread over the sweep: a machine's speed drifts by more than neighbouring
        repeats differ, and only distant ones show it.
    repeats : int
        Runs of a site in a round with hooks, and as many without, in turns.
    steps : int
        Decode steps in each of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prefill: StageGrid | None = None
    decode: StageGrid | None = None
    rounds: int = Field(default=2, ge=1, le=100)
    repeats: int = Field(default=2, ge=2, le=100)
    steps: int = Field(default=4, ge=2, le=1000)

    @model_validator(mode="after")
    def _check(self) -> Grid:
        if not self.sites():
            raise ValueError("no site: name [prefill] or [decode] with bsz and length")
        return self

    def sites(self) -> list[Site]:
        """Return all sites, prefill first."""
        stages = ((stage, getattr(self, stage)) for stage in STAGES)
        return [site for stage, grid in stages if grid for site in grid.sites(stage)]


# Decode lengths are multiples of KIVI's residual length and stay off 128 and 512 tokens, where methods begin
# to quantise or to evict: repeats there would straddle both regimes.
GRIDS: Mapping[str, Grid] = {
    "smoke": Grid(
        prefill=StageGrid(bsz=[1, 2], length=[128, 512], max_tokens=512),
        decode=StageGrid(bsz=[1, 4], length=[256, 1024]),
        steps=3,
    ),
    "default": Grid(
        prefill=StageGrid(bsz=[1, 2, 4], length=[128, 256, 640, 1024, 2048], max_tokens=2048),
        decode=StageGrid(bsz=[1, 2, 4, 8], length=[256, 640, 1024, 2048, 4096], max_tokens=16384),
    ),
    "full": Grid(
        prefill=StageGrid(
            bsz=[1, 2, 4, 8, 16], length=[64, 128, 256, 512, 1024, 2048, 4096], max_tokens=16384
        ),
        decode=StageGrid(
            bsz=[1, 2, 4, 8, 16, 32, 64],
            length=[256, 640, 1024, 2048, 4096, 8192, 16384],
            max_tokens=2**18,
        ),
        rounds=3,
        steps=6,
    ),
}


def get_grid(name: str) -> Grid:
    """Return a grid by its name, or read it from a TOML file.

    Parameters
    ----------
    name : str
        ``smoke``, ``default``, ``full``, or a file such as

        .. code-block:: toml

            repeats = 4
            [decode]
            bsz = [1, 8]
            length = [512, 4096]

    Raises
    ------
    UsageError
        If there is no such grid.
    DataError
        If the file is no grid.

    Examples
    --------
    >>> len(get_grid("smoke").sites())
    7
    """
    if name in GRIDS:
        return GRIDS[name]
    path = Path(name)
    if path.suffix != ".toml":
        raise UsageError(f"grid {name!r} is not known: use {', '.join(GRIDS)} or a TOML file.")
    return read_grid_file(path, Grid)


def spread(sites: Sequence[Site]) -> list[Site]:
    """Order sites so that any first few of them teach the most: corners first, then the emptiest region.

    Each next site is the one farthest, in octaves of batch and length, from those of its stage that come
    before it (farthest-point design); stages take turns.

    Parameters
    ----------
    sites : sequence of Site

    Examples
    --------
    >>> spread([Site("decode", 1, n) for n in (128, 256, 512)])[0].length
    512
    """
    queues = [_farthest_first([site for site in sites if site.stage == stage]) for stage in STAGES]
    longest = max(map(len, queues))
    return [queue[i] for i in range(longest) for queue in queues if i < len(queue)]


def _farthest_first(sites: Sequence[Site]) -> list[Site]:
    if not sites:
        return []
    places = np.log2([(site.bsz, site.length) for site in sites])
    return [sites[i] for i in farthest_first(places, first=int(places.sum(axis=1).argmax()))]

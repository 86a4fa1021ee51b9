"""What is measured of an engine: its methods and their sites, in the order of their runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvpred.data.sites import RunSite
from kvpred.engines.base import Engine, Target
from kvpred.methods import Method, get_method


def what_runs(engine: type[Engine], target: Target, device: str, host: str) -> dict[str, Any]:
    """Return what a measurement says of the engine and its target: no two of its runs may differ in it."""
    return {
        "engine": engine.name,
        "model": target.model.name,
        "weights": target.weights.name if target.weights else None,
        "device": device,
        "host": host,
        "dtype": target.dtype,
        "options": dict(target.options),
    }


@dataclass(frozen=True, slots=True)
class MeasurePlan:
    """What is measured, on what.

    Parameters
    ----------
    engine : type of Engine
    target : Target
        Sized for the largest site.
    sites : mapping of str to sequence of RunSite
        By full method string, fp16 first.
    repeats : int
        Rounds; each visits every site once.
    device, host : str
        kvpred's name of the device, and the processor's or card's own.
    """

    engine: type[Engine]
    target: Target
    sites: Mapping[str, Sequence[RunSite]]
    repeats: int
    device: str
    host: str

    def header(self) -> dict[str, Any]:
        """Return what must not change while runs are added: all but methods, sites and repeats."""
        return {**what_runs(self.engine, self.target, self.device, self.host), "seed": self.target.seed}

    def visits(self) -> list[Visit]:
        """Return all runs in their order: rounds, in them sites, at each all methods that have it.

        Every round begins with another method, so that none always comes first.
        """
        methods = [get_method(spec) for spec in self.sites]
        order = dict.fromkeys(site for sites in self.sites.values() for site in sites)
        found = []
        for repeat in range(self.repeats):
            turn = repeat % len(methods)
            turned = [*methods[turn:], *methods[:turn]]
            for site in order:
                found += [Visit(m, site, repeat) for m in turned if site in self.sites[m.spec]]
        return found


@dataclass(frozen=True, slots=True)
class Visit:
    """One run to make."""

    method: Method
    site: RunSite
    repeat: int

    @property
    def key(self) -> tuple[str, int, int, int, int]:
        """What names it in the journal."""
        return (self.method.spec, self.site.bsz, self.site.prompt_len, self.site.output_len, self.repeat)

    @property
    def tokens(self) -> int:
        """Tokens that pass the model, one of decoding counting as four of a prompt."""
        return self.site.bsz * (self.site.prompt_len + 4 * self.site.output_len)

"""Serve requests that come over time: each method under each load, part by part, every run on disk."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kvpred.data.files import remove_drafts, write_text
from kvpred.data.journal import Journal, Progress
from kvpred.data.requests import COLUMNS, Counts, Floats, ServedRequests, write_requests
from kvpred.engines.base import Arrival, Engine, Target
from kvpred.engines.load import BUSY_SHARE, OtherLoad
from kvpred.engines.plan import what_runs
from kvpred.engines.start import begin, started
from kvpred.engines.watch import now
from kvpred.errors import DataError
from kvpred.methods import get_method

JOURNAL, REQUESTS, MANIFEST = FILES = ("traffic.jsonl", "requests.csv", "manifest.json")
# Requests that an engine answers before it is timed, all at once.
_WARM_UP = 4
_COLUMNS = COLUMNS[2:]


@dataclass(frozen=True, slots=True)
class TrafficPlan:
    """What is served, on what.

    Parameters
    ----------
    engine : type of Engine
    target : Target
        Sized for all that may be in service at once.
    methods : tuple of str
        Full method strings, fp16 first.
    loads : mapping of str to sequence of tuple of Arrival
        The same requests at each load, by its name: in as many parts as there are rounds, each of which
        begins with an idle engine.
    output_cap : int
        Longer answers end there.
    device, host : str
        kvpred's name of the device, and the processor's own.
    """

    engine: type[Engine]
    target: Target
    methods: tuple[str, ...]
    loads: Mapping[str, Sequence[tuple[Arrival, ...]]]
    output_cap: int
    device: str
    host: str

    def header(self) -> dict[str, Any]:
        """Return what must not change while runs are added."""
        return {
            **what_runs(self.engine, self.target, self.device, self.host),
            "max_bsz": self.target.max_bsz,
            "max_tokens": self.target.max_tokens,
            "output_cap": self.output_cap,
            "loads": {
                name: [
                    {
                        "requests": len(part),
                        "last_at_s": part[-1].at_s,
                        "output_tokens": sum(one.output_len for one in part),
                    }
                    for part in parts
                ]
                for name, parts in self.loads.items()
            },
        }

    def visits(self) -> list[tuple[int, str, str]]:
        """Return all runs in their order: rounds, in them loads, in each all methods.

        A round serves one part of the requests, so that what drifts on the host meets all methods alike.
        Every load of every round begins with another method, so that none always comes first.
        """
        found = []
        for round_ in range(max(map(len, self.loads.values()))):
            for place, load in enumerate(self.loads):
                turn = (round_ + place) % len(self.methods)
                turned = (*self.methods[turn:], *self.methods[:turn])
                found += [(round_, load, method) for method in turned]
        return found


@dataclass(slots=True)
class Traffic:
    """The state of a measurement between two runs.

    Parameters
    ----------
    plan : TrafficPlan
    output : Path
        Folder of the journal, the requests' table and the manifest.

    Raises
    ------
    UsageError
        If the folder holds another measurement, or is none.
    DataError
        If its journal was damaged.
    """

    plan: TrafficPlan
    output: Path
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        self.journal = Journal(self.output, self.plan.header(), file=JOURNAL)
        for row, line in enumerate(self.journal.points, start=2):
            if "requests" in line and line["requests"].keys() != set(_COLUMNS):
                raise DataError(
                    "a run without its columns: the journal was damaged", path=self.output / JOURNAL, row=row
                )

    def todo(self) -> list[tuple[int, str, str]]:
        """Return the runs that are left, in their order."""
        done = {(line["round"], line["load"], line["method"]) for line in self._runs()}
        return [visit for visit in self.plan.visits() if visit not in done]

    def run(
        self, *, budget_s: float | None = None, progress: Callable[[Progress], None] = lambda _: None
    ) -> dict[tuple[str, str], ServedRequests]:
        """Make the runs that are left; the tables are written anew after every one.

        Parameters
        ----------
        budget_s : float, optional
            No run starts that is not expected to end within this time.
        progress : callable

        Returns
        -------
        dict of (str, str) to ServedRequests
            By ``<load>/<round>`` and full method string.

        Raises
        ------
        EngineError
            If an engine fails, or a method is not what it says; the runs before stay.
        """
        for name in FILES:
            remove_drafts(self.output / name)
        end = math.inf if budget_s is None else time.monotonic() + budget_s
        todo, total = self.todo(), len(self.plan.visits())
        if not todo:
            return self.write()

        def tell(text: str, left_s: float = math.nan) -> None:
            progress(Progress(total - len(self.todo()), total, left_s, text))

        with started(self.plan.engine, self.plan.target, self.plan.methods, tell) as engines:
            begin(self.journal, self.plan.engine, self.plan.target, engines, tell)
            for spec, engine in engines.items():
                tell(f"warming up {get_method(spec).name}")
                engine.serve(get_method(spec), self._first(_WARM_UP))
            load = OtherLoad()
            for i, (round_, name, spec) in enumerate(todo):
                expected_s = [self._expected_s(visit) for visit in todo[i:]]
                if time.monotonic() + expected_s[0] > end:
                    break
                left_s = min(sum(expected_s), end - time.monotonic())
                tell(f"{get_method(spec).name} at {name}, round {round_ + 1}", left_s)
                load.start()
                began = time.monotonic()
                served = engines[spec].serve(get_method(spec), self.plan.loads[name][round_])
                self.journal.add(self._line(round_, name, spec, served, load, time.monotonic() - began))
                self.write()
        return self.write()

    def write(self) -> dict[tuple[str, str], ServedRequests]:
        """Write the requests' table and the manifest; return the runs."""
        runs = {
            (f"{line['load']}/{line['round'] + 1}", line["method"]): _served(line) for line in self._runs()
        }
        if runs:
            write_requests(self.output / REQUESTS, runs)
            write_text(self.output / MANIFEST, self._manifest())
        return runs

    def _runs(self) -> list[dict[str, Any]]:
        return [line for line in self.journal.points if "requests" in line]

    def _first(self, n: int) -> list[Arrival]:
        some = next(iter(self.plan.loads.values()))[0][:n]
        return [Arrival(one.id, 0.0, one.prompt, one.output_len) for one in some]

    def _expected_s(self, visit: tuple[int, str, str]) -> float:
        """Return what the run took in another round, or under another method; else its last arrival."""
        took = [line["took_s"] for line in self._runs() if line["load"] == visit[1]]
        return float(np.median(took)) if took else self.plan.loads[visit[1]][visit[0]][-1].at_s

    def _line(
        self, round_: int, load: str, spec: str, served: ServedRequests, others: OtherLoad, took_s: float
    ) -> dict[str, Any]:
        busy = others.cores_busy()
        columns = {"id": list(served.ids)} | {
            name: [None if np.isnan(value) else round(value, 6) for value in getattr(served, name).tolist()]
            for name in _COLUMNS[1:]
        }
        return {
            "round": round_,
            "load": load,
            "method": spec,
            "requests": columns,
            "other_cores_busy": round(busy, 3),
            "mark": "busy host" if busy > BUSY_SHARE * others.cores else None,
            "took_s": round(took_s, 3),
            "at": now(),
        }

    def _manifest(self) -> str:
        starts = [line for line in self.journal.points if "versions" in line]
        runs = [
            {
                name: line[name]
                for name in ("round", "load", "method", "other_cores_busy", "mark", "took_s", "at")
            }
            for line in self._runs()
        ]
        proofs = {line["proof"]["method"]: line["proof"] for line in self.journal.points if "proof" in line}
        manifest = {
            **self.plan.header(),
            "versions": starts[-1]["versions"] if starts else {},
            "settings": {spec: value for line in starts for spec, value in line["settings"].items()},
            "proofs": list(proofs.values()),
            "runs": runs,
        }
        return json.dumps(manifest, indent=1) + "\n"


def _served(line: Mapping[str, Any]) -> ServedRequests:
    columns: Mapping[str, Sequence[Any]] = line["requests"]

    def floats(name: str) -> Floats:
        return np.array(columns[name], dtype=np.float64)

    def counts(name: str) -> Counts:
        return np.array(columns[name], dtype=np.int64)

    return ServedRequests(
        ids=tuple(columns["id"]),
        arrived_at_s=floats("arrived_at_s"),
        first_token_at_s=floats("first_token_at_s"),
        completed_at_s=floats("completed_at_s"),
        prompt_tokens=counts("prompt_tokens"),
        output_tokens=counts("output_tokens"),
        restarts=counts("restarts"),
        device_s=floats("device_s"),
    )

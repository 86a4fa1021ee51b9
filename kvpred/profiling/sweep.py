"""A sweep: every method at every site of a grid, resumable, in the order that teaches most first."""

from __future__ import annotations

import math
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers

from kvpred._version import __version__
from kvpred.caches.cache import check_model
from kvpred.data.files import remove_drafts
from kvpred.data.journal import FILE, Journal, Progress
from kvpred.data.profiles import Manifest
from kvpred.data.store import COMPUTE, write_profile
from kvpred.errors import UsageError
from kvpred.methods import Method
from kvpred.models import ModelSpec
from kvpred.profiling.clocks import clock_of
from kvpred.profiling.expectation import expected_s, needed_bytes
from kvpred.profiling.grid import Grid, Site, spread
from kvpred.profiling.reference import Reference
from kvpred.profiling.stack import Stack
from kvpred.profiling.tables import Point, make_profile
from kvpred.profiling.timing import Timing, pooled, time_point

ENGINE = "transformers"
DRIFT = 1.25
"""A point is measured again, once, when the reference took this many times its usual time after it."""

MEMORY_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What is measured, on what, and how.

    Parameters
    ----------
    model : ModelSpec
    methods : sequence of Method
        In this order at every site.
    grid : Grid
    device : str
        torch's name: ``cpu`` or ``cuda:0``.
    device_name : str
        kvpred's name, which the profile is filed under.
    host : str
        The processor's or card's own name.
    memory_bytes : int
        Of the device.
    dtype : str
        ``bfloat16``, ``float16`` or ``float32``: of weights and uncompressed cache.
    n_layers : int
        Layers of the stack.
    weights : str
        ``random``, or the file that they come from.
    seed : int
    """

    model: ModelSpec
    methods: Sequence[Method]
    grid: Grid
    device: str
    device_name: str
    host: str
    memory_bytes: int
    dtype: str = "bfloat16"
    n_layers: int = 1
    weights: str = "random"
    seed: int = 0

    def check(self) -> None:
        """Raise `UsageError` if a method has no cache here or does not suit the model."""
        for method in self.methods:
            check_model(method, self.model)

    def header(self) -> dict[str, Any]:
        """Return what must not change while points are added: all but the methods."""
        # The shape alone: the same config.json may lie elsewhere tomorrow.
        shape = {name: value for name, value in asdict(self.model).items() if name not in ("hf_id", "source")}
        return {
            "model": shape,
            "n_layers": self.n_layers,
            "weights": self.weights,
            "device": self.device_name,
            "host": self.host,
            "dtype": self.dtype,
            "threads": torch.get_num_threads(),
            "grid": self.grid.model_dump(),
            "seed": self.seed,
            "versions": versions(),
        }

    def points(self) -> list[tuple[Site, Method]]:
        """Return all points: at each site all methods, so that what is compared is measured close in time."""
        return list(product(spread(self.grid.sites()), self.methods))

    def visits(self) -> list[tuple[Site, Method]]:
        """Return the points as often as they are visited: all once before any is visited again."""
        return self.points() * self.grid.rounds


@dataclass(frozen=True, slots=True)
class PlannedPoint:
    """A point as ``--dry-run`` lists it."""

    method: str
    stage: str
    bsz: int
    length: int
    memory_bytes: int
    fits: bool
    done: bool
    expected_s: float


@dataclass(slots=True)
class Sweep:
    """The state of a sweep between two points.

    Parameters
    ----------
    plan : SweepPlan
    output : Path
        Root of the profiles; the journal lies there too.
    """

    plan: SweepPlan
    output: Path
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        self.plan.check()
        if (self.output / COMPUTE).exists() and not (self.output / FILE).exists():
            raise UsageError(f"{self.output} holds profiles of no sweep: choose another --output.")
        self.journal = Journal(self.output, self.plan.header())

    def listing(self) -> list[PlannedPoint]:
        """List the points with their memory and expected time, without measuring any."""
        done = self._done()
        points = self.plan.points()
        return [
            PlannedPoint(
                method=method.spec,
                stage=site.stage,
                bsz=site.bsz,
                length=site.length,
                memory_bytes=self._needed(site, method),
                fits=self._fits(site, method),
                done=done[_key(site, method)] >= self.plan.grid.rounds,
                expected_s=self.plan.grid.rounds * seconds,
            )
            for (site, method), seconds in zip(points, self._remaining_s(points), strict=True)
        ]

    def run(
        self,
        make_stack: Callable[[], Stack],
        *,
        budget_s: float | None = None,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> list[Path]:
        """Measure what is not yet measured, and write the profiles after every point.

        Parameters
        ----------
        make_stack : callable
            Makes the stack; called only if a point is left.
        budget_s : float, optional
            No point starts that is not expected to end within this time.
        progress : callable

        Returns
        -------
        list of Path
            The profiles' folders.
        """
        for name in (FILE, COMPUTE):
            remove_drafts(self.output / name)
        end = math.inf if budget_s is None else time.monotonic() + budget_s
        todo = self._todo()
        if todo:
            watch = _Watch(self, make_stack)
        total = len(self.plan.visits())
        for i, (site, method) in enumerate(todo):
            left = self._remaining_s(todo[i:])
            if time.monotonic() + left[0] > end:
                continue
            name = f"{method.name} {site.stage} {site.bsz} x {site.length:,}"
            remaining = min(sum(left), end - time.monotonic())
            progress(Progress(total - len(todo) + i, total, remaining, name))
            self.journal.add(watch.measure(site, method))
            self._write(method)
        return [folder for method in self.plan.methods if (folder := self._write(method))]

    def _todo(self) -> list[tuple[Site, Method]]:
        done, asked = self._done(), Counter[tuple[Any, ...]]()
        todo = []
        for site, method in self.plan.visits():
            key = _key(site, method)
            asked[key] += 1
            if asked[key] > done[key]:
                todo.append((site, method))
        return todo

    def _remaining_s(self, todo: Sequence[tuple[Site, Method]]) -> list[float]:
        """Return the seconds that each point is expected to take, at the pace of those measured."""
        pace, roofline = self._pace(), self._roofline()
        return [pace * self._expected(site, method, roofline) for site, method in todo]

    def _write(self, method: Method) -> Path | None:
        """Write a method's profile, if any of its points was timed."""
        plan, points = self.plan, self._points_of(method)
        if all(point.timing is None for point in points):
            return None
        done = self._done()
        finished = all(done[_key(site, method)] >= plan.grid.rounds for site in plan.grid.sites())
        manifest = Manifest(
            model=plan.model.name,
            device=plan.device_name,
            method=method.name,
            method_params=method.spec,
            engine=ENGINE,
            driver=torch.version.cuda,
            versions=versions(),
            dtype=plan.dtype,
            seed=plan.seed,
            repeats=plan.grid.repeats * plan.grid.rounds,
            n_layers=plan.n_layers,
            weights=plan.weights,
            threads=torch.get_num_threads(),
            host=plan.host,
            roofline=dict(self._roofline()),
            cache_state="cold",
            status="finished" if finished else "partial",
        )
        return write_profile(self.output, make_profile(points, model=plan.model, manifest=manifest))

    def _points_of(self, method: Method) -> list[Point]:
        """Return a method's points, the repeats of all visits pooled."""
        visits: dict[tuple[Any, ...], list[Timing]] = {}
        for point in self.journal.points:
            if "timing" in point:
                timings = visits.setdefault(_point_key(point), [])
                timings += [Timing(**point["timing"])] if point["timing"] else []
        sites = {_key(site, method): site for site in self.plan.grid.sites()}
        return [Point(sites[key], pooled(timings)) for key, timings in visits.items() if key in sites]

    def _done(self) -> Counter[tuple[Any, ...]]:
        """Count each point's visits so far."""
        return Counter(_point_key(point) for point in self.journal.points if "timing" in point)

    def _roofline(self) -> Mapping[str, float]:
        """Return the roofline measured at the sweep's start; that of a small server before."""
        found = (point["roofline"] for point in self.journal.points if "roofline" in point)
        return next(found, {"bytes_s": 1e10, "flops_s": 1e11})

    def _pace(self) -> float:
        """Return how many times longer than expected the points so far took."""
        roofline = self._roofline()
        by_key = {_key(site, method): (site, method) for site, method in self.plan.points()}
        ratios = [
            point["took_s"] / self._expected(*by_key[key], roofline)
            for point in self.journal.points
            if point.get("timing") and (key := _point_key(point)) in by_key
        ]
        return median(ratios) if ratios else 1.0

    def _expected(self, site: Site, method: Method, roofline: Mapping[str, float]) -> float:
        plan = self.plan
        return expected_s(method, plan.model, site, n_layers=plan.n_layers, grid=plan.grid, roofline=roofline)

    def _needed(self, site: Site, method: Method) -> int:
        return needed_bytes(method, self.plan.model, site, n_layers=self.plan.n_layers)

    def _fits(self, site: Site, method: Method) -> bool:
        return self._needed(site, method) <= MEMORY_SHARE * self.plan.memory_bytes


class _Watch:
    """Measures points, and a reference between them that tells when the machine itself got slower."""

    def __init__(self, sweep: Sweep, make_stack: Callable[[], Stack]) -> None:
        self._sweep = sweep
        self._stack = make_stack()
        self._clock = clock_of(self._stack.device)
        self._reference = Reference.on(self._stack.device, dtype=self._stack.dtype, clock=self._clock)
        if not any("roofline" in point for point in sweep.journal.points):
            sweep.journal.add({"roofline": self._reference.roofline()})
        self._usual = [self._reference.seconds()]

    def measure(self, site: Site, method: Method) -> dict[str, Any]:
        """Return a point's line of the journal."""
        begin = time.monotonic()
        point: dict[str, Any] = {"method": method.spec, **asdict(site), "timing": None, "retried": False}
        if self._sweep._fits(site, method):
            timing = self._timed(site, method)
            drift = self._drift()
            if timing is not None and drift > DRIFT:
                timing, drift = self._timed(site, method), self._drift()
                point["retried"] = True
            point |= {"timing": asdict(timing) if timing else None, "drift": round(drift, 3)}
        return point | {
            "load": round(os.getloadavg()[0], 2),
            "took_s": round(time.monotonic() - begin, 3),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _timed(self, site: Site, method: Method) -> Timing | None:
        """Measure, or return None if the memory does not suffice after all."""
        try:
            return time_point(self._stack, method, site, grid=self._sweep.plan.grid, clock=self._clock)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
        # Beyond the except clause, so that the failed step's tensors are no longer held by its traceback.
        if self._stack.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _drift(self) -> float:
        """Return how many times longer than usual the reference takes now, both parts weighing the same."""
        read, product = self._reference.seconds()
        self._usual.append((read, product))
        usual = [median(times) for times in zip(*self._usual, strict=True)]
        return math.sqrt((read / usual[0]) * (product / usual[1]))


def versions() -> dict[str, str]:
    """Return the versions that a measurement depends on."""
    return {
        "kvpred": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def _key(site: Site, method: Method) -> tuple[Any, ...]:
    return (method.spec, site.stage, site.bsz, site.length)


def _point_key(point: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(point.get(name) for name in ("method", "stage", "bsz", "length"))

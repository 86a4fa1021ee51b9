"""Measure an engine: all methods at each site, interleaved, in rounds, every run on disk before the next."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from kvpred.data.files import remove_drafts, write_text
from kvpred.data.journal import Journal, Progress
from kvpred.data.runs import Run, write_runs
from kvpred.engines.base import EngineError, listed_versions
from kvpred.engines.plan import MeasurePlan, Visit
from kvpred.engines.start import begin, started
from kvpred.engines.watch import Watch
from kvpred.errors import DataError

JOURNAL, RUNS, MANIFEST = FILES = ("measure.jsonl", "runs.csv", "manifest.json")


_RUN_LINE = {
    "method", "bsz", "prompt_len", "output_len", "repeat", "drift", "other_cores_busy", "mark", "tokens",
    "took_s", "at",
}  # fmt: skip
_RUN = {"prefill_time_s", "tpot_s", "e2e_s", "peak_memory_bytes"}
MOST_FAILURES = 3
"""Sites that may fail, each for itself, before a measurement gives up."""


@dataclass(slots=True)
class Measurement:
    """The state of a measurement between two runs.

    Parameters
    ----------
    plan : MeasurePlan
    output : Path
        Folder of the journal, the runs table and the manifest.

    Raises
    ------
    UsageError
        If the folder holds another measurement, or is none.
    DataError
        If its journal was damaged.
    """

    plan: MeasurePlan
    output: Path
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        self.journal = Journal(self.output, self.plan.header(), file=JOURNAL)
        for row, line in enumerate(self.journal.points, start=2):
            if "run" in line and not (line.keys() >= _RUN_LINE and line["run"].keys() >= _RUN):
                lacking = sorted((_RUN_LINE - line.keys()) | (_RUN - line["run"].keys()))
                raise DataError(
                    f"a run without {', '.join(lacking)}: the journal was damaged",
                    path=self.output / JOURNAL,
                    row=row,
                )

    def todo(self) -> list[Visit]:
        """Return the runs that are left, in their order."""
        done = {_key(line) for line in self.journal.points if "run" in line}
        return [visit for visit in self.plan.visits() if visit.key not in done]

    def expected_s(self, visits: Sequence[Visit]) -> list[float]:
        """Return the seconds that each run is expected to take, at the pace of those made."""
        took = [(line["took_s"], line["tokens"], _key(line)) for line in self.journal.points if "run" in line]
        pace = median(seconds / tokens for seconds, tokens, _ in took) if took else 1e-3
        known: defaultdict[tuple[Any, ...], list[float]] = defaultdict(list)
        for seconds, _, key in took:
            known[key[:-1]].append(seconds)
        return [
            median(known[visit.key[:-1]]) if visit.key[:-1] in known else pace * visit.tokens
            for visit in visits
        ]

    def run(
        self,
        *,
        budget_s: float | None = None,
        least_rounds: int = 0,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> list[Run]:
        """Make the runs that are left; the tables are written anew after every site.

        Parameters
        ----------
        budget_s : float, optional
            No run starts that is not expected to end within this time.
        least_rounds : int
            Rounds that are made even so.
        progress : callable

        Returns
        -------
        list of Run
            All of the folder.

        Raises
        ------
        EngineError
            If an engine fails, or a method is not what it says; the runs before stay.
        """
        for name in FILES:
            remove_drafts(self.output / name)
        end = math.inf if budget_s is None else time.monotonic() + budget_s
        todo = self.todo()
        if not todo:
            return self.write()
        total = len(self.plan.visits())

        def tell(text: str) -> None:
            progress(Progress(total - len(todo), total, math.nan, text))

        with started(self.plan.engine, self.plan.target, list(self.plan.sites), tell) as engines:
            begin(self.journal, self.plan.engine, self.plan.target, engines, tell)
            usual_s = [line["reference_s"] for line in self.journal.points if "reference_s" in line]
            watch = Watch(self.plan, engines, usual_s=usual_s)
            failures: dict[tuple[Any, ...], EngineError] = {}
            for i, visit in enumerate(todo):
                left = self.expected_s(todo[i:])
                late = visit.repeat >= least_rounds and time.monotonic() + left[0] > end
                if late or visit.key[:-1] in failures:
                    continue
                text = f"{visit.method.name} {visit.site}, round {visit.repeat + 1}"
                progress(Progress(total - len(todo) + i, total, min(sum(left), end - time.monotonic()), text))
                try:
                    self.journal.add(watch.measure(visit))
                except EngineError as error:
                    failures[visit.key[:-1]] = error
                    if len(failures) == MOST_FAILURES:
                        break
                if i + 1 == len(todo) or todo[i + 1].site != visit.site:
                    self.write()
        runs = self.write()
        if failures:
            sites = ", ".join(f"{method} at {bsz} x {length:,}" for method, bsz, length, _ in failures)
            raise EngineError(
                f"{sites} failed: {next(iter(failures.values()))} The other runs are in {self.output}; leave "
                "out what cannot be served, or repeat the call to try again."
            )
        return runs

    def write(self) -> list[Run]:
        """Write the runs table and the manifest; return the runs."""
        runs = self.runs()
        if runs:
            write_runs(self.output / RUNS, runs)
            write_text(self.output / MANIFEST, format_manifest(self.journal, self.plan.header()))
        return runs

    def runs(self) -> list[Run]:
        """Return the journal's runs, prefill and decode."""
        return [run for line in self.journal.points if "run" in line for run in self._stages(line)]

    def _stages(self, line: Mapping[str, Any]) -> Iterator[Run]:
        done, plan = line["run"], self.plan
        versions: dict[str, str] = next((p["versions"] for p in self.journal.points if "versions" in p), {})
        common = {
            "model": plan.target.model.name,
            "method": line["method"],
            "engine": plan.engine.name,
            "device": plan.device,
            "bsz": line["bsz"],
            "prompt_len": line["prompt_len"],
            "output_len": line["output_len"],
            "repeat": line["repeat"],
            "peak_memory_bytes": done["peak_memory_bytes"],
            "host": plan.host,
            "versions": listed_versions(versions) or None,
            "measured_at": line["at"],
            "mark": line["mark"],
        }
        bsz, prefill_s, e2e_s = line["bsz"], done["prefill_time_s"], done["e2e_s"]
        yield Run(
            **common,
            stage="prefill",
            throughput_tok_s=bsz * line["prompt_len"] / prefill_s,
            latency_s=prefill_s,
        )
        if done["tpot_s"] is not None:
            yield Run(
                **common,
                stage="decode",
                throughput_tok_s=bsz / done["tpot_s"],
                latency_s=max(e2e_s - prefill_s, 1e-9),
            )


def format_manifest(journal: Journal, header: Mapping[str, Any]) -> str:
    """Return what a folder of runs says of itself, as JSON text."""
    lines = journal.points
    runs = [line for line in lines if "run" in line]
    starts = [line for line in lines if "versions" in line]
    manifest = {
        **header,
        "versions": starts[-1]["versions"] if starts else {},
        "settings": {spec: value for line in starts for spec, value in line["settings"].items()},
        "proofs": list({p["proof"]["method"]: p["proof"] for p in lines if "proof" in p}.values()),
        "runs": len(runs),
        "marked": sum(line["mark"] is not None for line in runs),
        **{
            name: {"median": median(line[name] for line in runs), "max": max(line[name] for line in runs)}
            for name in ("drift", "other_cores_busy")
        },
        "began": runs[0]["at"],
        "ended": runs[-1]["at"],
    }
    return json.dumps(manifest, indent=1) + "\n"


def _key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(line[name] for name in ("method", "bsz", "prompt_len", "output_len", "repeat"))

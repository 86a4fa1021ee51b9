"""The whole analysis of negative samples on one core: 20 runs of 14 datasets with 200 samples each.

Scores are random. Timed: reading the files, counting each run's negative samples and those of all together
at 8 thresholds with intervals, and the tables.
"""

from __future__ import annotations

import os

# Before numpy is loaded: one thread.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import argparse
import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from kvpred.data.longbench import DATASETS
from kvpred.data.scores import read_score_runs, write_scores
from kvpred.evaluation.negatives import study_negatives
from kvpred.reports.negatives import negatives_sheets

RUNS, SAMPLES, TARGET_S = 20, 200, 5.0
THRESHOLDS = (0.01, 0.02, 0.04, 0.08, 0.1, 0.16, 0.24, 0.32)
BASELINE = "fp16"


def make_scores(folder: Path) -> None:
    """Write the baseline's scores, rounded as scores are, and those of runs that change a fifth of them."""
    rng = np.random.default_rng(0)
    for dataset in DATASETS:
        base = rng.random(SAMPLES).round(4)
        changed = {
            f"kivi_run{number}": np.where(rng.random(SAMPLES) < 0.2, rng.random(SAMPLES).round(4), base)
            for number in range(RUNS)
        }
        for run, scores in {BASELINE: base, **changed}.items():
            write_scores(
                folder, run, dataset, dict(zip(map(str, range(SAMPLES)), scores.tolist(), strict=True))
            )


def analyse(folder: Path) -> None:
    runs = read_score_runs(folder)
    baseline = runs.pop(BASELINE)
    groups = {**{name: [name] for name in runs}, "all": list(runs)}
    negatives_sheets(study_negatives(baseline, runs, groups=groups, thresholds=THRESHOLDS))


def timed(folder: Path) -> float:
    begin = time.perf_counter()
    analyse(folder)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    with TemporaryDirectory() as name:
        make_scores(Path(name))
        median_s = statistics.median(timed(Path(name)) for _ in range(arguments.repeats))
    print(
        f"{RUNS} runs of {len(DATASETS)} datasets with {SAMPLES} samples, {len(THRESHOLDS)} thresholds, "
        f"one core: {median_s:.2f} s (target {TARGET_S:g} s)"
    )
    if arguments.json:
        found = {
            "runs": RUNS,
            "datasets": len(DATASETS),
            "samples": SAMPLES,
            "thresholds": len(THRESHOLDS),
            "median_s": median_s,
            "target_s": TARGET_S,
        }
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

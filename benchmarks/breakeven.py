"""A break-even map of 200 x 200 cells for every method on one core, beside a stated numpy baseline.

Every quantity of every cell is computed: ratios to fp16 with their intervals, batches, what fits, verdicts.
The baseline is what a copy of the bare formula would cost: the fitted times of both stages of fp16 and of
each method for as many cells, written out in numpy, without intervals, memory, lengths of answers or checks.
"""

from __future__ import annotations

import os

# Before numpy is loaded: one thread.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import kvpred
from kvpred.methods import list_methods
from kvpred.predictors import bundle
from kvpred.predictors.breakeven import break_even
from kvpred.predictors.breakeven_map import BATCHES, QUANTITIES, Grid
from kvpred.predictors.predictor import Predictor

CELLS = 200
TARGET_S = 2.0
Floats = NDArray[np.float64]


def make_map(predictor: Predictor, grid: Grid, batches: str, methods: list[str]) -> None:
    found = break_even(
        predictor, grid, methods=methods, model="llama-2-7b", device="a6000", engine="lmdeploy",
        batches=[batches], price_per_hour=0.8,
    )  # fmt: skip
    for one in found.maps:
        for quantity in QUANTITIES:
            one.verdicts(quantity)


def bare_formula(grid: Grid, n_methods: int) -> list[Floats]:
    """Compute end-to-end times of each cell: fp16's coefficients, rounded, for every method."""
    bsz, prompt_len = grid.bsz[:, None], grid.prompt_len[None, :]
    times = []
    for _ in range(n_methods):
        tokens = bsz * prompt_len
        prefill_s = np.sqrt(0.05**2 + (1.7e-4 * tokens + 1.3e-8 * tokens * prompt_len) ** 2)
        decode_s = 0.03 + 1e-4 * bsz + 8.4e-7 * bsz * (prompt_len + 127)
        times.append(prefill_s + 255 * decode_s)
    return times


def median_s(function: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    methods = [method.name for method in list_methods() if method.name != "fp16"]
    lengths = np.unique(np.rint(np.geomspace(128, 16_384, CELLS)).astype(np.int64))
    grid = Grid("bsz", np.arange(1, CELLS + 1), lengths, np.array([256]))
    predictor = bundle.load(kvpred.PACKAGED)
    ours_s = {
        kind: median_s(lambda kind=kind: make_map(predictor, grid, kind, methods), arguments.repeats)
        for kind in BATCHES
    }
    bare_s = median_s(lambda: bare_formula(grid, len(methods) + 1), arguments.repeats)
    print(f"{grid.shape[0]} x {grid.shape[1]} cells for each of {len(methods)} methods, on one core:")
    for kind, seconds in ours_s.items():
        slower = seconds / bare_s
        print(f"  {kind:8} batches  {seconds:.2f} s (target {TARGET_S:g} s), {slower:.0f} x the bare formula")
    print(f"  bare formula      {bare_s:.3f} s")
    if arguments.json:
        found = {
            "cells": int(np.prod(grid.shape)),
            "methods": len(methods),
            "bare_s": bare_s,
            "target_s": TARGET_S,
        }
        found |= {f"{kind}_s": seconds for kind, seconds in ours_s.items()}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

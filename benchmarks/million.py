"""A million predictions on one core, beside a stated numpy baseline of the same size.

The requests are a million random ones, a tenth for each of ten methods; every field of the `Estimate` is
computed: times, intervals, memory, speed-ups. The baseline is what a copy of the bare formula would cost: the
fitted times of both stages for as many requests, written out in numpy, without intervals, memory or checks.
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

REQUESTS = 1_000_000
TARGET_S = 3.0
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def predict_all(requests: dict[str, tuple[Ints, Ints]]) -> None:
    for method, (bsz, prompt_len) in requests.items():
        kvpred.predict(method=method, bsz=bsz, prompt_len=prompt_len)


def bare_formula(requests: dict[str, tuple[Ints, Ints]]) -> list[tuple[Floats, Floats]]:
    """Compute fp16's prefill and decode times of each request: coefficients rounded, output_len 256."""
    times = []
    for bsz, prompt_len in requests.values():
        tokens = bsz * prompt_len
        prefill_s = np.sqrt(0.05**2 + (1.7e-4 * tokens + 1.3e-8 * tokens * prompt_len) ** 2)
        decode_s = 0.03 + 1e-4 * bsz + 8.4e-7 * bsz * (prompt_len + 127)
        times.append((prefill_s, decode_s))
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

    methods = [method.name for method in list_methods()]
    generator = np.random.default_rng(0)
    size = REQUESTS // len(methods)
    requests = {m: (generator.integers(1, 65, size), generator.integers(1, 8193, size)) for m in methods}
    predict_all({m: (bsz[:10], prompt_len[:10]) for m, (bsz, prompt_len) in requests.items()})

    ours_s = median_s(lambda: predict_all(requests), arguments.repeats)
    bare_s = median_s(lambda: bare_formula(requests), arguments.repeats)
    print(f"{size * len(methods):,} predictions, {size:,} of each of {len(methods)} methods, on one core:")
    print(f"  kvpred.predict  {ours_s:.2f} s (target {TARGET_S:g} s)")
    print(f"  bare formula    {bare_s:.3f} s, {ours_s / bare_s:.0f} times less")
    if arguments.json:
        found = {
            "predictions": size * len(methods),
            "seconds": ours_s,
            "bare_s": bare_s,
            "target_s": TARGET_S,
        }
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""A search for capacity on one core, beside one simulation of the same requests at the rate that it finds.

1,000 requests with log-normal lengths, 320 prompt and 203 output tokens on average, Poisson arrivals, go to
LLaMA-2-7B on an A6000 with at most 64 at once, under limits that latencies end and one that keeping up ends.
Far below what a replica can do at most, batches are small and a simulation has more steps: tight limits take
longest. The ratio tells how many simulations a search is worth. Seconds are the process's own CPU time and do
not hold the loading of Vidur.
"""

from __future__ import annotations

import os

# Before numpy is loaded: one thread.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import kvpred
from kvpred.data.arrivals import arrivals
from kvpred.data.limits import parse_limits
from kvpred.data.traces import Trace
from kvpred.hardware import get_device
from kvpred.methods import get_method
from kvpred.models import get_model
from kvpred.predictors.scaling import Place
from kvpred.simulation.capacity_task import CapacityTask, search
from kvpred.simulation.replica import replica_for
from kvpred.simulation.simulate import simulate

REQUESTS, TARGET_S = 1_000, 6.0
METHODS = ("fp16", "h2o")
LIMITS = ("ttft-p99=1s,tpot-p99=100ms", "e2e-p99=40s", "tpot-p99=1h")


def chat() -> Trace:
    rng = np.random.default_rng(0)
    prompts = np.clip(rng.lognormal(5.3, 1.0, REQUESTS), 4, 3000).astype(int)
    outputs = np.clip(rng.lognormal(5.0, 0.8, REQUESTS), 1, 1000).astype(int)
    drawn = arrivals("poisson", REQUESTS, qps=1.0, seed=0)
    return Trace(drawn, prompts, outputs, "chat", tuple(map(str, range(REQUESTS))))


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.process_time()
    found = function()
    return found, time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    trace, rows = chat(), []
    place = Place(get_model("llama-2-7b"), get_device("a6000"), 1)
    predictor = kvpred.load(kvpred.PACKAGED)
    simulate(trace.first(5), replica_for(predictor, get_method("fp16"), place, "lmdeploy"))
    print(f"{REQUESTS:,} requests, one core (target {TARGET_S:g} s for a search):")
    for method in METHODS:
        replica = replica_for(predictor, get_method(method), place, "lmdeploy")
        for limits in LIMITS:
            task = CapacityTask(trace, replica, parse_limits(limits))
            capacity, search_s = timed(lambda task=task: search(task).capacity)
            at = trace.at_qps(capacity.qps)
            _, once_s = timed(lambda at=at, replica=replica: simulate(at, replica))
            print(
                f"  {method:5} {limits:27} {search_s:5.2f} s, {len(capacity.probes)} rates, "
                f"{search_s / once_s:.1f} x one simulation of {once_s:.2f} s; "
                f"{capacity.qps:.2f} requests/s, bound by {capacity.binding}"
            )
            rows.append(
                {
                    "method": method,
                    "limits": limits,
                    "seconds": search_s,
                    "simulation_s": once_s,
                    "ratio": search_s / once_s,
                    "rates": len(capacity.probes),
                    "qps": capacity.qps,
                    "binding": capacity.binding,
                }
            )
    worst = max(row["seconds"] for row in rows)
    print(f"  slowest {worst:.2f} s: {'within' if worst <= TARGET_S else 'MISSES'} the target")
    if arguments.json:
        arguments.json.write_text(json.dumps({"target_s": TARGET_S, "searches": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()

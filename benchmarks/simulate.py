"""Simulated requests per second on one core, beside Vidur's own schedulers and a predictor that does nothing.

2,000 requests come at 3 per second (Poisson) with log-normal lengths, 320 prompt and 202 output tokens on
average, to LLaMA-2-7B on an A6000 with at most 64 at once, which is about what it can serve. Ours: kvpred's
step times of every step, and memory to the byte. Vidur's: the same requests through its scheduler of the same
name, in pages of 16-bit tokens, every step taking what ours takes on average. Seconds are the process's own
CPU time: other work on the machine does not count, but slows a core that it shares. The first run, which
loads Vidur, is left out.
"""

from __future__ import annotations

import os

# Before numpy is loaded: one thread.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import kvpred
from kvpred.data.traces import Trace
from kvpred.hardware import get_device
from kvpred.methods import get_method
from kvpred.models import get_model
from kvpred.predictors.scaling import Place
from kvpred.simulation.replica import SCHEDULERS, Replica, replica_for
from kvpred.simulation.simulate import simulate

REQUESTS, QPS, PAGE = 2_000, 3.0, 64
TARGET = 1_500.0


def chat() -> Trace:
    rng = np.random.default_rng(0)
    prompts = np.clip(rng.lognormal(5.3, 1.0, REQUESTS), 4, 3000).astype(int)
    outputs = np.clip(rng.lognormal(5.0, 0.8, REQUESTS), 1, 1000).astype(int)
    gaps = rng.exponential(1 / QPS, REQUESTS)
    gaps[0] = 0.0
    return Trace(np.cumsum(gaps), prompts, outputs, "chat", tuple(map(str, range(REQUESTS))))


def with_vidurs_own(trace: Trace, replica: Replica, step_s: float) -> Callable[[], object]:
    """Return a run of the same requests through Vidur's own scheduler, every step taking as long."""
    from vidur.config import (
        BaseExecutionTimePredictorConfig,
        BaseRequestGeneratorConfig,
        CacheConfig,
        ClusterConfig,
        LORGlobalSchedulerConfig,
        SarathiSchedulerConfig,
        VllmSchedulerConfig,
    )
    from vidur.entities import Request
    from vidur.execution_time_predictor import ExecutionTimePredictorRegistry
    from vidur.request_generator import RequestGeneratorRegistry
    from vidur.simulator import Simulator
    from vidur.types import BaseIntEnum

    from kvpred.simulation.vidur_plugins import NoMetricsConfig, QuietConfig, ServedModelConfig

    key = BaseIntEnum("key", {"CONSTANT": 3001, "LISTED": 3002})

    @dataclass
    class ConstantConfig(BaseExecutionTimePredictorConfig):
        @staticmethod
        def get_type() -> Any:
            return key["CONSTANT"]

    @dataclass
    class ListedConfig(BaseRequestGeneratorConfig):
        requests: list[Any] = field(default_factory=list)

        @staticmethod
        def get_type() -> Any:
            return key["LISTED"]

    @dataclass
    class Seconds:
        total_time: float = step_s
        model_time: float = step_s

    class Constant:
        def __init__(self, **_: Any) -> None:
            self.seconds = Seconds()

        def get_execution_time(self, batch: Any, stage: int) -> Seconds:
            return self.seconds

    class Listed:
        def __init__(self, config: ListedConfig) -> None:
            self.generate = lambda: config.requests

    for registry, name, plug_in in (
        (ExecutionTimePredictorRegistry, "CONSTANT", Constant),
        (RequestGeneratorRegistry, "LISTED", Listed),
    ):
        if key[name] in registry._registry:
            registry.unregister(key[name])
        registry.register(key[name], plug_in)
    columns = (trace.arrived_at_s.tolist(), trace.prompt_tokens.tolist(), trace.output_tokens.tolist())
    scheduler = (
        VllmSchedulerConfig(batch_size_cap=replica.max_bsz, max_tokens_in_batch=replica.max_batch_tokens)
        if replica.scheduler == "vllm"
        else SarathiSchedulerConfig(batch_size_cap=replica.max_bsz, chunk_size=replica.chunk_tokens)
    )
    pages = replica.budget.capacity_bytes // (PAGE * replica.place.model.kv_bytes_per_token())

    def run() -> None:
        config = QuietConfig(
            cluster_config=ClusterConfig(
                num_replicas=1,
                replica_config=ServedModelConfig(place=replica.place),
                cache_config=CacheConfig(block_size=PAGE, num_blocks=pages),
                global_scheduler_config=LORGlobalSchedulerConfig(),
                replica_scheduler_config=scheduler,
            ),
            request_generator_config=ListedConfig(
                requests=[Request(*row) for row in zip(*columns, strict=True)]
            ),
            execution_time_predictor_config=ConstantConfig(),
            metrics_config=NoMetricsConfig(write_metrics=False, enable_chrome_trace=False, store_plots=False),
        )
        Simulator(config).run()

    return run


def median_cpu_s(function: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
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

    trace, predictor = chat(), kvpred.load(kvpred.PACKAGED)
    place = Place(get_model("llama-2-7b"), get_device("a6000"))
    found = {}
    print(f"{REQUESTS:,} requests, {trace.output_tokens.mean():.0f} output tokens each, on one core:")
    for scheduler in SCHEDULERS:
        for method in ("fp16", "h2o", "kivi"):
            replica = replica_for(predictor, get_method(method), place, "lmdeploy", scheduler=scheduler)
            first = simulate(trace, replica)
            ours = REQUESTS / median_cpu_s(
                lambda replica=replica: simulate(trace, replica), arguments.repeats
            )
            found[f"{scheduler} {method}"] = ours
            said = f"  {scheduler:8}{method:6}{ours:8,.0f} requests/s (target {TARGET:,.0f})"
            if method == "fp16":
                step_s = float(first.served.device_s.sum()) / first.n_steps
                run = with_vidurs_own(trace, replica, step_s)
                own = REQUESTS / median_cpu_s(run, arguments.repeats)
                found[f"{scheduler} vidur"] = own
                said += f", {ours / own:.1f} times Vidur's own {own:,.0f}"
            print(said, flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"requests_per_s": found, "target": TARGET}, indent=2) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where Vidur would leave its files
        main()

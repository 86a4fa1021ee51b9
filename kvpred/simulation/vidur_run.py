"""One run of Vidur's simulator: its configuration filled with a replica, quiet and without files."""

from __future__ import annotations

import logging
import os

# Vidur imports wandb, which would otherwise look for an account.
os.environ.setdefault("WANDB_MODE", "disabled")

import numpy as np
from vidur.config import CacheConfig, ClusterConfig
from vidur.simulator import Simulator

from kvpred.data.traces import Trace
from kvpred.simulation import vidur_plugins as plugins
from kvpred.simulation.memory import Holding
from kvpred.simulation.replica import Replica
from kvpred.simulation.requests import TracedRequest

# Vidur logs every run to stdout.
logging.getLogger("vidur").setLevel(logging.WARNING)


def run(
    trace: Trace,
    replica: Replica,
    holdings: list[Holding],
    *,
    replicas: int,
    slower: tuple[float, float],
) -> tuple[list[TracedRequest], plugins.Ledger]:
    """Serve a trace whose requests fit, and return Vidur's requests and what the replicas did.

    Parameters
    ----------
    trace : Trace
    replica : Replica
    holdings : list of Holding
        What each request holds of the cache.
    replicas : int
    slower : (float, float)
        Factors on the times of steps with prompts, and of others.
    """
    ledger = plugins.Ledger()
    requests = [
        TracedRequest(*facts, replica.budget)
        for facts in zip(
            range(len(trace)),
            trace.arrived_at_s.tolist(),
            trace.prompt_tokens.tolist(),
            trace.output_tokens.tolist(),
            holdings,
            strict=True,
        )
    ]
    plugins.register()
    schedulers = {"vllm": plugins.PromptsFirstConfig, "sarathi": plugins.ChunkedConfig}
    config = plugins.QuietConfig(
        cluster_config=ClusterConfig(
            num_replicas=replicas,
            replica_config=plugins.ServedModelConfig(place=replica.place),
            # Bytes stand for blocks: see `CacheBudget`.
            cache_config=CacheConfig(block_size=1, num_blocks=replica.budget.capacity_bytes),
            global_scheduler_config=plugins.FewestRequestsConfig(),
            replica_scheduler_config=schedulers[replica.scheduler](
                batch_size_cap=replica.max_bsz,
                max_tokens_in_batch=replica.max_batch_tokens,
                chunk_size=replica.chunk_tokens,
                ledger=ledger,
                arrivals=np.sort(trace.arrived_at_s).tolist(),
            ),
        ),
        request_generator_config=plugins.TracedConfig(requests=requests),
        execution_time_predictor_config=plugins.ClockConfig(
            clock=replica.clock, slower=slower, ledger=ledger
        ),
        metrics_config=plugins.NoMetricsConfig(
            write_metrics=False, enable_chrome_trace=False, store_plots=False
        ),
    )
    Simulator(config).run()
    return requests, ledger

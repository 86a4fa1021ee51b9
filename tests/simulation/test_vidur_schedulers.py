"""Our schedulers against Vidur's own, on the same requests, steps and memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vidur.config import (
    BaseExecutionTimePredictorConfig,
    BaseRequestGeneratorConfig,
    CacheConfig,
    ClusterConfig,
    LORGlobalSchedulerConfig,
    SarathiSchedulerConfig,
    VllmSchedulerConfig,
)
from vidur.entities import Batch, Request
from vidur.execution_time_predictor import ExecutionTimePredictorRegistry
from vidur.request_generator import RequestGeneratorRegistry
from vidur.simulator import Simulator
from vidur.types import BaseIntEnum

from kvpred.data.traces import Trace
from kvpred.predictors.clock import StepClock
from kvpred.predictors.predictor import Predictor
from kvpred.simulation.replica import Replica
from kvpred.simulation.simulate import simulate
from kvpred.simulation.vidur_plugins import NoMetricsConfig, QuietConfig, ServedModelConfig
from tests.made_up_traffic import PLACE, chat_trace, replica_of

PAGE = 64


class Key(BaseIntEnum):
    STOCK_CLOCK = 2001
    STOCK_REQUESTS = 2002


@dataclass
class ClockConfig(BaseExecutionTimePredictorConfig):
    clock: StepClock = field(kw_only=True)

    @staticmethod
    def get_type() -> Any:
        return Key.STOCK_CLOCK


@dataclass
class RequestsConfig(BaseRequestGeneratorConfig):
    requests: list[Request] = field(default_factory=list)

    @staticmethod
    def get_type() -> Any:
        return Key.STOCK_REQUESTS


@dataclass
class Seconds:
    total_time: float

    @property
    def model_time(self) -> float:
        return self.total_time


class StockClock:
    """kvpred's clock for Vidur's own batches."""

    def __init__(self, *, predictor_config: ClockConfig, **_: Any) -> None:
        self.clock = predictor_config.clock

    def get_execution_time(self, batch: Batch, stage: int) -> Seconds:
        prompts, decodes = [], []
        for request, tokens in zip(batch.requests, batch.num_q_tokens, strict=True):
            done = request.num_processed_tokens
            if request.is_prefill_complete:
                decodes.append((done - 1, request.num_prefill_tokens))
            else:
                prompts.append((done, tokens))
        return Seconds(self.clock.step_s(prompts, decodes))


class StockRequests:
    def __init__(self, config: RequestsConfig) -> None:
        self.config = config

    def generate(self) -> list[Request]:
        return self.config.requests


def serve_with_stock(trace: Trace, replica: Replica, pages: int) -> list[Request]:
    ExecutionTimePredictorRegistry.register(Key.STOCK_CLOCK, StockClock)
    RequestGeneratorRegistry.register(Key.STOCK_REQUESTS, StockRequests)
    columns = (trace.arrived_at_s.tolist(), trace.prompt_tokens.tolist(), trace.output_tokens.tolist())
    requests = [Request(*row) for row in zip(*columns, strict=True)]
    scheduler = (
        VllmSchedulerConfig(batch_size_cap=replica.max_bsz, max_tokens_in_batch=replica.max_batch_tokens)
        if replica.scheduler == "vllm"
        else SarathiSchedulerConfig(batch_size_cap=replica.max_bsz, chunk_size=replica.chunk_tokens)
    )
    config = QuietConfig(
        cluster_config=ClusterConfig(
            num_replicas=1,
            replica_config=ServedModelConfig(place=PLACE),
            cache_config=CacheConfig(block_size=PAGE, num_blocks=pages),
            global_scheduler_config=LORGlobalSchedulerConfig(),
            replica_scheduler_config=scheduler,
        ),
        request_generator_config=RequestsConfig(requests=requests),
        execution_time_predictor_config=ClockConfig(clock=replica.clock),
        metrics_config=NoMetricsConfig(write_metrics=False, enable_chrome_trace=False, store_plots=False),
    )
    Simulator(config).run()
    return requests


@pytest.mark.parametrize("qps", [1.0, 4.0, 50.0])
@pytest.mark.parametrize(
    "options",
    [
        {"scheduler": "vllm", "max_bsz": 16},
        {"scheduler": "vllm", "max_bsz": 128, "max_batch_tokens": 4096},
        {"scheduler": "sarathi", "max_bsz": 16, "chunk_tokens": 256},
        {"scheduler": "sarathi", "max_bsz": 128, "chunk_tokens": 512},
    ],
)
def test_requests_are_served_in_vidurs_own_order(
    packaged: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], qps: float
) -> None:
    monkeypatch.chdir(tmp_path)  # where Vidur would leave its files
    # Room for all that may be served at once: Vidur preempts when no page is free, even if none is needed.
    pages, trace = 8000, chat_trace(150, qps=qps)
    replica = replica_of(packaged, **options)
    size = pages * PAGE * PLACE.model.kv_bytes_per_token()
    ours = simulate(trace, replace(replica, budget=replace(replica.budget, capacity_bytes=size))).served
    stock = serve_with_stock(trace, replica, pages)
    assert ours.first_token_at_s == pytest.approx([r.prefill_completed_at for r in stock], rel=1e-12)
    assert ours.completed_at_s == pytest.approx([r.completed_at for r in stock], rel=1e-12)
    assert not np.any(ours.restarts)


@pytest.mark.parametrize("scheduler", ["vllm", "sarathi"])
def test_a_cache_too_small_for_all_admits_as_vidur_does(packaged: Predictor, scheduler: str) -> None:
    # Answers of one token: prompts wait for pages, and nothing is ever preempted. 1 % of 200 pages stay free.
    trace = chat_trace(150, qps=100.0).with_outputs(1)
    pages = 100
    replica = replica_of(packaged, scheduler=scheduler, max_batch_tokens=20_000, chunk_tokens=20_000)
    size = pages * PAGE * PLACE.model.kv_bytes_per_token()
    ours = simulate(trace, replace(replica, budget=replace(replica.budget, capacity_bytes=size)))
    stock = serve_with_stock(trace, replica, pages)
    assert ours.served.completed_at_s == pytest.approx([r.completed_at for r in stock], rel=1e-12)
    assert ours.peak_cache > 0.9

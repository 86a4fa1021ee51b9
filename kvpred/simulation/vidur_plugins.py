"""What kvpred plugs into Vidur 0.0.26 through its registries: clock, schedulers, balancing, no files.

Importing this needs the extra ``vidur``. Registry keys are from 1001 up, as Vidur's own are small.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vidur.config import (
    BaseExecutionTimePredictorConfig,
    BaseGlobalSchedulerConfig,
    BaseReplicaSchedulerConfig,
    BaseRequestGeneratorConfig,
    MetricsConfig,
    ReplicaConfig,
    SimulationConfig,
)
from vidur.config.device_sku_config import BaseDeviceSKUConfig
from vidur.config.model_config import Llama2ModelConfig
from vidur.execution_time_predictor import ExecutionTimePredictorRegistry
from vidur.request_generator import RequestGeneratorRegistry
from vidur.scheduler import BaseGlobalScheduler, GlobalSchedulerRegistry
from vidur.scheduler.replica_scheduler.replica_scheduler_registry import ReplicaSchedulerRegistry
from vidur.types import BaseIntEnum

from kvpred.predictors.clock import StepClock
from kvpred.predictors.scaling import Place
from kvpred.simulation.requests import Step, TracedRequest
from kvpred.simulation.vidur_schedulers import Chunked, PromptsFirst


class Key(BaseIntEnum):  # type: ignore[misc]
    """Keys of the plug-ins in Vidur's registries."""

    CLOCK = 1001
    TRACED = 1002
    FEWEST_REQUESTS = 1003
    PROMPTS_FIRST = 1004
    CHUNKED = 1005


@dataclass(slots=True)
class Ledger:
    """What all replicas of a run did.

    Parameters
    ----------
    steps : int
    busy_s : float
        Seconds of all steps.
    request_s : float
        The same, times the requests in each.
    peak_bsz : int
        Most requests in one replica's cache.
    peak_bytes : int
        Most bytes in one replica's cache.
    """

    steps: int = 0
    busy_s: float = 0.0
    request_s: float = 0.0
    peak_bsz: int = 0
    peak_bytes: int = 0


class FewestRequests(BaseGlobalScheduler):  # type: ignore[misc]
    """Sends each request to the replica with the fewest others, waiting or running.

    Vidur's own counts only those that wait, so that at light load all go to one replica.
    """

    def schedule(self) -> list[tuple[Any, TracedRequest]]:
        """Place all new requests."""
        outstanding = {key: scheduler.n_requests for key, scheduler in self._replica_schedulers.items()}
        new: list[TracedRequest] = self._request_queue.copy()
        self._request_queue.clear()
        placed = []
        for request in new:
            key = min(outstanding, key=outstanding.__getitem__)
            outstanding[key] += 1
            placed.append((key, request))
        return placed


class ClockPredictor:
    """Times every step by kvpred's clock, and keeps the ledger."""

    def __init__(self, *, predictor_config: ClockConfig, **_: Any) -> None:
        self._clock = predictor_config.clock
        self._slower = predictor_config.slower
        self._ledger = predictor_config.ledger

    def get_execution_time(self, step: Step, pipeline_stage: int) -> float:
        """Return the seconds of a step, and of those that follow it with the same requests."""
        seconds = self._seconds(step)
        while step.goes_on(seconds):
            seconds += self._seconds(step)
        return seconds

    def _seconds(self, step: Step) -> float:
        # The newest token of an answer has no keys and values yet: this step stores them.
        decodes = [(request.processed - 1, request.prompt_len) for request in step.decodes]
        prompts = [(request.processed, tokens) for request, tokens in step.prompts]
        step_s = self._clock.step_s(prompts, decodes) * self._slower[0 if prompts else 1]
        share_s = step_s / step.bsz
        for request in step.decodes:
            request.device_s += share_s
        for request, _ in step.prompts:
            request.device_s += share_s
        self._ledger.steps += 1
        self._ledger.busy_s += step_s
        self._ledger.request_s += step_s * step.bsz
        return step_s


class TracedGenerator:
    """Hands over the requests of a trace."""

    def __init__(self, config: TracedConfig) -> None:
        self._config = config

    def generate(self) -> list[TracedRequest]:
        """Return the requests."""
        return self._config.requests


@dataclass
class ClockConfig(BaseExecutionTimePredictorConfig):  # type: ignore[misc]
    """Configures `ClockPredictor`."""

    clock: StepClock = field(kw_only=True)
    slower: tuple[float, float] = field(kw_only=True)
    ledger: Ledger = field(kw_only=True)

    @staticmethod
    def get_type() -> Any:
        """Return the key in the registry."""
        return Key.CLOCK


@dataclass
class TracedConfig(BaseRequestGeneratorConfig):  # type: ignore[misc]
    """Configures `TracedGenerator`."""

    requests: list[TracedRequest] = field(default_factory=list)

    @staticmethod
    def get_type() -> Any:
        """Return the key in the registry."""
        return Key.TRACED


@dataclass
class FewestRequestsConfig(BaseGlobalSchedulerConfig):  # type: ignore[misc]
    """Configures `FewestRequests`."""

    @staticmethod
    def get_type() -> Any:
        """Return the key in the registry."""
        return Key.FEWEST_REQUESTS


@dataclass
class _SchedulerConfig(BaseReplicaSchedulerConfig):  # type: ignore[misc]
    ledger: Ledger = field(kw_only=True)
    max_tokens_in_batch: int = field(kw_only=True)
    chunk_size: int = field(kw_only=True)
    arrivals: list[float] = field(kw_only=True)


@dataclass
class PromptsFirstConfig(_SchedulerConfig):
    """Configures `PromptsFirst`."""

    @staticmethod
    def get_type() -> Any:
        """Return the key in the registry."""
        return Key.PROMPTS_FIRST


@dataclass
class ChunkedConfig(_SchedulerConfig):
    """Configures `Chunked`."""

    @staticmethod
    def get_type() -> Any:
        """Return the key in the registry."""
        return Key.CHUNKED


@dataclass
class ServedModelConfig(ReplicaConfig):  # type: ignore[misc]
    """The model of kvpred's catalogue on one pipeline stage.

    The device is given room without end: what fits is `CacheBudget`'s to say, not Vidur's own planner's.
    """

    place: Place = field(kw_only=True)

    def __post_init__(self) -> None:
        """Fill what Vidur derives from its own catalogue."""
        model, tp = self.place.model, self.place.tp
        self.num_pipeline_stages, self.tensor_parallel_size, self.world_size = 1, tp, tp
        self.model_config = Llama2ModelConfig(
            num_layers=model.n_layers,
            num_q_heads=model.n_q_heads,
            num_kv_heads=model.n_kv_heads,
            embedding_dim=model.hidden_size,
            mlp_hidden_dim=model.intermediate_size,
            max_model_len=model.max_position,
            vocab_size=model.vocab_size,
        )
        self.device_config = BaseDeviceSKUConfig(fp16_tflops=1, total_memory_gb=2**30)
        self._num_layers_per_pipeline_stage = model.n_layers
        self._attention_head_dim = model.head_dim
        self._q_heads_per_tensor_parallel_worker = model.n_q_heads // tp
        self._kv_heads_per_tensor_parallel_worker = model.n_kv_heads // tp


@dataclass
class NoMetricsConfig(MetricsConfig):  # type: ignore[misc]
    """No metrics, and so no folder for them."""

    def __post_init__(self) -> None:
        """Make no folder."""


@dataclass
class QuietConfig(SimulationConfig):  # type: ignore[misc]
    """A configuration that is not written to a file."""

    def write_config_to_file(self) -> None:
        """Write nothing."""


def register() -> None:
    """Enter the plug-ins into Vidur's registries; again does no harm."""
    ExecutionTimePredictorRegistry.register(Key.CLOCK, ClockPredictor)
    RequestGeneratorRegistry.register(Key.TRACED, TracedGenerator)
    GlobalSchedulerRegistry.register(Key.FEWEST_REQUESTS, FewestRequests)
    ReplicaSchedulerRegistry.register(Key.PROMPTS_FIRST, PromptsFirst)
    ReplicaSchedulerRegistry.register(Key.CHUNKED, Chunked)

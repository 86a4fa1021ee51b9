"""What simulated requests are served by: a model on replicas of a device, under a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kvpred.data.traces import Trace
from kvpred.hardware import get_device
from kvpred.methods import Method
from kvpred.models import get_model
from kvpred.predictors.estimate import DEFAULT_DEVICE, DEFAULT_ENGINE, DEFAULT_MODEL, Estimate, predict
from kvpred.predictors.length.outputs import REFERENCE, OutputShift, output_shift
from kvpred.predictors.length.shift import read_shifts
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.scaling import Place
from kvpred.simulation.replica import DEFAULT_CHUNK_TOKENS, DEFAULT_MAX_BSZ, Replica, replica_for


@dataclass(frozen=True, slots=True)
class Server:
    """What serves.

    Parameters
    ----------
    model, device, engine : str
    tp : int
    scheduler, max_bsz, max_batch_tokens, chunk_tokens, weight_bits, memory_utilization
        Of a replica; see `kvpred.simulation.replica.replica_for`.
    shifted : bool
        Whether a method's answers are as much longer as is known of it.
    shifts : Path, optional
        Measured shifts that go before those of the package.
    level : float
        Of the predictor's intervals, at whose ends everything is served again.
    """

    model: str = DEFAULT_MODEL
    device: str = DEFAULT_DEVICE
    engine: str = DEFAULT_ENGINE
    tp: int = 1
    scheduler: str = "vllm"
    max_bsz: int = DEFAULT_MAX_BSZ
    max_batch_tokens: int | None = None
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS
    weight_bits: int = 16
    memory_utilization: float = 0.9
    shifted: bool = True
    shifts: Path | None = None
    level: float = 0.9

    @property
    def place(self) -> Place:
        """Its model, device and tensor-parallel degree."""
        return Place(get_model(self.model), get_device(self.device), self.tp)

    def replica(self, predictor: Predictor, method: Method) -> Replica:
        """Return a replica under a method; see `replica_for` for what it raises."""
        return replica_for(
            predictor,
            method,
            self.place,
            self.engine,
            scheduler=self.scheduler,
            max_bsz=self.max_bsz,
            max_batch_tokens=self.max_batch_tokens,
            chunk_tokens=self.chunk_tokens,
            weight_bits=self.weight_bits,
            memory_utilization=self.memory_utilization,
        )

    def answered(self, method: Method, trace: Trace) -> tuple[OutputShift, Trace, int]:
        """Return a method's shift, the trace with its answers, and how many of them the context ends."""
        model = self.place.model
        known = read_shifts(self.shifts) if self.shifts is not None else ()
        shift = output_shift(method, model.name, shifts=known) if self.shifted else REFERENCE
        longer = trace.scaled_outputs(shift.multiplier).output_tokens
        room = np.maximum(model.max_position - trace.prompt_tokens, 1)
        return shift, trace.with_outputs(np.minimum(longer, room)), int((longer > room).sum())

    def average(
        self, predictor: Predictor, method: Method, trace: Trace, *, bsz: int | Sequence[int]
    ) -> Estimate:
        """Estimate an average request of a trace in batches of these sizes."""
        return predict(
            method=method,
            bsz=bsz,
            prompt_len=int(trace.prompt_tokens.mean()),
            output_len=int(trace.output_tokens.mean()),
            predictor=predictor,
            model=self.place.model,
            device=self.place.device,
            engine=self.engine,
            tp=self.tp,
            level=self.level,
        )


def factors(estimate: Estimate, end: int) -> tuple[float, float]:
    """Return how many times longer (end 1) or shorter (0) prompts and decode steps may take.

    Of an estimate of several batches, prompts count in the first and decode steps in the last.
    """
    prompts, decodes = (
        np.ravel(estimate.interval[name][end]) / np.ravel(getattr(estimate, name))
        for name in ("ttft_s", "tpot_s")
    )
    return float(prompts[0]), float(decodes[-1])

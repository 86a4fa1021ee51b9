"""Replicas on paper: what they refuse, and what they take if nothing is given."""

from __future__ import annotations

import pickle

import pytest

from kvpred.errors import DoesNotFitError, UsageError
from kvpred.methods import get_method
from kvpred.predictors.predictor import Predictor
from kvpred.simulation.replica import replica_for
from kvpred.simulation.simulate import simulate
from tests.made_up_traffic import PLACE, chat_trace, replica_of


@pytest.mark.parametrize(("engine", "tokens"), [("lmdeploy", 8192), ("llamacpp", 4096), ("openvino", 4096)])
def test_a_step_passes_what_the_engine_does_and_any_request_of_the_model(
    packaged: Predictor, engine: str, tokens: int
) -> None:
    # LMDeploy passes 8,192 tokens at a time, llama.cpp 2,048, fewer than the model's 4,096.
    replica = replica_for(packaged, get_method("fp16"), PLACE, engine)
    assert replica.max_batch_tokens == tokens


def test_a_replica_can_be_sent_to_another_process(packaged: Predictor) -> None:
    trace, replica = chat_trace(20, qps=2.0), replica_of(packaged, "h2o")
    sent = pickle.loads(pickle.dumps(replica))
    first, second = (simulate(trace, one).served for one in (replica, sent))
    assert (first.completed_at_s == second.completed_at_s).all()


@pytest.mark.parametrize("options", [{"scheduler": "orca"}, {"max_bsz": 0}, {"chunk_tokens": 0}])
def test_replicas_refuse_unknown_schedulers_and_bad_numbers(
    packaged: Predictor, options: dict[str, int]
) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        replica_of(packaged, **options)


def test_weights_that_fill_the_device_are_refused(packaged: Predictor) -> None:
    with pytest.raises(DoesNotFitError, match="no memory for a KV cache"):
        replica_of(packaged, memory_utilization=0.25)

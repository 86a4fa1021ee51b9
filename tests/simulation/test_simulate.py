"""What a simulated replica does to requests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvpred
from kvpred.data.traces import Trace
from kvpred.errors import DoesNotFitError, UsageError
from kvpred.methods import list_methods
from kvpred.predictors.predictor import Predictor
from kvpred.simulation.replica import SCHEDULERS
from kvpred.simulation.simulate import simulate
from tests.made_up_traffic import chat_trace, replica_of, trace_of, with_room_for

METHODS = [method.spec for method in list_methods()]
LENGTHS = st.lists(st.tuples(st.integers(1, 800), st.integers(1, 120)), min_size=1, max_size=12)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("method", METHODS)
def test_one_request_takes_what_predict_says(packaged: Predictor, method: str, scheduler: str) -> None:
    # The issue allows 0.5 %; the clock and the prediction differ by rounding only.
    replica = replica_of(packaged, method, scheduler=scheduler, chunk_tokens=4096)
    for prompt, output in ((2048, 256), (100, 600), (700, 1)):
        served = simulate(trace_of([0.0], [prompt], [output]), replica).served
        said = kvpred.predict(method=method, bsz=1, prompt_len=prompt, output_len=output)
        assert served.ttft_s[0] == pytest.approx(said.ttft_s, rel=5e-4)
        assert served.e2e_s[0] == pytest.approx(said.e2e_latency_s, rel=5e-4)
        if output > 1:
            assert served.tpot_s[0] == pytest.approx(said.tpot_s, rel=5e-4)


def test_a_batch_at_once_takes_what_predict_says(packaged: Predictor) -> None:
    served = simulate(trace_of([0.0] * 8, [512] * 8, [64] * 8), replica_of(packaged)).served
    said = kvpred.predict(method="fp16", bsz=8, prompt_len=512, output_len=64)
    assert served.ttft_s == pytest.approx([said.ttft_s] * 8, rel=5e-4)
    assert served.e2e_s == pytest.approx([said.e2e_latency_s] * 8, rel=5e-4)


def test_prompts_first_makes_decoding_wait(packaged: Predictor) -> None:
    # The second request comes during the first one's third decode step, and passes after it.
    replica = replica_of(packaged)
    clock = replica.clock
    first = clock.step_s([(0, 500)])
    steps = [clock.step_s((), [(500 + i, 500)]) for i in range(3)]
    comes = first + steps[0] + steps[1] + 0.5 * steps[2]
    served = simulate(trace_of([0.0, comes], [500, 900], [4, 1]), replica).served
    alone = first + sum(steps)
    assert served.completed_at_s[0] == pytest.approx(alone)
    assert served.completed_at_s[1] == pytest.approx(alone + clock.step_s([(0, 900)]))
    longer = simulate(trace_of([0.0, comes], [500, 900], [5, 1]), replica).served
    last = clock.step_s((), [(503, 500)])
    assert longer.completed_at_s[0] == pytest.approx(alone + clock.step_s([(0, 900)]) + last)


def test_sarathi_decodes_beside_parts_of_a_prompt(packaged: Predictor) -> None:
    replica = replica_of(packaged, scheduler="sarathi", chunk_tokens=256)
    clock = replica.clock
    served = simulate(trace_of([0.0, 0.0], [100, 400], [3, 1]), replica).served
    # 100 + 156, then one decoding token + the other 244, then the first one's last token.
    first = clock.step_s([(0, 100), (0, 156)])
    second = first + clock.step_s([(156, 244)], [(100, 100)])
    assert served.first_token_at_s == pytest.approx([first, second])
    assert served.completed_at_s == pytest.approx([second + clock.step_s((), [(101, 100)]), second])


def test_a_full_cache_preempts_the_younger_request(packaged: Predictor) -> None:
    # Two prompts of 10 tokens in a cache of 30. After five decode steps both hold 15; the sixth needs 32. The
    # second gives way and passes again, its 10 + 6 tokens as one prompt, once the first has ended: that
    # yields its seventh token, and three more follow.
    replica = with_room_for(replica_of(packaged), 30)
    clock = replica.clock
    found = simulate(trace_of([0.0, 0.0], [10, 10], [10, 10]), replica)
    both = clock.step_s([(0, 10)] * 2) + sum(clock.step_s((), [(10 + i, 10)] * 2) for i in range(5))
    first = both + sum(clock.step_s((), [(15 + i, 10)]) for i in range(4))
    second = first + clock.step_s([(0, 16)]) + sum(clock.step_s((), [(16 + i, 16)]) for i in range(3))
    assert found.served.restarts.tolist() == [0, 1]
    assert found.served.completed_at_s == pytest.approx([first, second])
    assert found.served.first_token_at_s == pytest.approx([clock.step_s([(0, 10)] * 2)] * 2)
    assert found.peak_cache == pytest.approx(1.0)


def test_a_prompt_waits_while_decoding_fills_every_step(packaged: Predictor) -> None:
    # Steps of two tokens: two requests that decode leave nothing for the third one's prompt until one ends.
    replica = replica_of(packaged, scheduler="sarathi", chunk_tokens=2)
    found = simulate(trace_of([0.0, 0.0, 0.0], [1, 1, 5], [4, 9, 1]), replica).served
    first, second, third = found.completed_at_s
    assert first < found.first_token_at_s[2] == third
    # Of its five tokens one passes beside each of the second one's five further steps.
    assert third == pytest.approx(second)


def test_a_prompt_that_is_preempted_halfway_stays_what_it_was(packaged: Predictor) -> None:
    # 100 + 190 of 300 tokens are held once both are admitted; the first one's answer grows while the second
    # one's prompt passes in parts of 7 beside it, and after ten more tokens the cache is full.
    replica = with_room_for(replica_of(packaged, scheduler="sarathi", chunk_tokens=8), 300)
    clock = replica.clock
    first_token_s = sum(clock.step_s([(passed, min(8, 100 - passed))]) for passed in range(0, 100, 8))
    found = simulate(trace_of([0.0, first_token_s], [100, 190], [60, 5]), replica).served
    assert found.restarts.tolist() == [0, 1]
    assert found.first_token_at_s[1] > found.completed_at_s[0]
    alone = simulate(trace_of([0.0], [190], [5]), replica).served.e2e_s[0]
    assert found.completed_at_s[1] - found.completed_at_s[0] == pytest.approx(alone)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_evicting_serves_more_at_once_in_the_same_memory(packaged: Predictor, scheduler: str) -> None:
    trace = trace_of([0.0] * 30, [900] * 30, [100] * 30)
    peaks = {
        method: simulate(
            trace, with_room_for(replica_of(packaged, method, scheduler=scheduler), 5000)
        ).peak_bsz
        for method in ("fp16", "streamingllm")
    }
    assert peaks == {"fp16": 5, "streamingllm": 8}


def test_replicas_share_the_requests(packaged: Predictor) -> None:
    trace, replica = chat_trace(60, qps=2.0), replica_of(packaged)
    one, two = simulate(trace, replica), simulate(trace, replica, replicas=2)
    assert two.served.e2e_s.mean() < one.served.e2e_s.mean()
    at_once = trace_of([0.0, 0.0], [800, 800], [50, 50])
    assert np.ptp(simulate(at_once, replica, replicas=2).served.e2e_s) == pytest.approx(0.0)
    alone = simulate(trace_of([0.0], [800], [50]), replica).served.e2e_s[0]
    assert simulate(at_once, replica, replicas=2).served.e2e_s == pytest.approx([alone] * 2)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(max_examples=25)
@given(
    lengths=LENGTHS,
    gaps=st.lists(st.floats(0, 3), min_size=12, max_size=12),
    tokens=st.integers(1000, 3000),
    method=st.sampled_from(["fp16", "h2o", "kivi", "snapkv"]),
    replicas=st.integers(1, 3),
    chunk=st.sampled_from([3, 128]),
)
def test_every_request_is_served_whole(
    packaged: Predictor, scheduler: str, lengths: list[tuple[int, int]], gaps: list[float], tokens: int,
    method: str, replicas: int, chunk: int,
) -> None:  # fmt: skip
    prompts, outputs = zip(*lengths, strict=True)
    trace = trace_of(np.cumsum(gaps)[: len(prompts)].tolist(), prompts, outputs)
    replica = with_room_for(replica_of(packaged, method, scheduler=scheduler, chunk_tokens=chunk), tokens)
    found = simulate(trace, replica, replicas=replicas)
    served = found.served
    assert (served.output_tokens == trace.output_tokens).all()
    assert (found.queued_s >= 0).all()
    assert (served.first_token_at_s > served.arrived_at_s).all()
    several = served.output_tokens > 1
    assert (served.completed_at_s[several] > served.first_token_at_s[several]).all()
    assert (served.completed_at_s[~several] == served.first_token_at_s[~several]).all()
    assert 0 < found.busy <= 1 + 1e-9
    assert found.peak_cache <= 1
    assert served.device_s.sum() == pytest.approx(found.busy * served.makespan_s * replicas)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(max_examples=20)
@given(lengths=LENGTHS, factor=st.floats(1.0, 3.0), method=st.sampled_from(["fp16", "h2o"]))
def test_slower_steps_never_lower_a_fixed_batchs_latency(
    packaged: Predictor, scheduler: str, lengths: list[tuple[int, int]], factor: float, method: str
) -> None:
    prompts, outputs = zip(*lengths, strict=True)
    trace = trace_of([0.0] * len(prompts), prompts, outputs)
    replica = replica_of(packaged, method, scheduler=scheduler)
    plain, slow = (simulate(trace, replica, slower=by).served for by in (1.0, (factor, factor)))
    assert slow.e2e_s == pytest.approx(factor * plain.e2e_s)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(max_examples=20)
@given(
    n=st.integers(1, 20),
    length=st.tuples(st.integers(1, 400), st.integers(1, 50)),
    tokens=st.integers(500, 3000),
    more=st.integers(0, 3000),
)
def test_more_memory_never_serves_fewer_at_once(
    packaged: Predictor, scheduler: str, n: int, length: tuple[int, int], tokens: int, more: int
) -> None:
    trace = trace_of([0.0] * n, [length[0]] * n, [length[1]] * n)
    replica = replica_of(packaged, scheduler=scheduler)
    little, much = (
        simulate(trace, with_room_for(replica, room)).peak_bsz for room in (tokens, tokens + more)
    )
    assert much >= little


def test_a_factor_for_prompts_leaves_decoding_alone(packaged: Predictor) -> None:
    trace, replica = trace_of([0.0], [800], [50]), replica_of(packaged)
    plain, slow = simulate(trace, replica).served, simulate(trace, replica, slower=(2.0, 1.0)).served
    assert slow.ttft_s == pytest.approx(2 * plain.ttft_s)
    assert slow.tpot_s == pytest.approx(plain.tpot_s)


def test_the_same_trace_gives_the_same_times(packaged: Predictor) -> None:
    trace, replica = chat_trace(100, qps=3.0), replica_of(packaged, "h2o")
    first, second = (simulate(trace, replica).served for _ in range(2))
    assert (first.completed_at_s == second.completed_at_s).all()


def test_the_order_of_the_lines_does_not_matter(packaged: Predictor) -> None:
    replica = with_room_for(replica_of(packaged), 400)
    sorted_one = trace_of([0.0, 0.1, 0.2], [100, 90, 80], [60, 70, 80])
    turned = trace_of([0.2, 0.1, 0.0], [80, 90, 100], [80, 70, 60])
    first, second = (simulate(trace, replica).served for trace in (sorted_one, turned))
    assert first.restarts.sum() > 0
    assert second.completed_at_s[::-1].tolist() == first.completed_at_s.tolist()
    assert second.restarts[::-1].tolist() == first.restarts.tolist()


def test_no_more_than_max_bsz_are_served_at_once(packaged: Predictor) -> None:
    found = simulate(trace_of([0.0] * 20, [100] * 20, [30] * 20), replica_of(packaged, max_bsz=6))
    assert found.peak_bsz == 6
    assert found.mean_bsz <= 6


@pytest.mark.parametrize(
    ("trace", "options", "error", "said"),
    [
        (trace_of([0.0], [5000], [10]), {}, UsageError, "context of llama-2-7b, 4,096"),
        (trace_of([0.0], [4000], [200]), {}, UsageError, "request 0"),
        (trace_of([0.0], [1000], [10]), {"max_batch_tokens": 512}, UsageError, "sarathi"),
        (trace_of([], [], []), {}, UsageError, "no requests"),
    ],
)
def test_what_cannot_be_served_is_named(
    packaged: Predictor, trace: Trace, options: dict[str, int],
    error: type[Exception], said: str,
) -> None:  # fmt: skip
    with pytest.raises(error, match=said):
        simulate(trace, replica_of(packaged, **options))


def test_a_request_that_never_fits_is_named_before_anything_runs(packaged: Predictor) -> None:
    replica = with_room_for(replica_of(packaged), 1000)
    with pytest.raises(DoesNotFitError, match=r"request 1 .*900 prompt and 200 output tokens.*GiB"):
        simulate(trace_of([0.0, 1.0], [100, 900], [10, 200]), replica)
    # One token less than the cache holds: the last is never stored.
    assert simulate(trace_of([0.0], [900], [101]), replica).served.restarts[0] == 0


@pytest.mark.parametrize("slower", [0.0, -1.0, float("inf"), (1.0, 0.0)])
def test_factors_must_be_positive(packaged: Predictor, slower: float) -> None:
    with pytest.raises(UsageError, match="slower"):
        simulate(trace_of([0.0], [10], [10]), replica_of(packaged), slower=slower)


def test_vidur_prints_nothing_and_leaves_no_file(tmp_path: Path) -> None:
    script = (
        "import kvpred\n"
        "from tests.made_up_traffic import chat_trace, replica_of\n"
        "from kvpred.simulation.simulate import simulate\n"
        "simulate(chat_trace(5, qps=1.0), replica_of(kvpred.load(kvpred.PACKAGED)), replicas=2)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(root), "HOME": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []

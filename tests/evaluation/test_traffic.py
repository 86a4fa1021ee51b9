"""Served requests against their simulation: errors, intervals, and who is cheaper beyond the noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kvpred.data.requests import ServedRequests
from kvpred.evaluation.traffic import METRICS, joined, judge_traffic, summarise

N = 200


def served(*, slower: float = 1.0, noise: float = 0.05, seed: int = 0) -> ServedRequests:
    rng = np.random.default_rng(seed)
    arrived = np.cumsum(rng.exponential(size=N))
    first = arrived + slower * 0.1 * np.exp(noise * rng.normal(size=N))
    tokens = rng.integers(2, 100, size=N)
    return ServedRequests(
        ids=tuple(map(str, range(N))),
        arrived_at_s=arrived,
        first_token_at_s=first,
        completed_at_s=first + slower * 0.01 * (tokens - 1) * np.exp(noise * rng.normal(size=N)),
        prompt_tokens=np.full(N, 100),
        output_tokens=tokens,
        restarts=np.zeros(N, dtype=np.int64),
        device_s=slower * 0.005 * tokens * np.exp(noise * rng.normal(size=N)),
    )


def test_a_run_that_is_its_own_simulation_is_not_off() -> None:
    runs = {("1-qps/1", "fp16"): served()}
    (cell,) = judge_traffic(runs, runs).cells
    assert cell.error == dict.fromkeys(METRICS, 0.0)
    assert cell.p99_low_s <= cell.measured.e2e_p99_s <= cell.p99_high_s


def test_errors_are_relative_and_keep_their_sign() -> None:
    runs = {("1-qps/1", "fp16"): served(noise=0.0)}
    slow = {key: served(slower=1.1, noise=0.0) for key in runs}
    report = judge_traffic(runs, slow)
    assert report.cells[0].error["e2e_mean_s"] == pytest.approx(0.1)
    assert report.cells[0].error["tpot_mean_s"] == pytest.approx(0.1)
    assert report.mean_error("device_s") == pytest.approx(0.1)
    assert report.mean_error("device_s", method="h2o") is None


def test_what_differs_beyond_the_noise_is_asked_about_and_its_sign_judged() -> None:
    measured = {
        ("load/1", "fp16"): served(),
        ("load/1", "kv-int8"): served(slower=1.2, seed=1),
        ("load/1", "kv-int4"): served(slower=1.001, seed=0),
    }
    right = measured
    wrong = measured | {("load/1", "kv-int8"): served(slower=0.8)}

    assert {cell.method: cell.told_apart for cell in judge_traffic(measured, right).cheaper} == {
        "kv-int8": True, "kv-int4": True,
    }  # fmt: skip
    assert (judge_traffic(measured, right).right, judge_traffic(measured, right).asked) == (2, 2)
    assert (judge_traffic(measured, wrong).right, judge_traffic(measured, wrong).asked) == (1, 2)


def test_rounds_that_disagree_leave_a_method_untold() -> None:
    measured = {
        ("load/1", "fp16"): served(),
        ("load/1", "kv-int8"): served(slower=1.2),
        ("load/2", "fp16"): served(),
        ("load/2", "kv-int8"): served(slower=0.85),
    }
    (cell,) = judge_traffic(measured, measured).cheaper
    assert (cell.load, cell.told_apart) == ("load", False)
    assert cell.low < cell.measured < cell.high


def test_parts_stand_together_one_after_another() -> None:
    first, second = served(), served(seed=1)
    whole = joined({("load/1", "fp16"): first, ("load/2", "fp16"): second})["load", "fp16"]

    assert whole.ids == first.ids + second.ids
    assert whole.makespan_s == pytest.approx(first.makespan_s + second.makespan_s)
    np.testing.assert_allclose(whole.e2e_s, np.concatenate([first.e2e_s, second.e2e_s]))
    np.testing.assert_allclose(whole.ttft_s, np.concatenate([first.ttft_s, second.ttft_s]))
    assert whole.arrived_at_s[N:].min() == pytest.approx(
        first.completed_at_s.max() - first.arrived_at_s.min()
    )


def test_unknown_shares_of_steps_leave_costs_out() -> None:
    unknown = replace(served(), device_s=np.full(N, np.nan))
    runs = {("load/1", "fp16"): unknown, ("load/1", "kv-int8"): unknown}
    report = judge_traffic(runs, runs)
    assert report.cheaper == ()
    assert report.cells[0].error["device_s"] is None
    assert summarise("load/1", "fp16", unknown).busy is None


def test_the_same_seed_gives_the_same_report() -> None:
    runs = {("load/1", "fp16"): served(), ("load/1", "h2o"): served(seed=2)}
    assert judge_traffic(runs, runs, seed=3) == judge_traffic(runs, runs, seed=3)

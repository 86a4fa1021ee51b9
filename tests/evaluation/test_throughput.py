"""Throughput of runs whose laws, noise and marks are known."""

from __future__ import annotations

import random
from collections.abc import Iterable
from math import exp, hypot, log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.data.runs import Run, read_runs
from kvpred.data.sites import RunSite
from kvpred.errors import DataError
from kvpred.evaluation.throughput import Setting, Throughput, throughputs
from tests.measured_runs import EAGER, PAGED, make_run, make_runs

C4_OF_3 = 0.8862  # expected standard deviation of three unit normals
MEDIAN_OF_3 = 0.6698  # standard deviation of their median: sqrt(1 - sqrt(3) / pi)


def _repeats(method: str, *tok_s: float, first: int = 0, **fields: object) -> list[Run]:
    return [make_run(method, each, repeat=first + number, **fields) for number, each in enumerate(tok_s)]


def _only(runs: Iterable[Run], method: str = "fp16") -> Throughput:
    (case,) = (case for case in throughputs(runs) if case.method == method)
    return case


def test_a_site_is_the_median_of_its_repeats() -> None:
    case = _only(_repeats("fp16", 90, 130, 100))
    assert (case.tok_s, case.runs, case.site) == (100, 3, RunSite(4, 1024, 32))
    assert case.speedup is case.told_apart is None


def test_noise_of_a_median_matches_hand_count() -> None:
    case = _only(_repeats("fp16", 90, 130, 100))
    spread = np.std(np.log([90, 130, 100]), ddof=1)
    assert case.error == pytest.approx(spread / C4_OF_3 * MEDIAN_OF_3, rel=0.01)


def test_pairs_share_the_state_of_the_machine() -> None:
    fp16 = _repeats("fp16", 100, 60, 140)
    case = _only([*fp16, *_repeats("kv-int8", 90, 54.1, 126)], "kv-int8")
    assert case.speedup == pytest.approx(0.9, rel=1e-3)
    assert (case.pairs, case.told_apart) == (3, -1)


def test_noise_of_a_pair_matches_hand_count() -> None:
    runs = [*_repeats("fp16", 100, 60, 140), *_repeats("kv-int8", 90, 66, 154)]
    case = _only(runs, "kv-int8")
    spread = np.std(np.log([0.9, 1.1, 1.1]), ddof=1)
    assert case.speedup == pytest.approx(1.1)
    assert case.speedup_error == pytest.approx(spread / C4_OF_3 * MEDIAN_OF_3, rel=0.01)


def test_without_common_repeats_the_medians_are_compared_with_the_noise_of_both() -> None:
    runs = [*_repeats("fp16", 100, 60, 140), *_repeats("kv-int8", 90, 54.1, 126, first=3)]
    case, usual = _only(runs, "kv-int8"), _only(runs)
    assert case.error is not None and usual.error is not None
    assert (case.speedup, case.pairs, case.told_apart) == (pytest.approx(0.9), 0, 0)
    assert case.speedup_error == pytest.approx(hypot(case.error, usual.error))


@pytest.mark.parametrize(("error", "told"), [(0.099, 1), (0.101, 0)])
def test_a_difference_counts_beyond_two_standard_errors(error: float, told: int) -> None:
    place = (Setting("openvino", "host-cpu"), "h2o", "decode", RunSite(1, 256))
    faster = Throughput(*place, 100.0, 3, {}, False, 0.1, exp(0.2), error)
    slower = Throughput(*place, 100.0, 3, {}, False, 0.1, exp(-0.2), error)
    assert (faster.told_apart, slower.told_apart) == (told, -told)
    assert faster.bounds == pytest.approx((exp(0.2 - 2 * error), exp(0.2 + 2 * error)))


def test_marked_repeats_count_only_where_there_are_no_others() -> None:
    marked = [make_run(tok_s=50, repeat=3, mark="busy host"), make_run(tok_s=55, repeat=4, mark="drift")]
    both = _only([*_repeats("fp16", 100, 101, 102), *marked])
    assert (both.tok_s, both.runs, both.doubtful) == (101, 3, False)
    assert both.marks == {"busy host": 1, "drift": 1}
    alone = _only(marked)
    assert (alone.tok_s, alone.runs, alone.doubtful) == (52.5, 2, True)


def test_a_speedup_against_a_marked_fp16_is_doubtful() -> None:
    fp16 = _repeats("fp16", 100, 101, mark="busy host")
    assert _only([*fp16, *_repeats("h2o", 120, 121)], "h2o:heavy=64,recent=448").doubtful


def test_single_repeats_have_a_speedup_of_unknown_noise() -> None:
    case = _only([make_run(), make_run("kv-int8", 80)], "kv-int8")
    assert case.speedup == pytest.approx(0.8)
    assert case.error is case.speedup_error is case.told_apart is case.bounds is None


def test_a_single_repeat_takes_the_noise_from_other_sites_of_its_method() -> None:
    alone = make_run(prompt_len=256)
    found = {case.site.prompt_len: case for case in throughputs([*_repeats("fp16", 90, 130, 100), alone])}
    usual, single = found[1024].error, found[256].error
    assert usual is not None
    assert single == pytest.approx(usual / MEDIAN_OF_3, rel=0.01)


def test_without_fp16_there_are_no_speedups() -> None:
    cases = throughputs(run for run in make_runs() if run.method != "fp16")
    assert {case.speedup for case in cases} == {None}
    assert all(case.error for case in cases)


def test_engines_are_compared_with_their_own_fp16() -> None:
    slow = make_runs("transformers", laws=EAGER, noise=0.0)
    fast = make_runs("openvino", laws=PAGED, noise=0.0)
    found = {
        case.setting.engine: case.speedup
        for case in throughputs([*slow, *fast])
        if (case.method, case.stage, case.site) == ("kv-int8", "decode", RunSite(4, 4096, 32))
    }
    cached = 1e-6 * 4 * 4096
    assert found["transformers"] == pytest.approx((0.01 + cached) / (0.013 + cached))
    assert found["openvino"] == pytest.approx((0.01 + cached) / (0.01 + 0.6 * cached))


def test_hosts_are_not_mixed() -> None:
    runs = [make_run(host="here"), make_run("kv-int8", 80, host="there")]
    assert {(case.setting.host, case.speedup) for case in throughputs(runs)} == {
        ("here", None),
        ("there", None),
    }


def test_answers_of_another_length_are_another_site_of_decode_alone() -> None:
    runs = [make_run(stage=stage, output_len=n) for stage in ("decode", "prefill") for n in (32, 64)]
    sites = [(case.stage, case.site.output_len, case.runs) for case in throughputs(runs)]
    assert sites == [("decode", 32, 1), ("decode", 64, 1), ("prefill", 1, 2)]


def test_a_method_is_the_same_however_it_is_spelt() -> None:
    runs = [make_run("kivi", 100), make_run("kivi:bits=4", 102, repeat=1)]
    assert [case.runs for case in throughputs(runs)] == [2]


def test_the_same_law_is_rarely_told_apart_from_itself() -> None:
    twins = {"fp16": (1.0, 1.0, 1.0), "kv-int8": (1.0, 1.0, 1.0)}
    told = [
        case.told_apart
        for seed in range(5)
        for case in throughputs(make_runs(laws=twins, noise=0.05, seed=seed))
        if case.speedup is not None
    ]
    assert np.mean(np.abs(np.array(told, dtype=float))) < 0.05


def test_a_real_difference_is_told_apart() -> None:
    cases = [case for case in throughputs(make_runs(noise=0.02)) if case.method.startswith("h2o")]
    assert {case.told_apart for case in cases if case.stage == "prefill"} == {-1}


def test_repeats_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(DataError, match="disagree"):
        throughputs([make_run(tok_s=100), make_run(tok_s=400)])


def test_published_runs_are_paired_by_label_at_nominal_lengths(shared_data: Path) -> None:
    folder = shared_data / "a6000" / "throughput"
    runs = read_runs(folder, model="llama-2-7b", device="a6000", engine="lmdeploy", pool_labels=True)
    cases = throughputs(runs)
    assert len(cases) == 5 * 2 * 19
    assert {case.site.prompt_len for case in cases} == {256, 512, 1024, 2048, 4000}
    compared = [case for case in cases if case.speedup is not None]
    assert len(compared) == 4 * 2 * 19
    assert {case.pairs for case in compared} == {0, 2, 3, 4}
    h2o = [case for case in compared if case.method.startswith("h2o")]
    assert sum(case.told_apart == -1 for case in h2o if case.stage == "prefill") > 15
    best = max(h2o, key=lambda case: log(case.speedup or 1.0))
    assert (best.stage, best.site, best.told_apart) == ("decode", RunSite(8, 4000, 1), 1)


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(order: random.Random) -> None:
    runs = make_runs(batches=(1, 4), prompts=(256, 1024), noise=0.1)
    shuffled = list(runs)
    order.shuffle(shuffled)
    assert throughputs(shuffled) == throughputs(runs)

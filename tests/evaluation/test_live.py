"""Predictions made beforehand, against runs whose truth and noise are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest

from kvpred.data.runs import Run
from kvpred.errors import DataError
from kvpred.evaluation.live import judge_live
from kvpred.evaluation.live_report import LivePrediction, LiveReport
from kvpred.methods import get_method

FP16, INT8 = "fp16", get_method("kv-int8").spec
PLACES = ((1, 300), (2, 700), (4, 1500), (8, 900))
REPEATS = 5
# Seconds of a decode step: kv-int8 is 10 % faster at long caches and 10 % slower at short ones.
TRUE_S = {
    (method, *place): (0.01 + 1e-6 * place[0] * place[1]) * (1.0 if method == FP16 else factor)
    for method in (FP16, INT8)
    for place, factor in zip(PLACES, (1.1, 1.1, 0.9, 0.9), strict=True)
}
Perturb = Callable[[str, int, int], float]


def predictions(factor: float = 1.0, width: float = 0.1) -> list[LivePrediction]:
    """Predict the truth times a factor; the copy is fp16's truth."""
    return [
        LivePrediction(
            method, "decode", bsz, prompt_len, 32,
            predicted_s=factor * time_s,
            low_s=factor * time_s / (1 + width), high_s=factor * time_s * (1 + width),
            copy_s=TRUE_S[FP16, bsz, prompt_len],
        )
        for (method, bsz, prompt_len), time_s in TRUE_S.items()
    ]  # fmt: skip


def run(method: str, bsz: int, prompt_len: int, repeat: int, time_s: float, **more: object) -> Run:
    return Run(
        model="smollm2-135m", engine="openvino", device="host-cpu", method=method, bsz=bsz,
        prompt_len=prompt_len, output_len=32, stage="decode", throughput_tok_s=bsz / time_s, repeat=repeat,
        **more,
    )  # fmt: skip


def runs(*, shared: float = 0.0, own: float = 0.0, seed: int = 0) -> list[Run]:
    """Measure every site five times: noise that the methods of a round share, and noise of their own."""
    rng = np.random.default_rng(seed)
    drift = {(place, repeat): rng.normal(scale=shared) for place in PLACES for repeat in range(REPEATS)}
    return [
        run(method, *place, repeat, time_s * np.exp(drift[tuple(place), repeat] + rng.normal(scale=own)))
        for (method, *place), time_s in TRUE_S.items()
        for repeat in range(REPEATS)
    ]


def cell(report: LiveReport, method: str) -> object:
    (found,) = (cell for cell in report.cells if cell.method == method)
    return found


def test_the_truth_told_beforehand_is_perfect() -> None:
    report = judge_live(predictions(), runs(), level=0.9)
    (stage,) = report.stages
    assert (stage.accuracy, stage.ceiling, stage.skill) == pytest.approx((1.0, 1.0, 1.0))
    assert (stage.intervals.coverage, stage.intervals.n_sites) == (1.0, 8)
    assert (stage.ranking.pairs, stage.ranking.right, stage.ranking.tau_b) == (4, 4, 1.0)
    assert report.n_runs == 40


def test_accuracy_is_one_less_the_mean_relative_error() -> None:
    report = judge_live(predictions(factor=1.05), runs(), level=0.9)
    assert [cell.accuracy for cell in report.cells] == pytest.approx([0.95, 0.95])
    assert [site.error for site in report.sites] == pytest.approx([0.05] * 8)


def test_the_copy_misses_what_a_method_changes() -> None:
    report = judge_live(predictions(), runs(), level=0.9)
    copied = cell(report, INT8)
    expected = 1 - np.mean([abs(1 / 1.1 - 1)] * 2 + [abs(1 / 0.9 - 1)] * 2)
    assert (copied.copy, copied.skill) == pytest.approx((expected, 1.0))  # type: ignore[attr-defined]
    assert cell(report, FP16).skill is None  # type: ignore[attr-defined]


def test_intervals_that_miss_are_counted() -> None:
    report = judge_live(predictions(factor=1.2, width=0.1), runs(), level=0.9)
    assert [cell.inside for cell in report.cells] == [0, 0]
    assert report.stages[0].intervals.coverage == 0.0


def test_a_copy_of_fp16_foretells_no_sign() -> None:
    said = [replace(one, predicted_s=one.copy_s) for one in predictions()]
    (stage,) = judge_live(said, runs(), level=0.9).stages
    assert (stage.ranking.speedups, stage.ranking.right_signs, stage.ranking.tau_b) == (4, 0, None)
    assert stage.skill == pytest.approx(0.0)


def test_a_sign_foretold_the_wrong_way_is_wrong() -> None:
    swapped = {FP16: INT8, INT8: FP16}
    times = {(one.method, one.bsz): one.predicted_s for one in predictions()}
    said = [replace(one, predicted_s=times[swapped[one.method], one.bsz]) for one in predictions()]
    ranking = judge_live(said, runs(), level=0.9).stages[0].ranking
    assert (ranking.pairs, ranking.right, ranking.wrong, ranking.tau_b) == (4, 0, 4, -1.0)
    assert cell(judge_live(said, runs(), level=0.9), INT8).right_signs == 0  # type: ignore[attr-defined]


def test_noise_that_methods_share_hides_no_difference() -> None:
    (stage,) = judge_live(predictions(), runs(shared=0.15, own=0.01), level=0.9).stages
    assert stage.ranking.pairs == 4
    assert stage.error_of_median > 0.03


def test_noise_of_their_own_hides_differences() -> None:
    noisy = [judge_live(predictions(), runs(own=0.3, seed=seed), level=0.9) for seed in range(20)]
    assert np.mean([report.stages[0].ranking.pairs for report in noisy]) < 1.0


def test_repeat_noise_is_that_of_the_medians() -> None:
    report = judge_live(predictions(), runs(own=0.05), level=0.9)
    # The median of five normals scatters by 0.536 of one of them.
    assert report.stages[0].error_of_median == pytest.approx(0.05 * 0.536, rel=0.25)
    assert report.stages[0].ceiling == pytest.approx(1 - 0.05 * 0.536 * np.sqrt(2 / np.pi), abs=0.006)


def test_single_runs_are_told_apart_by_the_usual_noise() -> None:
    once = [one for one in runs() if one.repeat == 0]
    report = judge_live(predictions(), once, level=0.9)
    assert report.stages[0].ranking.pairs == 4
    assert report.stages[0].error_of_median == pytest.approx(0.03, rel=0.01)


def without(measured: Iterable[Run], method: str, bsz: int) -> list[Run]:
    return [one for one in measured if (one.method_params, one.bsz) != (method, bsz)]


def test_what_was_not_measured_is_named_and_not_judged() -> None:
    report = judge_live(predictions(), without(runs(), INT8, 8), level=0.9)
    assert [(one.method, one.bsz) for one in report.unmeasured] == [(INT8, 8)]
    assert (len(report.sites), report.stages[0].ranking.all_pairs) == (7, 3)


def test_runs_elsewhere_are_left_aside() -> None:
    elsewhere = run(FP16, 1, 64, 0, 1.0)
    assert judge_live(predictions(), [*runs(), elsewhere], level=0.9).n_runs == 40


def test_marked_runs_are_counted() -> None:
    marked = [one.model_copy(update={"mark": "busy host"}) if one.repeat == 1 else one for one in runs()]
    report = judge_live(predictions(), marked, level=0.9)
    assert (report.marked, {site.marked for site in report.sites}) == (8, {1})


def test_a_method_may_be_written_short_in_the_runs() -> None:
    short = [Run.model_validate(one.model_dump() | {"method_params": one.method}) for one in runs()]
    assert len(judge_live(predictions(), short, level=0.9).sites) == 8


def test_nothing_measured_is_nothing_to_judge() -> None:
    with pytest.raises(DataError, match="none of the predicted sites was measured"):
        judge_live(predictions(), [], level=0.9)

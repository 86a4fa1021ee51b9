"""Shifts of response lengths: known ones are found, and none is found where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.data.lengths import LengthRun
from kvpred.errors import DataError
from kvpred.evaluation.length_answers import Answers, Setup, answers_by_setup
from kvpred.evaluation.length_shift import LONGER, NO_SHIFT, SHORTER, compare, judge, seeds_apart
from kvpred.evaluation.length_shift_report import shifts_of, study_lengths
from tests.evaluation.binomial import within_binomial
from tests.made_up_lengths import CAP, make_length, make_lengths

FP16, KIVI = Setup("fp16", 1.0), Setup("kivi", 1.0)


def pair(factor: float, **options: float) -> tuple[Answers, Answers]:
    found = answers_by_setup(make_lengths({"fp16": 1.0, "kivi": factor}, **options))  # type: ignore[arg-type]
    return found[KIVI], found[FP16]


def table(tokens: list[list[float]], cut: list[list[bool]] | None = None) -> Answers:
    return Answers(np.array(tokens), np.zeros(np.shape(tokens), bool) if cut is None else np.array(cut))


def test_multiplier_and_shares_match_a_hand_count() -> None:
    own, base = table([[150, 100], [40, 100]]), table([[100, 200], [100, 50]])
    found = compare(own, base)
    assert found.multiplier.value == (150 + 100 + 40 + 100) / (100 + 200 + 100 + 50)
    assert (found.same.d * 100).round().tolist() == [-60, -50, 50, 100]
    assert (found.same.much_longer, found.same.much_shorter) == (0.5, 0.5)
    assert (found.longer, found.shorter, found.sign.value) == (0.5, 0.5, 0.0)
    # Across seeds: 150/200, 100/100, 40/50 and 100/100, against 100/200, 200/100, 100/50 and 50/100.
    assert found.other is not None and found.floor is not None and found.excess_longer is not None
    assert (found.other.d * 100).round().tolist() == [-25, -20, 0, 0]
    assert (found.floor.d * 100).round().tolist() == [-50, -50, 100, 100]
    assert found.excess_longer.value == -0.5


def test_answers_missing_on_one_side_count_on_neither() -> None:
    own, base = table([[100, np.nan], [300, 100]]), table([[50, 7], [100, np.nan]])
    found = compare(own, base)
    assert (found.n_prompts, found.n_pairs, found.multiplier.value) == (2, 2, 400 / 150)


def test_uncut_multiplier_is_the_ratio_of_tokens_per_ended_answer() -> None:
    own = table([[100], [100], [60]], [[True], [True], [False]])
    base = table([[100], [50], [50]], [[True], [False], [False]])
    found = compare(own, base)
    assert found.uncut.value == pytest.approx((260 / 1) / (200 / 2))
    assert (found.cut, found.base_cut) == pytest.approx((2 / 3, 1 / 3))


def test_known_shift_is_found_within_its_interval() -> None:
    found = compare(*pair(1.2, n_prompts=400))
    assert found.multiplier.low < 1.2 < found.multiplier.high
    assert judge({KIVI: found})[KIVI].verdict == LONGER
    assert judge({KIVI: compare(*pair(0.75))})[KIVI].verdict == SHORTER


def test_without_a_shift_the_test_is_wrong_as_often_as_it_says() -> None:
    repeats = 200
    found = [compare(*pair(1.0, seed=seed, n_prompts=60), resamples=300) for seed in range(repeats)]
    assert within_binomial(sum(one.verdict != NO_SHIFT for one in found), repeats, 0.05)
    covered = sum(one.multiplier.low < 1 < one.multiplier.high for one in found)
    assert within_binomial(repeats - covered, repeats, 0.10)
    excess = [one.excess_longer.value for one in found if one.excess_longer]
    assert abs(np.mean(excess)) < 3 * np.std(excess) / np.sqrt(repeats)
    # The trap that the floor is for: no shift at all, and a large share of much longer answers.
    assert np.mean([one.floor.mean for one in found if one.floor]) > 0.1


def test_the_smallest_detectable_shift_is_found_four_times_in_five() -> None:
    detectable = compare(*pair(1.0, n_prompts=60)).detectable
    found = [compare(*pair(1 + detectable, seed=s, n_prompts=60), resamples=300) for s in range(100)]
    assert 0.6 < np.mean([one.verdict == LONGER for one in found]) < 0.95


def test_shared_random_numbers_sharpen_the_multiplier() -> None:
    assert compare(*pair(1.0, shared=0.9)).error < 0.7 * compare(*pair(1.0, shared=0.0)).error


def test_same_answers_are_no_shift_though_seeds_differ() -> None:
    own, _ = pair(1.0)
    found = compare(own, own)
    assert (found.p, found.verdict, found.multiplier.low, found.multiplier.high) == (1.0, NO_SHIFT, 1.0, 1.0)
    assert found.same.much_longer == 0 < found.floor.much_longer  # type: ignore[union-attr]
    assert found.excess_longer is not None and found.excess_longer.value == 0


def test_several_comparisons_need_stronger_evidence() -> None:
    one = compare(*pair(1.0))
    found = judge({Setup("a", 1.0): replace(one, p=0.04), Setup("b", 1.0): replace(one, p=0.02)})
    assert [round(c.p, 3) for c in found.values()] == [0.04, 0.04]
    three = judge({Setup(n, 1.0): replace(one, p=p) for n, p in (("a", 0.01), ("b", 0.03), ("c", 0.9))})
    assert [round(c.p, 3) for c in three.values()] == [0.03, 0.06, 0.9]


def test_one_seed_has_no_floor() -> None:
    own, base = pair(1.1, n_seeds=1)
    found = compare(own, base)
    assert (found.other, found.floor, found.excess_longer, seeds_apart(base)) == (None,) * 4


@given(factor=st.floats(0.25, 4.0))
def test_longer_answers_never_lower_the_multiplier(factor: float) -> None:
    base = pair(1.0, n_prompts=25)[1]
    own = Answers(base.tokens * factor, base.cut)
    found = compare(own, base, resamples=20)
    assert found.multiplier.value == pytest.approx(factor)
    assert found.multiplier.low <= found.multiplier.high


def test_the_same_lengths_give_the_same_numbers() -> None:
    runs = make_lengths({"fp16": 1.0, "kivi": 1.1}, n_prompts=30)
    first, second = (study_lengths(order, name="x") for order in (runs, runs[::-1]))
    assert shifts_of(first) == shifts_of(second)


def test_temperatures_are_compared_with_the_usual_one() -> None:
    runs = make_lengths({"fp16": 1.0, "kivi": 1.3}) + make_lengths({"fp16": 1.2}, temperature=1.1)
    study = study_lengths(runs, name="x")
    assert study.baseline == FP16
    assert set(study.comparisons) == {KIVI, Setup("fp16", 1.1)}
    assert study.comparisons[Setup("fp16", 1.1)].multiplier.value == pytest.approx(1.2, rel=0.03)
    assert [shift.method_params for shift in shifts_of(study)] == ["kivi"]


def test_a_shift_says_where_it_comes_from() -> None:
    (shift,) = shifts_of(study_lengths(make_lengths({"fp16": 1.0, "kivi": 1.5}), name="x"))
    assert (shift.model, shift.beyond_noise, shift.low < shift.multiplier < shift.high) == (
        "tiny",
        True,
        True,
    )
    for fact in ("tiny on transformers", "120 prompts", "2 seeds", "T = 1", "at most 2,000 tokens"):
        assert fact in shift.provenance


def test_no_shift_is_said_with_what_could_have_been_seen() -> None:
    study = study_lengths(make_lengths({"fp16": 1.0, "kivi": 1.0}, seed=1), name="x")
    assert study.finding == "No shift beyond noise at this model size: none of 1 methods changes the total"
    assert any("smallest shift that this could detect" in note for note in study.notes)
    assert not shifts_of(study)[0].beyond_noise


def test_a_method_of_too_few_prompts_is_left_out_by_name() -> None:
    runs = make_lengths({"fp16": 1.0, "kivi": 1.0, "h2o": 1.0}, n_prompts=30)
    some = [run for run in runs if run.method != "h2o" or run.prompt_id < "p005"]
    study = study_lengths(some, name="x")
    assert list(study.comparisons) == [KIVI]
    assert any("h2o at T = 1: 5 prompts are too few" in note for note in study.notes)


def test_a_method_that_does_nothing_is_named() -> None:
    runs = make_lengths({"fp16": 1.0}, n_prompts=30)
    copies = [replace(run, method="kivi", method_params="kivi") for run in runs]
    assert any("pair: kivi." in note for note in study_lengths(runs + copies, name="x").notes)


ONE = make_length()
BAD: dict[str, tuple[list[LengthRun], str]] = {
    "no baseline": ([make_length("kivi"), make_length("h2o")], "no lengths of fp16 .* only of h2o, kivi"),
    "alone": ([ONE], "only fp16 at one temperature"),
    "other prompts": ([ONE, make_length("kivi", prompt_id="q")], "no answer of fp16 at T = 1"),
    "other seed": ([ONE, make_length("kivi", seed=7)], "to the same prompt with the same seed"),
    "other temperature": ([ONE, make_length("kivi", temperature=0.5)], "no answer of fp16 at T = 0.5"),
    "few prompts": ([ONE, make_length("kivi")], "1 prompts are too few"),
    "no tokens": ([ONE, make_length("kivi", 0)], "no tokens"),
    "twice": ([ONE, make_length(tokens=7)], "stands there twice, with 100 and 7 tokens"),
    "caps": ([ONE, make_length("kivi", cap=50, tokens=50)], f"cap is not the {CAP}"),
    "models": ([ONE, make_length(model="other", seed=1)], "of 2 models"),
    "engines": ([ONE, make_length(engine="other", seed=1)], "of 2 engines"),
    "all cut": ([make_length(tokens=CAP, censored=True)], "every answer was cut"),
}


@pytest.mark.parametrize("case", BAD)
def test_lengths_that_tell_nothing_are_refused(case: str) -> None:
    runs, message = BAD[case]
    with pytest.raises(DataError, match=message):
        study_lengths(runs, name="x")


def test_equal_rows_count_once() -> None:
    runs = make_lengths({"fp16": 1.0, "kivi": 1.1}, n_prompts=20)
    assert study_lengths(runs * 2, name="x").comparisons[KIVI].n_pairs == 40

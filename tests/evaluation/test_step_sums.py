from __future__ import annotations

import pytest

from kvpred.data.profiles import time_column
from kvpred.evaluation.step_sums import step_sums
from tests.in_place import OVERHEAD_MS, make_profile


def test_operators_and_a_constant_overhead_add_up_to_the_step() -> None:
    for one in step_sums({"fp16": make_profile()}):
        assert one.overhead_ms == pytest.approx(OVERHEAD_MS[one.stage])
        assert one.error == pytest.approx(0.0, abs=1e-9)
        assert one.within
        assert one.hooks == pytest.approx(0.01)


def test_the_error_is_that_of_the_sum_against_the_step_without_hooks() -> None:
    profile = make_profile()
    step, operators = (profile.steps[time_column(name)] for name in ("step", "operators"))
    # Every other decode site is 20 % slower than its operators: no constant explains both halves.
    decode = ~profile.steps["is_prefill"]
    step[decode] = operators[decode]
    step[decode.nonzero()[0][::2]] *= 1.25
    prefill, worse = step_sums({"fp16": profile})
    assert (prefill.stage, prefill.within) == ("prefill", True)
    assert worse.error > 0.05
    assert not worse.within


def test_noise_is_that_of_the_steps_repeats() -> None:
    for one in step_sums({"kivi": make_profile("kivi", noise=0.03)}):
        assert one.noise == pytest.approx(0.03, rel=0.5)
        assert one.method == "kivi"

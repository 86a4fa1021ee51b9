"""Lengths that a bill is made of, and the shift of a method: measured, published, or assumed to be none."""

from __future__ import annotations

import json
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.errors import UsageError
from kvpred.methods import list_methods
from kvpred.predictors.length.base import LEVELS, LengthDistributions
from kvpred.predictors.length.outputs import OutputLengths, OutputShift, output_shift
from kvpred.predictors.length.published import PUBLISHED_SHIFTS
from kvpred.predictors.length.shift import LengthShift
from kvpred.workflows.shifting import study_shifts

LONGER = OutputShift(1.5, 1.2, 2.0, "measured", "made up")
lengths = st.lists(st.integers(1, 5000), min_size=1, max_size=60)


def test_a_given_length_is_all_there_is() -> None:
    found = OutputLengths.given(256)
    assert (found.tokens.tolist(), found.weights.tolist(), found.mean_tokens) == ([256], [1.0], 256.0)
    assert found.under(LONGER).mean_tokens == 384.0


@given(lengths)
def test_seen_lengths_keep_their_mean_and_their_shares(tokens: list[int]) -> None:
    found = OutputLengths.of(tokens, "seen")
    assert found.weights.sum() == pytest.approx(1)
    assert found.mean_tokens == pytest.approx(np.mean(tokens))
    picked = found.tokens[found.pick((np.arange(len(tokens)) + 0.5) / len(tokens))]
    assert picked.tolist() == sorted(tokens)


def test_prompts_stay_with_their_answers() -> None:
    found = OutputLengths.of([10, 20, 10], "seen", prompt_tokens=[5, 7, 5])
    assert found.tokens.tolist() == [10, 20]
    assert found.prompt_tokens is not None
    assert found.prompt_tokens.tolist() == [5, 7]
    assert found.weights.tolist() == pytest.approx([2 / 3, 1 / 3])


def test_a_predicted_distribution_keeps_its_quantiles() -> None:
    # Levels times 1,000: uniform from 0 to 1,000, so the mean is 500.
    uniform = LengthDistributions(LEVELS[None] * 1000, np.array([500.0]))
    found = OutputLengths.predicted(uniform, "one message")
    assert found.mean_tokens == pytest.approx(500, rel=0.005)
    assert found.tokens[found.pick([0.1, 0.5, 0.9])].tolist() == pytest.approx([100, 500, 900], abs=13)


def test_many_predictions_weigh_the_same() -> None:
    two = LengthDistributions(np.stack([LEVELS * 100 + 1, LEVELS * 1000 + 1]), np.array([51.0, 501.0]))
    assert OutputLengths.predicted(two, "two").mean_tokens == pytest.approx(276, rel=0.01)
    joint = OutputLengths.predicted(two, "two", prompt_tokens=[9, 90])
    assert joint.prompt_tokens is not None
    assert joint.weights @ joint.prompt_tokens == pytest.approx((9 + 90) / 2)
    assert joint.tokens[joint.prompt_tokens == 9].max() < 110


@pytest.mark.parametrize("tokens", [0, -1, 2.5])
def test_lengths_that_cannot_be_are_refused(tokens: float) -> None:
    with pytest.raises(UsageError, match="output_len"):
        OutputLengths.given(tokens)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="output tokens"):
        OutputLengths.of([5, tokens], "seen")


def test_no_lengths_are_refused() -> None:
    with pytest.raises(UsageError, match=r"empty\.csv: there is no answer's length"):
        OutputLengths.of(np.zeros(0, dtype=int), "empty.csv")


def test_a_multiplier_fills_its_interval() -> None:
    # 1.6449 is the normal's 95 % quantile, so that 90 % lie between.
    assert LONGER.at([-1.644854, 0, 1.644854]).tolist() == pytest.approx([1.2, 1.5, 2.0])
    assert LONGER.at(-1.0) == pytest.approx(1.5 * exp(-log(1.5 / 1.2) / 1.644854))


def test_a_measured_method_takes_its_own_shift() -> None:
    found = output_shift("h2o", "llama-2-7b")
    assert (found.basis, round(found.multiplier, 3)) == ("measured", 0.943)
    assert found.low < found.multiplier < found.high
    assert "not measured on llama-2-7b" in found.provenance
    assert "published of this name: 1.20" in found.provenance
    assert "not measured" not in output_shift("h2o", "smollm2-135m").provenance


def test_the_users_shift_goes_before_the_packages() -> None:
    own = LengthShift("h2o", 1.3, 1.2, 1.4, 0.8, "calibrated", "made up", True, "llama-2-7b")
    found = output_shift("h2o:recent=448,heavy=64", "llama-2-7b", shifts=[own])
    assert (found.multiplier, found.level, found.basis) == (1.3, 0.8, "measured")
    assert output_shift("kivi", "llama-2-7b", shifts=[own]) == output_shift("kivi", "llama-2-7b")


def test_other_parameters_take_the_nearest_published_setup_and_all_their_doubt() -> None:
    small = output_shift("h2o:heavy=10,recent=90")
    assert small.basis == "published"
    assert small.multiplier == pytest.approx(1.201, abs=5e-4)  # 2,048 + 512 tokens, the smallest budget
    assert (small.low, small.high) == pytest.approx((1.042, 1.372), abs=5e-4)
    assert "keeps 2,560 tokens where h2o:heavy=10,recent=90 keeps 100" in small.provenance
    large = output_shift("h2o:heavy=1024,recent=4096")
    assert large.multiplier == pytest.approx(1.196, abs=5e-4)  # 4,096 + 1,024


def test_what_nobody_measured_is_assumed_not_to_shift_and_says_so() -> None:
    found = output_shift("turboquant")
    assert (found.multiplier, found.basis) == (1.0, "assumed-none")
    assert "no shift is assumed" in found.provenance


def test_every_method_has_an_answer() -> None:
    for method in list_methods():
        found = output_shift(method)
        assert found.low <= found.multiplier <= found.high
    assert output_shift("fp16").multiplier == 1.0


def test_a_method_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="kiwi"):
        output_shift("kiwi")


def test_published_shifts_are_what_the_published_lengths_say(shared_data: Path) -> None:
    (study,) = study_shifts(scope=shared_data / "length_shift" / "scope_lengths.csv")
    found = {setup.method_params: known for setup, known in study.methods.items()}
    packaged = json.loads(PUBLISHED_SHIFTS.read_text())
    assert {row["setup"] for row in packaged} == {
        name for name in found if name.startswith(("H2O+h2o", "StreamingLLM+slm"))
    }
    for row in packaged:
        own = found[row["setup"]]
        assert row["multiplier"] == pytest.approx(own.multiplier.value)
        assert (row["low"], row["high"]) == pytest.approx((own.multiplier.low, own.multiplier.high))
        assert (row["cut"], row["cut_baseline"]) == pytest.approx((own.cut, own.base_cut))
        assert (row["model"], row["prompts"], row["verdict"]) == (study.model, own.n_prompts, own.verdict)

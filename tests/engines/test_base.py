"""What a batch's arrivals say of its stages."""

from __future__ import annotations

import math

import pytest

from kvpred.engines.base import Generation


def test_a_true_batch_has_one_prefill_and_equal_steps() -> None:
    done = Generation((100, 100), ((1.0, 1.1, 1.2, 1.3), (1.0, 1.1, 1.2, 1.3)))

    assert done.prefill_time_s == done.ttft_s == 1.0
    assert done.tpot_s == pytest.approx(0.1)
    assert done.e2e_s == pytest.approx(1.3)
    assert done.output_len == 4


def test_staggered_first_tokens_are_prefill_until_the_last() -> None:
    done = Generation((100, 100), ((1.0, 1.5, 2.1, 2.2), (2.0, 2.1, 2.2, 2.3)))

    assert done.prefill_time_s == 2.0
    assert done.ttft_s == 1.5
    # The first sequence waited from 1.5 to 2.1, while the second one's prompt passed.
    assert done.tpot_s == pytest.approx(0.1)


@pytest.mark.parametrize("n_tokens", [2, 3, 32])
def test_a_step_is_not_longer_because_its_tokens_arrive_one_by_one(n_tokens: int) -> None:
    arrivals = [tuple(1.0 + 0.1 * step + 1e-4 * place for step in range(n_tokens)) for place in range(8)]

    assert Generation((100,) * 8, tuple(arrivals)).tpot_s == pytest.approx(0.1)


def test_sequences_one_after_another_have_no_common_step() -> None:
    done = Generation((100, 100), ((1.0, 1.1, 1.2), (2.0, 2.1, 2.2)))

    assert math.isnan(done.tpot_s)


def test_a_single_token_has_no_step() -> None:
    assert math.isnan(Generation((100,), ((1.0,),)).tpot_s)

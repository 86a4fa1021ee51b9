"""Random numbers that all methods share, and distributions told in four numbers."""

from __future__ import annotations

import numpy as np
import pytest

from kvpred.errors import UsageError
from kvpred.predictors.spread import Draws


def test_errors_fill_their_interval_on_each_side() -> None:
    draws = Draws.of(100_000, level=0.8, seed=0)
    sampled = draws.erring(10.0, 9.0, 20.0, draws.time)
    assert np.quantile(sampled, [0.1, 0.5, 0.9]) == pytest.approx([9, 10, 20], rel=0.01)
    assert draws.spread(10.0, sampled).low == pytest.approx(9, rel=0.01)


def test_what_is_sure_does_not_err() -> None:
    draws = Draws.of(100, level=0.9, seed=0)
    assert set(draws.erring(3.0, 3.0, 3.0, draws.time).tolist()) == {3.0}


def test_lengths_are_drawn_evenly() -> None:
    draws = Draws.of(1000, level=0.9, seed=3)
    assert np.floor(1000 * np.sort(draws.length)).tolist() == list(range(1000))


def test_errors_are_independent_of_each_other() -> None:
    draws = Draws.of(20_000, level=0.9, seed=0)
    together = np.corrcoef([draws.length, draws.shift, draws.time, draws.ratio])
    assert np.abs(together - np.eye(4)).max() < 0.03


@pytest.mark.parametrize("samples", [0, 99, 1_000_001])
def test_too_few_and_too_many_samples_are_refused(samples: int) -> None:
    with pytest.raises(UsageError, match=f"samples={samples}"):
        Draws.of(samples, level=0.9, seed=0)

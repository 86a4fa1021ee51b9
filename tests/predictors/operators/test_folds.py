from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvpred.predictors.operators.folds import varying_axes, whole_value_folds

values = st.lists(st.integers(1, 9), min_size=1, max_size=40)


@given(values, st.integers(1, 6), st.integers(0, 3))
def test_each_row_is_held_out_once_and_never_apart_from_its_equals(
    drawn: list[int], n_folds: int, seed: int
) -> None:
    array = np.array(drawn, dtype=float)
    masks = list(whole_value_folds(array, n_folds, seed=seed))
    assert np.sum(masks, axis=0).tolist() == [1] * len(array)
    assert all(not set(array[test]) & set(array[~test]) for test in masks)
    assert len(masks) == min(n_folds, len(set(drawn)))


def test_the_seed_decides_the_folds() -> None:
    array = np.arange(100.0)
    first, again, other = (
        [test.tolist() for test in whole_value_folds(array, 5, seed=seed)] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_only_inputs_with_several_values_can_be_held_out() -> None:
    assert varying_axes(np.array([[1.0, 5.0, 1.0], [1.0, 6.0, 2.0]])) == [1, 2]

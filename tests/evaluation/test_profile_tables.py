from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.evaluation.profile_tables import halves, operator_share, pooled_repeats, token_rows
from tests.in_place import make_profile, own_ms, step_ms


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(0, 5))
def test_halves_are_halves_and_keep_repeats_together(values: list[int], seed: int) -> None:
    keys = np.array(values, dtype=float)[:, None]
    half = halves(keys, seed=seed)
    distinct, first = np.unique(keys[:, 0], return_index=True)
    assert abs(int(half[first].sum()) - len(distinct) / 2) <= 0.5
    assert all(len(set(half[keys[:, 0] == value])) == 1 for value in distinct)


def test_halves_reach_equally_far() -> None:
    half = halves(2.0 ** np.arange(8)[:, None], seed=1)
    assert [sorted(pair) for pair in half.reshape(4, 2).tolist()] == [[0, 1]] * 4


def test_token_counts_belong_to_the_stage_that_passed_them() -> None:
    profile = make_profile()
    tokens = profile.mlp["num_tokens"]
    assert tokens[token_rows(profile, "decode")].tolist() == [1, 2, 4, 8]
    assert tokens[token_rows(profile, "prefill")].tolist() == [128, 256, 512, 1024, 2048]


def test_a_token_count_pools_the_repeats_of_its_sites() -> None:
    profile = make_profile()
    pooled = dict(zip(profile.mlp["num_tokens"].tolist(), pooled_repeats(profile).tolist(), strict=True))
    assert pooled[1] == 4 * 5
    assert pooled[128] == 4
    assert pooled[2048] == 4 * 3


def test_an_operators_share_counts_all_its_calls() -> None:
    profile = make_profile(decode=[(4, 1024)])
    expected = 30 * own_ms("fp16", "decode", 4, 1024)["attn_decode"] / step_ms("fp16", "decode", 4, 1024)
    assert operator_share(profile, "attn_decode", "decode") == pytest.approx(expected)

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.data.profiles import time_column
from kvpred.evaluation.profile_tables import drift, halves, operator_share, pooled_repeats, token_rows
from tests.in_place import make_profile, own_ms, shared_ms, step_ms


@given(st.integers(1, 40), st.integers(0, 5))
def test_every_draw_splits_the_points_into_two_halves(n_points: int, seed: int) -> None:
    found = halves(n_points, seed=seed, draws=3)
    assert len(found) == 6
    for half, other in zip(found[::2], found[1::2], strict=True):
        assert half.sum() == n_points // 2
        assert (half ^ other).all()


def test_drift_is_what_sites_with_as_many_tokens_differ_by() -> None:
    profile = make_profile()
    assert drift(profile, "decode") == pytest.approx(0.0, abs=1e-9)
    slowed = profile.steps[time_column("operators")]
    site = int(np.flatnonzero(~profile.steps["is_prefill"])[0])
    shared = shared_ms("decode", 1, 1)
    slowed[site] += 0.5 * (29 * (sum(shared.values()) - 8.5 - shared["emb"]) + sum(shared.values()))
    # One of 20 sites takes 1.5 times as long, beside four others with as many tokens: 16 degrees of freedom.
    assert drift(profile, "decode") == pytest.approx(np.log(1.5) * np.sqrt(4 / 5 / 16), rel=1e-6)


def test_without_two_sites_of_as_many_tokens_nothing_is_known_of_drift() -> None:
    assert drift(make_profile(decode=[(1, 512), (2, 512)]), "decode") is None


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

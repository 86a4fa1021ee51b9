"""From points to Vidur's tables: rows, statistics, what is pooled, what stays empty; and back from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kvpred.data.profiles import SCHEMAS, STATISTICS, Columns, Manifest, Profile, time_column
from kvpred.data.store import read_profile, write_profile
from kvpred.profiling.grid import Site
from kvpred.profiling.tables import Point, make_profile
from kvpred.profiling.timing import Timing
from tests.tiny import TINY

MANIFEST = Manifest(
    model="tiny", device="host-cpu", method="kivi", method_params="kivi:bits=2", n_layers=2, repeats=3
)
REPEATS = (1.0, 1.1, 1.5)
KEY = ("batch_size", "prefill_chunk_size", "kv_cache_size", "is_prefill")


def _timing(stage: str, seconds: float) -> Timing:
    """Return three repeats in which every operator takes `seconds`, then a tenth and a half more."""
    other = {"prefill": "attn_decode", "decode": "attn_prefill"}[stage]
    names = {*SCHEMAS["attention"].operators, *SCHEMAS["mlp"].operators, "lm_head"} - {other}
    times = [factor * seconds for factor in REPEATS]
    step = [20 * time for time in times]
    return Timing(
        step=step, hooked_step=step, operators=dict.fromkeys(names, times), operators_sum=step, outliers=0
    )


POINTS = [
    Point(Site("decode", 8, 64), _timing("decode", 5e-3)),
    Point(Site("decode", 64, 64), None),
    Point(Site("decode", 1, 64), _timing("decode", 4e-3)),
    Point(Site("prefill", 1, 8), _timing("prefill", 3e-3)),
    Point(Site("decode", 1, 32), _timing("decode", 1e-3)),
    Point(Site("prefill", 2, 8), _timing("prefill", 6e-3)),
]


@pytest.fixture
def made() -> Profile:
    return make_profile(POINTS, model=TINY, manifest=MANIFEST)


def _column(table: Columns, operator: str, statistic: str = "median") -> list[float]:
    return list(table[time_column(operator, statistic)])


def _rows(table: Columns, names: tuple[str, ...] = KEY) -> list[tuple[object, ...]]:
    return list(zip(*(table[name].tolist() for name in names), strict=True))


def test_rows_stand_in_order_of_stage_batch_and_length(made: Profile) -> None:
    order = [(1, 8, 0, True), (2, 8, 0, True), (1, 0, 32, False), (1, 0, 64, False), (8, 0, 64, False)]
    assert _rows(made.attention) == order
    assert _rows(made.steps) == order


def test_times_are_ms_with_their_statistics_over_repeats(made: Profile) -> None:
    place = 2  # decode, one sequence, 32 tokens: 1, 1.1 and 1.5 ms
    found = [made.attention[time_column("attn_decode", name)][place] for name in STATISTICS]
    assert found == pytest.approx([1.0, 1.5, 1.2, 1.1, np.std(REPEATS)], rel=1e-5)
    assert _column(made.steps, "step")[place] == pytest.approx(22)
    assert _column(made.steps, "hooked_step")[place] == pytest.approx(22)
    assert _column(made.steps, "operators")[place] == pytest.approx(22)


def test_attention_is_empty_in_the_other_stage(made: Profile) -> None:
    prefill = made.attention["is_prefill"]
    assert (np.isnan(_column(made.attention, "attn_prefill")) == ~prefill).all()
    assert (np.isnan(_column(made.attention, "attn_decode")) == prefill).all()


def test_shared_operators_pool_all_points_of_as_many_tokens(made: Profile) -> None:
    assert made.mlp["num_tokens"].tolist() == [1, 8, 16]
    one, eight, sixteen = (
        [made.mlp[time_column("mlp_up_proj", name)][row] for name in ("min", "median", "max")]
        for row in range(3)
    )
    assert one == pytest.approx([1.0, (1.5 + 4.0) / 2, 6.0])  # of 1, 1.1, 1.5 and 4, 4.4, 6
    assert eight == pytest.approx([3.0, (4.5 + 5.0) / 2, 7.5])  # a prefill's 8 tokens and a batch of 8
    assert sixteen == pytest.approx([6.0, 6.6, 9.0])


def test_the_lm_head_is_timed_by_decode_steps_alone(made: Profile) -> None:
    lowest = _column(made.mlp, "lm_head", "min")
    assert lowest[:2] == pytest.approx([1.0, 5.0])  # not the prefill's 3 ms, whose LM head saw one token
    assert np.isnan(lowest[2])


def test_the_model_stands_in_every_row(made: Profile) -> None:
    assert set(made.attention["n_q_head"]) == set(made.mlp["n_head"]) == {TINY.n_q_heads}
    assert set(made.mlp["n_expanded_embd"]) == {TINY.intermediate_size}
    assert set(made.mlp["vocab_size"]) == {TINY.vocab_size}
    assert set(made.steps["n_layers"]) == {MANIFEST.n_layers}


def test_the_manifest_learns_noise_and_what_did_not_fit(made: Profile) -> None:
    assert made.manifest is not None
    assert made.manifest.not_fitting == 1
    assert made.manifest.noise["attn_decode"] == pytest.approx(np.std(REPEATS) / 1.1, rel=1e-2)
    assert {"step", "hooked_step", "attn_prefill", "lm_head"} <= set(made.manifest.noise)
    assert made.manifest.created_at is not None
    assert made.manifest.model_copy(update={"noise": {}, "not_fitting": 0, "created_at": None}) == MANIFEST


def test_a_profile_reads_back_as_it_was_made(made: Profile, tmp_path: Path) -> None:
    read = read_profile(write_profile(tmp_path, made))
    assert (read.model, read.device, read.method) == ("tiny", "host-cpu", "kivi:bits=2")
    assert read.manifest == made.manifest
    for name in ("attention", "mlp", "steps"):
        before, after = getattr(made, name), getattr(read, name)
        assert list(after) == list(before)
        for column, values in before.items():
            np.testing.assert_array_equal(after[column], values)


@pytest.mark.parametrize("stage", ["prefill", "decode"])
def test_a_profile_of_one_stage_reads_back(stage: str, tmp_path: Path) -> None:
    points = [point for point in POINTS if point.site.stage == stage]
    made = make_profile(points, model=TINY, manifest=MANIFEST)
    read = read_profile(write_profile(tmp_path, made))
    assert set(read.attention["is_prefill"]) == {stage == "prefill"}
    assert np.isnan(_column(read.mlp, "lm_head")).all() == (stage == "prefill")


def test_without_a_timed_point_all_tables_are_empty() -> None:
    made = make_profile([Point(Site("decode", 64, 64), None)], model=TINY, manifest=MANIFEST)
    assert (made.tables(), made.steps) == ({}, {})
    assert made.manifest is not None and made.manifest.not_fitting == 1

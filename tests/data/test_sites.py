from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kvpred.data.runs import Run, read_runs
from kvpred.data.sites import SITE_COLUMNS, SiteTable, pool_sites, read_site_table, write_site_table
from kvpred.errors import DataError, UsageError


def run(throughput: float, *, prompt_len: int = 256, stage: str = "decode", **fields: object) -> Run:
    facts = {"model": "m", "method": "fp16", "engine": "e", "device": "d", "bsz": 2}
    row = {"prompt_len": prompt_len, "stage": stage, "throughput_tok_s": throughput}
    return Run.model_validate(facts | row | fields)


def assert_same(left: SiteTable, right: SiteTable) -> None:
    for name in SITE_COLUMNS:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


def test_repeats_are_pooled_to_their_medians() -> None:
    table = pool_sites([run(10, label="a"), run(20, label="b"), run(8, label="b", repeat=1)])
    assert (len(table), table.time_s[0], table.throughput_tok_s[0]) == (1, 0.2, 10)
    assert (table.count[0], table.labels[0]) == (3, 2)
    assert table.spread[0] == pytest.approx(np.std(np.log([10, 20, 8]), ddof=1))


def test_single_run_has_no_spread() -> None:
    assert math.isnan(pool_sites([run(10)]).spread[0])


def test_methods_with_other_parameters_are_other_sites() -> None:
    assert pool_sites([run(10, method="kivi:bits=2"), run(10, method="kivi:bits=4")]).method.tolist() == [
        "kivi:bits=2",
        "kivi:bits=4",
    ]


def test_decode_length_with_generated_tokens_is_moved_to_its_nominal_length() -> None:
    runs = [run(900, stage="prefill"), run(10, prompt_len=321), run(11, prompt_len=256)]
    table = pool_sites(runs)
    assert table.prompt_len.tolist() == [256, 256]
    assert table.moved.tolist() == [2 - 1, 0]


def test_length_is_moved_only_from_a_length_no_prefill_has() -> None:
    prefills = [run(900, stage="prefill"), run(900, stage="prefill", prompt_len=321)]
    assert pool_sites([*prefills, run(10, prompt_len=321)]).moved.sum() == 0
    assert pool_sites([run(900, stage="prefill"), run(10, prompt_len=322)]).moved.sum() == 0


def test_alignment_can_be_declined() -> None:
    table = pool_sites([run(900, stage="prefill"), run(10, prompt_len=321)], align_lengths=False)
    assert sorted(table.prompt_len.tolist()) == [256, 321]


def test_mean_cache_length_of_decode_counts_generated_tokens() -> None:
    # Three tokens: the prefill yields the first, two steps see 256 and 257 tokens.
    table = pool_sites([run(900, stage="prefill"), run(10, output_len=3), run(10, prompt_len=512)])
    assert dict(
        zip(table.prompt_len[table.stage == "decode"], table.kv_len[table.stage == "decode"], strict=True)
    ) == {
        256: 256.5,
        512: 512,
    }


def test_duplicates_that_disagree_wildly_are_refused() -> None:
    with pytest.raises(DataError, match="fp16 decode, bsz 2, prompt_len 256, repeat 0: 10 and 40 tok/s"):
        pool_sites([run(10), run(40)])


def test_repeats_may_disagree() -> None:
    assert pool_sites([run(10), run(40, repeat=1)]).count[0] == 2


@pytest.mark.parametrize("trait", ["model", "device", "engine"])
def test_runs_of_different_things_are_not_pooled(trait: str) -> None:
    with pytest.raises(UsageError, match="pool them one at a time"):
        pool_sites([run(10), run(10, **{trait: "other"})])


def test_nothing_cannot_be_pooled() -> None:
    with pytest.raises(UsageError, match="no runs"):
        pool_sites([])


def test_written_table_is_read_back_the_same(tmp_path: Path) -> None:
    table = pool_sites([run(1 / 3), run(7, prompt_len=9), run(9, prompt_len=9, repeat=1)])
    write_site_table(tmp_path / "sites.csv", table)
    assert_same(read_site_table(tmp_path / "sites.csv"), table)


@pytest.mark.parametrize(
    ("column", "value"), [("stage", "warmup"), ("time_s", 0.0), ("bsz", 0), ("count", 0)]
)
def test_bad_site_is_named_with_line_and_column(tmp_path: Path, column: str, value: object) -> None:
    table = pool_sites([run(10)])
    write_site_table(tmp_path / "sites.csv", replace(table, **{column: np.array([value])}))
    with pytest.raises(DataError) as caught:
        read_site_table(tmp_path / "sites.csv")
    assert (caught.value.row, caught.value.column) == (2, column)


def test_published_runs_pool_to_95_sites_per_stage(shared_data: Path) -> None:
    folder = shared_data / "a6000" / "throughput"
    runs = read_runs(folder, model="llama-2-7b", device="a6000", engine="lmdeploy", pool_labels=True)
    table = pool_sites(runs)
    assert [int(np.sum(table.stage == stage)) for stage in ("prefill", "decode")] == [95, 95]
    assert set(table.prompt_len.tolist()) == {256, 512, 1024, 2048, 4000}
    # 16 + 12 + 8 + 8 + 8 decode rows at bsz 1, and one at bsz 8.
    assert table.moved.sum() == 53
    assert np.nanmedian(table.spread) == pytest.approx(0.045, abs=0.01)


def test_labels_of_several_models_say_how_to_pool_them() -> None:
    with pytest.raises(UsageError, match=r"2 models \(a, b\).*--pool-labels"):
        pool_sites([run(10, model="a", label="a"), run(10, model="b", label="b")])


def test_runs_that_carry_no_labels_are_not_told_to_pool_any() -> None:
    with pytest.raises(UsageError) as caught:
        pool_sites([run(10, model="a"), run(10, model="b")])
    assert str(caught.value) == "runs of 2 models (a, b): pool them one at a time"

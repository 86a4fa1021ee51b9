import json
from dataclasses import replace

import numpy as np
import pytest

from kvpred.data.sites import SiteTable
from kvpred.errors import UsageError
from kvpred.evaluation.accuracy import copies, evaluate
from kvpred.evaluation.accuracy_report import AccuracyReport
from kvpred.predictors.crossval import SPLITS, hold_out

HONEST = ("lengths", "batches", "largest batch")


@pytest.fixture(scope="module")
def small(packaged_sites: SiteTable) -> SiteTable:
    """fp16 and H2O decode: what is quick to evaluate."""
    wanted = np.char.startswith(packaged_sites.method, "fp16") | np.char.startswith(
        packaged_sites.method, "h2o"
    )
    return packaged_sites.select(wanted & (packaged_sites.stage == "decode"))


@pytest.mark.parametrize("split", HONEST)
def test_packaged_predictor_reaches_its_accuracy_on_held_out_sites(
    packaged_report: AccuracyReport, split: str
) -> None:
    found = next(one for one in packaged_report.splits if one.split == split)
    assert found.mean >= 0.972
    assert found.worst >= 0.955


@pytest.mark.parametrize("split", HONEST)
def test_packaged_predictor_is_near_its_noise_ceiling(packaged_report: AccuracyReport, split: str) -> None:
    found = next(one for one in packaged_report.splits if one.split == split)
    assert found.mean > found.ceiling - 0.01


@pytest.mark.parametrize("split", ["lengths", "batches"])
def test_packaged_intervals_keep_their_word_in_every_stage(
    packaged_report: AccuracyReport, split: str
) -> None:
    found = next(one for one in packaged_report.splits if one.split == split)
    assert [interval.kept for interval in found.intervals] == [True, True]
    assert all(interval.half_width < 0.1 for interval in found.intervals)


@pytest.mark.parametrize("split", HONEST)
def test_packaged_predictor_beats_the_copy_and_orders_the_methods(
    packaged_report: AccuracyReport, split: str
) -> None:
    found = next(one for one in packaged_report.splits if one.split == split)
    assert found.skill is not None
    assert found.skill > 0.25
    assert all(ranking.tau_b is not None and ranking.tau_b > 0.95 for ranking in found.rankings)


def test_report_covers_every_split_site_and_run(packaged_report: AccuracyReport) -> None:
    assert [split.split for split in packaged_report.splits] == list(SPLITS)
    assert (packaged_report.n_sites, packaged_report.n_runs, packaged_report.n_moved) == (190, 663, 53)
    assert sum(p.split == "lengths" for p in packaged_report.sites) == packaged_report.n_sites


def test_report_is_plain_json(packaged_report: AccuracyReport) -> None:
    text = json.dumps(packaged_report.as_dict(), allow_nan=False)
    assert json.loads(text)["splits"][0]["mean"] == packaged_report.splits[0].mean


def test_worst_sites_come_once_each_and_from_honest_splits(packaged_report: AccuracyReport) -> None:
    worst = packaged_report.worst_sites
    assert len({(p.stage, p.method, p.bsz, p.prompt_len) for p in worst}) == len(worst) == 10
    assert [abs(p.error) for p in worst] == sorted((abs(p.error) for p in worst), reverse=True)
    assert {p.split for p in worst} <= set(HONEST)


def test_a_cell_is_the_mean_over_its_sites(packaged_report: AccuracyReport) -> None:
    cell = packaged_report.splits[0].cells[2]
    own = [
        p
        for p in packaged_report.sites
        if (p.split, p.stage, p.method) == ("lengths", cell.stage, cell.method)
    ]
    assert cell.accuracy == pytest.approx(np.mean([1 - abs(p.error) for p in own]))
    assert cell.skill == pytest.approx(1 - (1 - cell.accuracy) / (1 - cell.copy))


def test_fp16_is_not_compared_with_itself(packaged_report: AccuracyReport) -> None:
    for split in packaged_report.splits:
        for cell in split.cells:
            assert (cell.measured_copy is None) == (cell.skill is None) == (cell.method == "fp16")


def test_the_time_of_a_held_out_length_does_not_reach_its_prediction(small: SiteTable) -> None:
    own = small.prompt_len == 1024
    slowed = replace(small, time_s=np.where(own, 3 * small.time_s, small.time_s))
    held, again = (hold_out(table, "decode", "lengths") for table in (small, slowed))
    assert held.time_s[own[held.row]].tolist() == again.time_s[own[again.row]].tolist()


def test_the_copy_sees_fp16_alone(small: SiteTable) -> None:
    slowed = replace(small, time_s=np.where(small.method == "fp16", small.time_s, 3 * small.time_s))
    copied = [
        copies(table, "decode", "batches", hold_out(table, "decode", "batches")).tolist()
        for table in (small, slowed)
    ]
    assert copied[0] == copied[1]


def test_same_sites_and_seed_give_the_same_report(small: SiteTable) -> None:
    assert evaluate(small, seed=3) == evaluate(small, seed=3)


def test_a_lower_level_gives_narrower_intervals(small: SiteTable) -> None:
    wide, narrow = (evaluate(small, level=level).splits[0].intervals[0].half_width for level in (0.9, 0.5))
    assert narrow < wide


def test_splits_that_a_small_table_cannot_bear_are_left_out_by_name(small: SiteTable) -> None:
    report = evaluate(small.select(small.bsz == 4))
    assert [split.split for split in report.splits] == ["lengths", "random rows"]
    assert set(report.left_out) == {"batches, decode", "largest batch, decode"}
    assert "too few decode sites" in report.left_out["batches, decode"]


def test_too_few_sites_are_refused(small: SiteTable) -> None:
    with pytest.raises(UsageError, match="too few sites to hold any out"):
        evaluate(small.select(np.arange(2)))


@pytest.mark.parametrize("level", [0.0, 1.0, 90.0])
def test_a_level_outside_zero_to_one_is_refused(small: SiteTable, level: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        evaluate(small, level=level)

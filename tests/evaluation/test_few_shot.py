import json
from dataclasses import replace

import numpy as np
import pytest

from kvpred.data.sites import SiteTable
from kvpred.errors import UsageError
from kvpred.evaluation.few_shot import FewShotReport, few_shot


@pytest.fixture(scope="module")
def learnt(packaged_sites: SiteTable) -> FewShotReport:
    return few_shot(packaged_sites, n_sites=(0, 1, 2, 4), draws=10)


@pytest.fixture(scope="module")
def decode(packaged_sites: SiteTable) -> SiteTable:
    """fp16, H2O and KIVI decode: what is quick to learn."""
    bare = np.char.partition(packaged_sites.method, ":")[:, 0]
    return packaged_sites.select(np.isin(bare, ("fp16", "h2o", "kivi")) & (packaged_sites.stage == "decode"))


def slowed(sites: SiteTable, name: str, factor: float) -> SiteTable:
    return replace(
        sites, time_s=np.where(np.char.startswith(sites.method, name), factor * sites.time_s, sites.time_s)
    )


@pytest.mark.parametrize(("n_sites", "least"), [(1, 0.965), (2, 0.972), (4, 0.974)])
def test_few_planned_sites_reach_their_accuracy(learnt: FewShotReport, n_sites: int, least: float) -> None:
    summary = next(one for one in learnt.summaries if one.n_sites == n_sites)
    assert summary.planned >= least
    assert summary.planned > summary.copy


def test_one_site_lifts_h2o_prefill_by_five_points(learnt: FewShotReport) -> None:
    zero, one = (
        next(c for c in learnt.cells if (c.stage, c.method[:3], c.n_sites) == ("prefill", "h2o", n))
        for n in (0, 1)
    )
    assert one.planned - zero.planned >= 0.05


def test_planned_sites_beat_random_and_unanchored_ones(learnt: FewShotReport) -> None:
    for summary in learnt.summaries:
        if summary.n_sites in (1, 2):
            assert summary.planned > summary.random
            assert summary.unanchored is not None
            assert summary.planned > summary.unanchored


def test_few_shot_intervals_hold_at_least_what_chance_allows(learnt: FewShotReport) -> None:
    for summary in learnt.summaries:
        assert all(interval.coverage >= interval.band_low for interval in summary.intervals)


def test_without_sites_the_prediction_is_the_copy_of_fp16(learnt: FewShotReport) -> None:
    for cell in learnt.cells:
        if cell.n_sites == 0:
            assert cell.planned == pytest.approx(cell.copy, abs=1e-4)
            assert cell.unanchored is None


def test_sites_are_chosen_before_any_run_of_the_method_is_seen(decode: SiteTable) -> None:
    plans = [
        [(cell.method, cell.chosen) for cell in few_shot(table, n_sites=(2,), draws=1).cells]
        for table in (decode, slowed(slowed(decode, "h2o", 1.4), "kivi", 0.7))
    ]
    assert plans[0] == plans[1]


def test_other_methods_do_not_reach_the_predictions(decode: SiteTable) -> None:
    scores = [
        [cell.planned for cell in few_shot(table, n_sites=(1,), draws=1).cells if cell.method[:3] == "h2o"]
        for table in (decode, slowed(decode, "kivi", 1.3))
    ]
    assert scores[0] == scores[1]


def test_tested_sites_are_all_the_others(learnt: FewShotReport) -> None:
    assert {cell.n_tested + cell.n_sites for cell in learnt.cells} == {19}
    assert all(len(set(cell.chosen)) == cell.n_sites for cell in learnt.cells)


def test_report_is_plain_json(learnt: FewShotReport) -> None:
    json.dumps(learnt.as_dict(), allow_nan=False)


def test_numbers_of_sites_that_leave_none_to_test_are_left_out(decode: SiteTable) -> None:
    pair = decode.select(~np.char.startswith(decode.method, "kivi"))
    report = few_shot(pair, n_sites=(1, 19), draws=1)
    assert [summary.n_sites for summary in report.summaries] == [1]


def test_fp16_alone_is_refused(decode: SiteTable) -> None:
    with pytest.raises(UsageError, match="no method but fp16"):
        few_shot(decode.select(decode.method == "fp16"))

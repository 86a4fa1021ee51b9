from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kendalltau

from kvpred.data.sites import SiteTable
from kvpred.evaluation.ranking import Ranking, rank_methods

MakeSites = Callable[..., SiteTable]

METHODS = ["fp16", "gear", "h2o", "kivi"]


@pytest.fixture
def one_site(make_sites: MakeSites) -> Callable[[list[float]], SiteTable]:
    def at_one_site(measured_s: list[float]) -> SiteTable:
        n = len(measured_s)
        sites = make_sites(np.array(measured_s), count=np.ones(n, dtype=int), sigma=0.0)
        return replace(sites, method=np.array(METHODS[:n]), prompt_len=np.full(n, 512))

    return at_one_site


def rank(sites: SiteTable, predicted_s: list[float], error: float = 0.01) -> Ranking:
    return rank_methods(sites, np.array(predicted_s), np.full(len(sites), error), stage="decode")


def test_the_measured_order_scores_one(one_site: Callable[[list[float]], SiteTable]) -> None:
    ranking = rank(one_site([1.0, 2.0, 3.0]), [10.0, 20.0, 30.0])
    assert (ranking.pairs, ranking.right, ranking.wrong, ranking.tau_b) == (3, 3, 0, 1.0)


@pytest.mark.parametrize("predicted_s", [[4.0, 1.0, 3.0, 2.0], [1.0, 1.0, 2.0, 3.0], [2.0, 2.0, 1.0, 1.0]])
def test_tau_b_is_kendalls_where_all_methods_are_told_apart(
    one_site: Callable[[list[float]], SiteTable], predicted_s: list[float]
) -> None:
    measured_s = [1.0, 2.0, 3.0, 4.0]
    expected = kendalltau(measured_s, predicted_s, variant="b").statistic
    assert rank(one_site(measured_s), predicted_s).tau_b == pytest.approx(expected)


def test_pairs_within_the_noise_are_not_asked_about(one_site: Callable[[list[float]], SiteTable]) -> None:
    ranking = rank(one_site([1.0, 1.02, 2.0]), [3.0, 2.0, 9.0], error=0.01)
    assert (ranking.all_pairs, ranking.pairs, ranking.wrong) == (3, 2, 0)


def test_one_time_for_all_orders_nothing(one_site: Callable[[list[float]], SiteTable]) -> None:
    ranking = rank(one_site([1.0, 2.0, 3.0]), [5.0, 5.0, 5.0])
    assert (ranking.right, ranking.wrong, ranking.tau_b, ranking.right_signs) == (0, 0, None, 0)


def test_speed_ups_are_counted_against_fp16_alone(one_site: Callable[[list[float]], SiteTable]) -> None:
    ranking = rank(one_site([2.0, 1.0, 3.0]), [2.0, 1.0, 1.5])
    assert (ranking.speedups, ranking.right_signs) == (2, 1)


def test_methods_are_compared_at_the_same_site_only(make_sites: MakeSites) -> None:
    sites = make_sites(np.array([1.0, 2.0]), count=np.ones(2, dtype=int), sigma=0.0)
    apart = replace(sites, method=np.array(["fp16", "h2o"]))
    assert rank(apart, [1.0, 2.0]).all_pairs == 0

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from kvpred.data.sites import SiteTable
from kvpred.evaluation.noise import median_noise
from kvpred.predictors.calibration import ASSUMED_RUN_NOISE

MakeSites = Callable[..., SiteTable]


def test_ceiling_is_what_a_predictor_that_knows_every_true_time_scores(make_sites: MakeSites) -> None:
    true_s = np.linspace(0.02, 0.08, 4000)
    sites = make_sites(true_s, count=np.tile([1, 2, 3, 4], 1000), sigma=0.05)
    scored = np.mean(1 - np.abs(true_s / sites.time_s - 1))
    assert 1 - np.mean(median_noise(sites).loss) == pytest.approx(scored, abs=0.0015)


def test_a_single_run_has_the_noise_of_a_run_and_two_that_of_their_mean(make_sites: MakeSites) -> None:
    sites = make_sites(np.ones(3000), count=np.tile([1, 2, 2], 1000), sigma=0.04)
    single, double, _ = median_noise(sites).error[:3]
    assert single == pytest.approx(0.04, rel=0.05)
    assert double == pytest.approx(0.04 / np.sqrt(2), rel=0.05)


def test_the_noise_of_many_runs_goes_over_smoothly_into_its_limit(make_sites: MakeSites) -> None:
    below, above = median_noise(make_sites(np.ones(2), count=np.array([49, 51]), sigma=0.04)).error
    assert above / below == pytest.approx(np.sqrt(49 / 51), rel=0.02)


def test_a_method_measured_once_borrows_the_noise_of_the_others(make_sites: MakeSites) -> None:
    repeated = make_sites(np.ones(500), count=np.full(500, 4), sigma=0.05)
    once = make_sites(np.ones(1), count=np.array([1]), sigma=0.05, method="h2o")
    both = SiteTable(
        *(np.concatenate([getattr(repeated, name), getattr(once, name)]) for name in SiteTable.__slots__)
    )
    assert median_noise(both).error[-1] == pytest.approx(0.05, rel=0.05)


def test_sites_that_were_all_measured_once_get_the_usual_noise(make_sites: MakeSites) -> None:
    sites = make_sites(np.ones(3), count=np.ones(3, dtype=int), sigma=0.05)
    assert median_noise(sites).error == pytest.approx(ASSUMED_RUN_NOISE, rel=0.01)


def test_prefill_and_decode_keep_their_own_noise(make_sites: MakeSites) -> None:
    quiet = make_sites(np.ones(300), count=np.full(300, 4), sigma=0.01)
    loud = replace(make_sites(np.ones(300), count=np.full(300, 4), sigma=0.1), stage=np.full(300, "prefill"))
    both = SiteTable(
        *(np.concatenate([getattr(quiet, name), getattr(loud, name)]) for name in SiteTable.__slots__)
    )
    error = median_noise(both).error
    assert error[-1] / error[0] == pytest.approx(10, rel=0.1)

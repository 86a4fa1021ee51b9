import json

import numpy as np
import pytest

from kvpred.data.sites import SiteTable
from kvpred.evaluation.published import PublishedScoring, published_scoring


@pytest.fixture(scope="module")
def scoring(packaged_sites: SiteTable) -> PublishedScoring:
    return published_scoring(packaged_sites)


def test_held_out_sites_score_below_the_sites_of_the_fit(scoring: PublishedScoring) -> None:
    in_sample, _, _, held_out = scoring.definitions
    assert 0.97 < held_out.accuracy < in_sample.accuracy


def test_shrinking_the_prefill_costs_a_good_predictor_points(scoring: PublishedScoring) -> None:
    _, small, as_published, _ = scoring.definitions
    assert as_published.accuracy < small.accuracy - 0.03
    assert as_published.n_sites == small.n_sites


def test_shrunk_prefills_are_the_only_ones_that_lose(packaged_sites: SiteTable) -> None:
    short = packaged_sites.select(packaged_sites.bsz * packaged_sites.prompt_len <= 4096)
    _, small, as_published, _ = published_scoring(short).definitions
    assert as_published.accuracy == small.accuracy


def test_published_figures_stand_for_the_methods_that_were_measured(
    scoring: PublishedScoring, packaged_sites: SiteTable
) -> None:
    measured = {str(method).partition(":")[0] for method in np.unique(packaged_sites.method)}
    assert set(scoring.published) == measured
    assert max(scoring.published.values()) == 0.884


def test_mean_is_that_of_the_methods(scoring: PublishedScoring) -> None:
    for definition in scoring.definitions:
        assert definition.accuracy == pytest.approx(np.mean(list(definition.by_method.values())))


def test_scoring_is_plain_json(scoring: PublishedScoring) -> None:
    assert len(json.loads(json.dumps(scoring.as_dict()))["definitions"]) == 4

import json

import numpy as np
import pytest

from kvpred.data.sites import SiteTable
from kvpred.errors import UsageError
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


def test_definitions_that_the_sites_cannot_bear_are_left_out(packaged_sites: SiteTable) -> None:
    large = published_scoring(packaged_sites.select(packaged_sites.bsz > 4))
    assert [one.name for one in large.definitions] == ["in sample", "held out"]


def test_what_cannot_be_held_out_is_named(packaged_sites: SiteTable) -> None:
    one_batch = packaged_sites.select(packaged_sites.bsz == 4)
    held_out = published_scoring(one_batch).definitions[-1]
    assert held_out.name == "held out"
    assert held_out.meaning.endswith("too few to hold out batches of decode, batches of prefill.")
    assert held_out.n_sites == len(one_batch)


def test_too_few_sites_for_any_definition_are_refused(packaged_sites: SiteTable) -> None:
    with pytest.raises(UsageError, match="too few sites"):
        published_scoring(packaged_sites.select(np.arange(2)))

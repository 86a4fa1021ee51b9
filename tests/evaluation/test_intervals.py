from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from kvpred.data.sites import SiteTable
from kvpred.errors import UsageError
from kvpred.evaluation.intervals import binomial_band, coverage, log_half_widths
from kvpred.predictors.crossval import hold_out


@pytest.mark.parametrize(("n", "share"), [(1, 0.5), (25, 0.9), (95, 0.9), (400, 0.8)])
def test_binomial_band_is_the_central_range_of_the_binomial_distribution(n: int, share: float) -> None:
    assert binomial_band(n, share) == pytest.approx(tuple(binom.ppf([0.025, 0.975], n, share) / n))


def test_coverage_counts_what_lies_inside_and_states_the_mean_width() -> None:
    judged = coverage("decode", np.array([True] * 18 + [False] * 2), np.full(20, 0.1), level=0.9)
    assert judged.coverage == pytest.approx(0.9)
    assert judged.half_width == pytest.approx((np.exp(0.1) - np.exp(-0.1)) / 2)
    assert judged.kept


def test_half_of_the_sites_inside_breaks_the_promise_of_nine_in_ten() -> None:
    assert not coverage("decode", np.array([True, False] * 20), np.full(40, 0.1), level=0.9).kept


def test_intervals_of_the_largest_batch_are_learnt_without_it(packaged_sites: SiteTable) -> None:
    fp16 = packaged_sites.select((packaged_sites.method == "fp16") & (packaged_sites.stage == "prefill"))
    slowed = replace(fp16, time_s=np.where(fp16.bsz == fp16.bsz.max(), 3 * fp16.time_s, fp16.time_s))
    widths = [
        log_half_widths(table, "prefill", hold_out(table, "prefill", "largest batch"), level=0.9)
        for table in (fp16, slowed)
    ]
    assert widths[0].tolist() == widths[1].tolist()


def test_intervals_of_a_length_are_learnt_without_it(packaged_sites: SiteTable) -> None:
    fp16 = packaged_sites.select((packaged_sites.method == "fp16") & (packaged_sites.stage == "prefill"))
    own = fp16.prompt_len == 1024
    slowed = replace(fp16, time_s=np.where(own, 1.5 * fp16.time_s, fp16.time_s))
    held = hold_out(fp16, "prefill", "lengths")
    others_scores = hold_out(slowed, "prefill", "lengths").score
    assert not np.allclose(others_scores, held.score)
    mixed = replace(held, score=np.where(own[held.row], 99.0, held.score))
    widths = [log_half_widths(fp16, "prefill", one, level=0.5) for one in (held, mixed)]
    assert widths[0][own[held.row]].tolist() == widths[1][own[held.row]].tolist()


def test_two_batch_sizes_are_too_few_for_intervals_of_the_largest(packaged_sites: SiteTable) -> None:
    two = packaged_sites.select(np.isin(packaged_sites.bsz, (1, 2)) & (packaged_sites.stage == "prefill"))
    held = hold_out(two, "prefill", "largest batch")
    with pytest.raises(UsageError, match="too few prefill sites"):
        log_half_widths(two, "prefill", held, level=0.9)

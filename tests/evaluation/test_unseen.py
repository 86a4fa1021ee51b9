"""Sites drawn at random: inside what was measured, and none that was."""

from __future__ import annotations

import numpy as np
import pytest

from kvpred.errors import NotCoveredError, UsageError
from kvpred.evaluation.unseen import draw_sites
from kvpred.predictors.predictor import Predictor


def test_sites_are_unseen_and_inside_the_range(packaged: Predictor) -> None:
    sites = draw_sites(packaged, n_sites=50, seed=3)
    table = packaged.sites
    seen = set(zip(table.bsz.tolist(), table.prompt_len.tolist(), strict=True))
    assert len(set(sites)) == 50
    assert not seen & {(site.bsz, site.prompt_len) for site in sites}
    most = int(np.max(table.bsz * (table.prompt_len + table.output_len)))
    assert max(site.bsz * (site.prompt_len + site.output_len) for site in sites) <= most
    bsz, length = (np.array([getattr(s, name) for s in sites]) for name in ("bsz", "prompt_len"))
    assert packaged.stages["prefill"].domain.contains(bsz=bsz, length=length).all()


def test_sites_spread_evenly_in_octaves(packaged: Predictor) -> None:
    lengths = np.log2([site.prompt_len for site in draw_sites(packaged, n_sites=400)])
    halves = lengths < (lengths.min() + lengths.max()) / 2
    assert 0.3 < halves.mean() < 0.7


def test_a_seed_draws_the_same_sites_and_another_one_others(packaged: Predictor) -> None:
    assert draw_sites(packaged, n_sites=12, seed=1) == draw_sites(packaged, n_sites=12, seed=1)
    assert draw_sites(packaged, n_sites=12, seed=1) != draw_sites(packaged, n_sites=12, seed=2)


def test_a_range_too_small_is_refused(packaged: Predictor) -> None:
    with pytest.raises(UsageError, match=r"only \d+ unseen sites"):
        draw_sites(packaged, n_sites=1_000_000)


def test_no_site_at_all_is_refused(packaged: Predictor) -> None:
    with pytest.raises(UsageError, match="sites=0"):
        draw_sites(packaged, n_sites=0)


def test_a_predictor_without_runs_has_no_range(packaged: Predictor) -> None:
    from dataclasses import replace

    from kvpred.data.sites import SiteTable

    with pytest.raises(NotCoveredError, match="calibrate"):
        draw_sites(replace(packaged, sites=SiteTable.empty()), n_sites=3)

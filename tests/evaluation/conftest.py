"""The packaged sites, and sites made of known times and known noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from kvpred.data.sites import SiteTable
from kvpred.evaluation.accuracy import evaluate
from kvpred.evaluation.accuracy_report import AccuracyReport
from kvpred.predictors.predictor import Predictor

MakeSites = Callable[..., SiteTable]


@pytest.fixture(scope="session")
def packaged_sites(packaged: Predictor) -> SiteTable:
    return packaged.sites


@pytest.fixture(scope="session")
def packaged_report(packaged_sites: SiteTable) -> AccuracyReport:
    return evaluate(packaged_sites)


@pytest.fixture
def make_sites() -> MakeSites:
    """Return a maker of decode sites from true times in seconds, with log-normal noise on every run."""

    def make(
        true_s: np.ndarray, *, count: np.ndarray, sigma: float, method: str = "fp16", seed: int = 0
    ) -> SiteTable:
        rng = np.random.default_rng(seed)
        runs = [
            time_s * np.exp(sigma * rng.standard_normal(n)) for time_s, n in zip(true_s, count, strict=True)
        ]
        time_s = np.array([np.median(times) for times in runs])
        n_sites = len(true_s)
        return SiteTable(
            method=np.full(n_sites, method),
            stage=np.full(n_sites, "decode"),
            bsz=np.ones(n_sites, dtype=np.int64),
            prompt_len=np.arange(1, n_sites + 1),
            output_len=np.ones(n_sites, dtype=np.int64),
            time_s=time_s,
            throughput_tok_s=1.0 / time_s,
            count=count,
            spread=np.array([np.std(np.log(times), ddof=1) if len(times) > 1 else np.nan for times in runs]),
            labels=np.zeros(n_sites, dtype=np.int64),
            moved=np.zeros(n_sites, dtype=np.int64),
        )

    return make

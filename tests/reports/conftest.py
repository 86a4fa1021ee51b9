"""A small report on real sites: fp16 and H2O of the packaged predictor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from kvpred.evaluation.accuracy import evaluate
from kvpred.evaluation.accuracy_report import AccuracyReport
from kvpred.evaluation.few_shot import FewShotReport, few_shot
from kvpred.evaluation.published import PublishedScoring, published_scoring
from kvpred.predictors.predictor import Predictor


@dataclass(frozen=True)
class Evaluated:
    report: AccuracyReport
    few_shot: FewShotReport
    published: PublishedScoring


@pytest.fixture(scope="session")
def evaluated(packaged: Predictor) -> Evaluated:
    bare = np.char.partition(packaged.sites.method, ":")[:, 0]
    sites = packaged.sites.select(np.isin(bare, ("fp16", "h2o")))
    return Evaluated(evaluate(sites), few_shot(sites, n_sites=(0, 1, 2), draws=3), published_scoring(sites))

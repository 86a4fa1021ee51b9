"""Made-up servers whose laws are known, so that what a fit finds can be compared with the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

import numpy as np
import pytest

from kvpred.data.sites import SiteTable
from kvpred.hardware import get_device
from kvpred.methods import get_method
from kvpred.models import get_model
from kvpred.predictors.calibration import canonical, stage_lengths
from kvpred.predictors.greybox import Array, StageForm, StageSites
from kvpred.predictors.predictor import Predictor, fit_predictor
from kvpred.predictors.scaling import Place

# Of the size that the published runs show: launches 50 ms, 0.17 ms per token, 13 ns per pair of tokens; a
# decode step 34 ms, 0.2 ms per sequence, 0.83 µs per cached token.
LAWS = {
    "prefill": (StageForm("prefill", overlap=2.0), np.array([0.05, 1.7e-4, 1.3e-8])),
    "decode": (StageForm("decode"), np.array([0.034, 2e-4, 8.3e-7])),
}
METHODS = {"fp16": 1.0, "kivi": 0.95, "h2o": 1.1}

MakeTable = Callable[..., SiteTable]
MakeSites = Callable[..., StageSites]


@pytest.fixture(scope="session")
def here() -> Place:
    return Place(get_model("llama-2-7b"), get_device("a6000"))


@pytest.fixture(scope="session")
def make_sites() -> MakeSites:
    """Return a maker of one method's sites that follow a form exactly, or with relative noise."""

    def make(
        form: StageForm,
        coef: Array,
        *,
        bsz: tuple[int, ...] = (1, 2, 4, 8),
        length: tuple[int, ...] = (128, 512, 1024, 2048, 4096),
        noise: float = 0.0,
        seed: int = 0,
    ) -> StageSites:
        batch, tokens = np.array(list(product(bsz, length)), dtype=float).T
        time_s = form.times(form.terms(bsz=batch, length=tokens), coef)
        jitter = np.random.default_rng(seed).normal(scale=noise, size=len(time_s))
        return StageSites(batch, tokens, time_s * np.exp(jitter))

    return make


@pytest.fixture(scope="session")
def make_table() -> MakeTable:
    """Return a maker of a server's site table: each method the laws above times its factor, with noise."""

    def make(
        *,
        bsz: tuple[int, ...] = (1, 2, 4, 8),
        prompt_len: tuple[int, ...] = (128, 256, 512, 1024, 2048, 4096),
        methods: Mapping[str, float] = METHODS,
        noise: float = 0.03,
        count: int = 4,
        seed: int = 0,
    ) -> SiteTable:
        names, stages, batches, prompts = zip(*product(methods, LAWS, bsz, prompt_len), strict=True)
        n_sites = len(names)
        table = SiteTable(
            method=np.array([get_method(name).spec for name in names]),
            stage=np.array(stages),
            bsz=np.array(batches),
            prompt_len=np.array(prompts),
            output_len=np.ones(n_sites, dtype=np.int64),
            time_s=np.ones(n_sites),
            throughput_tok_s=np.ones(n_sites),
            count=np.full(n_sites, count),
            spread=np.full(n_sites, noise * np.sqrt(count) if count > 1 else np.nan),
            labels=np.zeros(n_sites, dtype=np.int64),
            moved=np.zeros(n_sites, dtype=np.int64),
        )
        lengths, factors = stage_lengths(table), np.array([methods[name] for name in names])
        for stage, (form, coef) in LAWS.items():
            rows = table.stage == stage
            terms = form.terms(bsz=table.bsz[rows], length=lengths[rows])
            table.time_s[rows] = form.times(terms, coef) * factors[rows]
        table.time_s[:] *= np.exp(np.random.default_rng(seed).normal(scale=noise, size=n_sites))
        tokens = table.bsz * np.where(table.stage == "prefill", table.prompt_len, 1)
        table.throughput_tok_s[:] = tokens / table.time_s
        return canonical(table)

    return make


@pytest.fixture(scope="session")
def made_up(make_table: MakeTable, here: Place) -> Predictor:
    """A predictor of made-up runs."""
    table = make_table(bsz=(1, 2, 8))
    return fit_predictor(table, place=here, engine="lmdeploy", provenance="made up, for tests")

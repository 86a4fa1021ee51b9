from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from kvpred.data.sites import RunSite
from kvpred.errors import UsageError
from kvpred.methods import BASELINE
from kvpred.models import get_model
from kvpred.predictors.calibration import fit_stage_methods, predict_sites, sites_of, stage_lengths
from kvpred.predictors.greybox import PRIOR_STRENGTH, STAGES, StageFit, StageForm, StageSites, fit_stage
from kvpred.predictors.planning import METHOD_SITES, candidate_sites, next_run, plan_for, plan_sites
from kvpred.predictors.predictor import Predictor

FORM, COEF = StageForm("decode"), np.array([0.034, 2e-4, 8.3e-7])


@pytest.fixture(scope="module")
def candidates(make_sites: Callable[..., StageSites]) -> StageSites:
    return make_sites(FORM, COEF)


@pytest.fixture(scope="module")
def fp16(candidates: StageSites) -> StageFit:
    return fit_stage(FORM, candidates)


@pytest.fixture
def plan(fp16: StageFit, candidates: StageSites) -> Callable[..., list[int]]:
    def choose(n_sites: int, **options: object) -> list[int]:
        return plan_sites(fp16, bsz=candidates.bsz, length=candidates.length, n_sites=n_sites, **options)

    return choose


@pytest.mark.parametrize("n_sites", [0, 1, 2, 5, 20])
def test_planned_sites_differ(plan: Callable[..., list[int]], n_sites: int) -> None:
    chosen = plan(n_sites)
    assert len(set(chosen)) == len(chosen) == n_sites
    assert set(chosen) <= set(range(20))


def test_the_same_question_gets_the_same_plan(plan: Callable[..., list[int]]) -> None:
    assert plan(4) == plan(4)


@pytest.mark.parametrize("n_sites", [1, 2, 4])
def test_measured_sites_are_not_planned_again(plan: Callable[..., list[int]], n_sites: int) -> None:
    first = plan(n_sites)
    second = plan(n_sites, measured=first)
    assert not set(first) & set(second)


@pytest.mark.parametrize(("n_sites", "measured"), [(21, []), (20, [0]), (-1, [])])
def test_more_sites_than_there_are_cannot_be_planned(
    plan: Callable[..., list[int]], n_sites: int, measured: list[int]
) -> None:
    with pytest.raises(UsageError, match=f"cannot choose {n_sites} of {20 - len(measured)}"):
        plan(n_sites, measured=measured)


@pytest.fixture(scope="module")
def mean_variance(fp16: StageFit, candidates: StageSites) -> Callable[..., float]:
    """Posterior variance of a Bayesian regression on the multipliers, meaned over all candidates."""
    shares = fp16.shares(bsz=candidates.bsz, length=candidates.length)

    def variance(*chosen: int) -> float:
        precision = PRIOR_STRENGTH * np.eye(3) + sum(np.outer(shares[i], shares[i]) for i in chosen)
        return float(np.mean([row @ np.linalg.inv(precision) @ row for row in shares]))

    return variance


@pytest.mark.parametrize("n_sites", [1, 2, 3])
def test_no_other_choice_leaves_predictions_more_certain(
    plan: Callable[..., list[int]], mean_variance: Callable[..., float], n_sites: int
) -> None:
    best = min(mean_variance(*chosen) for chosen in combinations(range(20), n_sites))
    assert mean_variance(*plan(n_sites)) == pytest.approx(best, rel=0.01)


def test_a_plan_completes_what_is_measured(
    plan: Callable[..., list[int]], mean_variance: Callable[..., float]
) -> None:
    measured = [0, 1]
    best = min(mean_variance(*measured, other) for other in range(2, 20))
    assert mean_variance(*measured, *plan(1, measured=measured)) == pytest.approx(best)


@pytest.mark.parametrize("n_sites", [1, 2, 4])
def test_planned_sites_teach_more_than_random_ones(
    plan: Callable[..., list[int]], fp16: StageFit, candidates: StageSites, n_sites: int
) -> None:
    rng = np.random.default_rng(0)
    where = {"bsz": candidates.bsz, "length": candidates.length}

    def error(chosen: list[int], measured: StageSites, truth: np.ndarray) -> float:
        fit = fit_stage(FORM, measured.select(np.array(chosen)), prior=fp16)
        return float(np.mean(np.abs(fit.times(**where) / truth - 1)))

    planned, random = [], []
    for _ in range(100):
        truth = FORM.times(FORM.terms(**where), COEF * rng.lognormal(sigma=0.15, size=3))
        measured = StageSites(**where, time_s=truth * rng.lognormal(sigma=0.03, size=20))
        planned.append(error(plan(n_sites), measured, truth))
        random.append(error(rng.choice(20, n_sites, replace=False).tolist(), measured, truth))
    assert np.mean(planned) < 0.95 * np.mean(random)


@pytest.fixture(scope="module")
def few_shot(packaged: Predictor) -> Callable[[int], dict[tuple[str, str], float]]:
    """Accuracy by (method, stage) on the published runs, from n planned sites; all others are the test."""
    table = packaged.sites

    def accuracy(n_sites: int) -> dict[tuple[str, str], float]:
        found = {}
        for stage in STAGES:
            for method in set(packaged.methods) - {BASELINE}:
                pair = table.select((table.stage == stage) & np.isin(table.method, (BASELINE, method)))
                own = pair.method == method
                fp16 = fit_stage_methods(pair, stage, train=~own).fits[BASELINE]
                sites = sites_of(pair, stage_lengths(pair), own)
                plan = plan_sites(fp16, bsz=sites.bsz, length=sites.length, n_sites=n_sites)
                train = ~own
                train[np.flatnonzero(own)[plan]] = True
                time_s, _ = predict_sites(fit_stage_methods(pair, stage, train=train), pair, ~train)
                found[method.partition(":")[0], stage] = float(
                    np.mean(1 - np.abs(time_s / pair.time_s[~train] - 1))
                )
        return found

    return accuracy


@pytest.mark.parametrize(("n_sites", "mean"), [(1, 0.965), (2, 0.972), (4, 0.974)])
def test_few_published_runs_suffice(
    few_shot: Callable[[int], dict[tuple[str, str], float]], n_sites: int, mean: float
) -> None:
    assert np.mean(list(few_shot(n_sites).values())) >= mean


def test_one_run_corrects_what_copying_fp16_gets_wrong(
    few_shot: Callable[[int], dict[tuple[str, str], float]],
) -> None:
    copied, taught = few_shot(0), few_shot(1)
    assert taught["h2o", "prefill"] - copied["h2o", "prefill"] >= 0.05


# Both stages together


MODEL = get_model("smollm2-135m")
CANDIDATES = candidate_sites(max_seq_len=8192, max_tokens=16640)


def test_candidates_fit_into_context_and_batch() -> None:
    assert {site.bsz for site in CANDIDATES} == {1, 2, 4, 8}
    assert max(site.prompt_len + site.output_len for site in CANDIDATES) == 8192
    assert max(site.bsz * (site.prompt_len + site.output_len) for site in CANDIDATES) <= 16640
    assert candidate_sites(max_seq_len=200, max_tokens=10_000) == []


def test_a_fresh_machine_gets_a_plan() -> None:
    plan = plan_for(None, MODEL, ["fp16", "kv-int8", "h2o"], CANDIDATES, 8)
    assert {name: len(sites) for name, sites in plan.items()} == {
        "fp16": 8,
        "kv-int8": METHOD_SITES,
        "h2o": METHOD_SITES,
    }
    for sites in plan.values():
        assert len(set(sites)) == len(sites)
        assert set(sites) <= set(CANDIDATES)


def test_fp16s_plan_tells_its_terms_apart() -> None:
    sites = plan_for(None, MODEL, ["fp16"], CANDIDATES, 8)["fp16"]
    alone = [site.prompt_len for site in sites if site.bsz == 1]
    assert max(alone) >= 4 * min(alone)
    assert len({site.bsz for site in sites}) >= 3
    assert max(site.bsz * site.prompt_len for site in sites) >= 8192


def test_fewer_sites_than_usual_are_shared_by_all_methods() -> None:
    plan = plan_for(None, MODEL, ["fp16", "kivi"], CANDIDATES, 2)
    assert {len(sites) for sites in plan.values()} == {2}


def test_what_is_measured_is_not_planned_again() -> None:
    first = plan_for(None, MODEL, ["fp16", "kivi:bits=2"], CANDIDATES, 6)
    second = plan_for(None, MODEL, ["fp16", "kivi:bits=2"], CANDIDATES, 6, first)
    for name, sites in first.items():
        assert not set(sites) & set(second[name])


def test_a_predictor_of_the_model_takes_the_nominal_rates_place(packaged: Predictor) -> None:
    llama = packaged.place.model
    fitted, nominal = (plan_for(source, llama, ["fp16"], CANDIDATES, 8) for source in (packaged, None))
    other = plan_for(packaged, MODEL, ["fp16"], CANDIDATES, 8)
    assert fitted != nominal
    assert other == plan_for(None, MODEL, ["fp16"], CANDIDATES, 8)


def test_more_sites_than_candidates_cannot_be_planned_for() -> None:
    with pytest.raises(UsageError, match="cannot choose 3 of 2"):
        plan_for(None, MODEL, ["fp16"], CANDIDATES[:2], 3)


def test_the_next_run_is_one_that_is_not_measured(packaged: Predictor) -> None:
    measured, new = RunSite(4, 512), RunSite(8, 3000)
    method, site = next_run(packaged, [measured, new]) or ("", measured)
    assert method in packaged.methods
    assert site == new
    assert next_run(packaged, [measured]) is None

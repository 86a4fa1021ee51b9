from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.errors import UsageError
from kvpred.predictors.greybox import StageFit, StageForm, StageSites, fit_stage

PREFILL = (StageForm("prefill", overlap=2.0), np.array([0.05, 1.7e-4, 1.3e-8]))
DECODE = (StageForm("decode"), np.array([0.034, 2e-4, 8.3e-7]))
DECODE_OVERLAPPED = (StageForm("decode", overlap=2.0), np.array([0.034, 2e-3, 8.3e-7]))
DECODE_HINGED = (StageForm("decode", hinge=4), np.array([0.034, 2e-4, 8.3e-7, 4e-3]))
# What a two-core CPU shows under a paged engine: reading one long cache is half as dear as reading several.
DECODE_CROWDED = (StageForm("decode", crowded=True), np.array([0.0066, 2.5e-4, 9.5e-7, 8.5e-7]))
LAWS = [PREFILL, (StageForm("prefill"), PREFILL[1]), DECODE, DECODE_OVERLAPPED, DECODE_HINGED, DECODE_CROWDED]
BATCHES = (1, 2, 4, 8, 16)
NONE = StageSites(np.zeros(0), np.zeros(0), np.zeros(0))

MakeSites = Callable[..., StageSites]
forms = st.builds(
    StageForm,
    st.sampled_from(["prefill", "decode"]),
    st.sampled_from([1.0, 2.0]),
    st.none() | st.integers(1, 16),
)
queries = {"bsz": st.integers(1, 512), "length": st.integers(1, 10**6)}


@st.composite
def laws(draw: st.DrawFn) -> tuple[StageForm, np.ndarray]:
    form = draw(forms)
    n_terms = form.terms(bsz=1, length=1).size
    return form, np.array(draw(st.lists(st.floats(1e-9, 10.0), min_size=n_terms, max_size=n_terms)))


def fit_of(form: StageForm, coef: np.ndarray) -> StageFit:
    return StageFit(form, coef, np.eye(len(coef)))


def test_prefill_is_made_of_launches_tokens_and_pairs_of_tokens() -> None:
    assert StageForm("prefill").terms(bsz=4, length=100).tolist() == [1, 400, 40_000]


def test_a_decode_step_is_made_of_launches_sequences_and_cached_tokens() -> None:
    assert StageForm("decode").terms(bsz=4, length=100).tolist() == [1, 4, 400]


def test_a_hinge_costs_from_its_batch_size_on() -> None:
    hinged = StageForm("decode", hinge=4).terms(bsz=[2, 4, 5, 9], length=100)
    assert hinged[:, 3].tolist() == [0, 0, 1, 5]


def test_crowded_caches_cost_more_from_two_sequences_on() -> None:
    crowded = StageForm("decode", crowded=True).terms(bsz=[1, 2, 4], length=100)
    assert crowded[:, 2:].tolist() == [[100, 0], [200, 200], [400, 400]]


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_every_term_has_a_name(law) -> None:
    form, coef = law
    assert len(form.term_names) == len(set(form.term_names)) == len(coef)


def test_overlap_hides_most_of_the_smaller_part() -> None:
    launches_3_tokens_4 = np.array([3.0, 4.0, 0.0])
    assert fit_of(StageForm("prefill", 1.0), launches_3_tokens_4).times(bsz=1, length=1) == 7
    assert fit_of(StageForm("prefill", 2.0), launches_3_tokens_4).times(bsz=1, length=1) == 5


@given(law=laws(), **queries)
def test_shares_of_the_time_sum_to_one(law, bsz: int, length: int) -> None:
    shares = fit_of(*law).shares(bsz=bsz, length=length)
    assert np.all(shares >= 0)
    assert shares.sum() == pytest.approx(1.0)


@given(law=laws(), **queries)
def test_slopes_times_coefficients_are_the_time(law, bsz: int, length: int) -> None:
    form, coef = law
    terms = form.terms(bsz=bsz, length=length)
    assert form.slopes(terms, coef) @ coef == pytest.approx(float(form.times(terms, coef)))


@given(law=laws(), **queries)
def test_slopes_are_the_derivatives_of_the_time(law, bsz: int, length: int) -> None:
    form, coef = law
    terms = form.terms(bsz=bsz, length=length)
    time_s = float(form.times(terms, coef))
    for k, slope in enumerate(form.slopes(terms, coef)):
        step = coef[k] * 1e-4 * np.eye(len(coef))[k]
        difference = float(form.times(terms, coef + step) - form.times(terms, coef - step))
        assert slope * 2 * step[k] == pytest.approx(difference, rel=1e-3, abs=1e-12 * time_s)


@given(law=laws(), **queries, factor=st.integers(2, 10))
def test_more_is_never_faster(law, bsz: int, length: int, factor: int) -> None:
    fit = fit_of(*law)
    time_s = fit.times(bsz=bsz, length=length)
    assert time_s <= fit.times(bsz=bsz * factor, length=length) * (1 + 1e-12)
    assert time_s <= fit.times(bsz=bsz, length=length * factor) * (1 + 1e-12)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_clean_times_give_the_coefficients_back(law, make_sites: MakeSites) -> None:
    form, coef = law
    fit = fit_stage(form, make_sites(form, coef, bsz=BATCHES))
    np.testing.assert_allclose(fit.coef, coef, rtol=1e-6)


@given(st.integers(0, 2**32 - 1), forms, st.floats(0.01, 1.0))
def test_no_coefficient_is_ever_negative(seed: int, form: StageForm, noise: float) -> None:
    rng = np.random.default_rng(seed)
    sites = StageSites(
        rng.integers(1, 16, 12).astype(float),
        rng.integers(16, 9000, 12).astype(float),
        rng.lognormal(-3, noise, 12),
    )
    fit = fit_stage(form, sites)
    assert np.all(fit.coef >= 0)
    assert np.all(fit.times(bsz=sites.bsz, length=sites.length) > 0)


@pytest.mark.parametrize("law", [DECODE, DECODE_HINGED], ids=str)
def test_fewer_sites_than_terms_are_refused_without_a_prior(law, make_sites: MakeSites) -> None:
    form, coef = law
    sites = make_sites(form, coef).select(np.arange(len(coef) - 1))
    with pytest.raises(UsageError, match=f"{len(coef) - 1} sites of decode; at least {len(coef)}"):
        fit_stage(form, sites)


# What a fit leaves uncertain


def test_leverage_is_the_variance_that_refits_show(make_sites: MakeSites) -> None:
    form, coef = DECODE[0], np.array([0.034, 4e-3, 2e-6])
    noise, away = 0.01, {"bsz": np.array([1, 8, 32]), "length": np.array([128, 4096, 16384])}
    fits = [fit_stage(form, make_sites(form, coef, noise=noise, seed=seed)) for seed in range(400)]
    seen = np.var(np.log([fit.times(**away) for fit in fits]), axis=0) / noise**2
    stated = np.mean([fit.leverage(**away) for fit in fits], axis=0)
    np.testing.assert_allclose(stated, seen, rtol=0.25)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_leverage_grows_beyond_the_sites(law, make_sites: MakeSites) -> None:
    form, coef = law
    fit = fit_stage(form, make_sites(form, coef))
    further = fit.leverage(bsz=[4, 8, 16, 64], length=[1024, 4096, 8192, 32768])
    assert np.all(np.diff(further) > 0)


def test_more_sites_leave_less_uncertain(make_sites: MakeSites) -> None:
    form, coef = DECODE
    few, many = (
        fit_stage(form, make_sites(form, coef, length=n)) for n in ((128, 4096), (128, 512, 2048, 4096))
    )
    assert np.all(np.diag(many.covariance) < np.diag(few.covariance))


# Few shots


@pytest.fixture
def fp16(make_sites: MakeSites) -> dict[str, StageFit]:
    return {form.stage: fit_stage(form, make_sites(form, coef)) for form, coef in (PREFILL, DECODE)}


@pytest.mark.parametrize("stage", ["prefill", "decode"])
def test_without_sites_a_method_copies_fp16(stage: str, fp16: dict[str, StageFit]) -> None:
    prior = fp16[stage]
    fit = fit_stage(prior.form, NONE, prior=prior)
    np.testing.assert_allclose(fit.coef, prior.coef, rtol=1e-9)


@pytest.mark.parametrize("stage", ["prefill", "decode"])
@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_one_site_moves_the_fit_toward_it(stage: str, factor: float, fp16: dict[str, StageFit]) -> None:
    prior = fp16[stage]
    place = {"bsz": np.array([4.0]), "length": np.array([2048.0])}
    copied = prior.times(**place)
    fit = fit_stage(prior.form, StageSites(**place, time_s=copied * factor), prior=prior)
    moved = float(fit.times(**place)[0] / copied[0])
    assert min(1, factor) < moved < max(1, factor)
    assert abs(moved - factor) < 0.2 * abs(factor - 1)


def test_many_sites_outweigh_the_prior(fp16: dict[str, StageFit], make_sites: MakeSites) -> None:
    prior = fp16["decode"]
    sites = make_sites(prior.form, prior.coef * [0.8, 1.5, 1.5])
    fit = fit_stage(prior.form, sites, prior=prior)
    np.testing.assert_allclose(fit.times(bsz=sites.bsz, length=sites.length), sites.time_s, rtol=0.03)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_a_method_of_another_kind_is_believed_after_four_sites(
    factor: float, fp16: dict[str, StageFit], make_sites: MakeSites
) -> None:
    prior = fp16["decode"]
    attention = prior.coef * [1.0, 1.0, factor]
    everywhere = make_sites(prior.form, attention)
    few = make_sites(prior.form, attention, bsz=(1, 8), length=(512, 4096), noise=0.02)
    fit = fit_stage(prior.form, few, prior=prior)
    error = np.abs(fit.times(bsz=everywhere.bsz, length=everywhere.length) / everywhere.time_s - 1)
    assert np.mean(error) < 0.03
    assert fit.surprise < 3


def test_noisy_repeats_leave_a_method_nearer_to_fp16(fp16: dict[str, StageFit]) -> None:
    prior, place = fp16["decode"], {"bsz": np.array([4.0]), "length": np.array([2048.0])}
    sites = StageSites(**place, time_s=1.1 * prior.times(**place))
    quiet, noisy = (fit_stage(prior.form, sites, prior=prior, noise=noise) for noise in (0.03, 0.12))
    assert prior.times(**place) < noisy.times(**place) < quiet.times(**place)


def test_predictions_err_together_as_much_as_each_errs(fp16: dict[str, StageFit]) -> None:
    place = {"bsz": np.array([1.0, 8.0]), "length": np.array([512.0, 4096.0])}
    together = fp16["decode"].prediction_covariance(**place)
    np.testing.assert_allclose(np.diag(together), fp16["decode"].leverage(**place))
    np.testing.assert_allclose(together, together.T)


def test_a_site_leaves_a_method_less_uncertain_than_none(fp16: dict[str, StageFit]) -> None:
    prior, place = fp16["decode"], {"bsz": np.array([8.0]), "length": np.array([4096.0])}
    none = fit_stage(prior.form, NONE, prior=prior)
    one = fit_stage(prior.form, StageSites(**place, time_s=prior.times(**place)), prior=prior)
    assert one.leverage(**place) < 0.2 * none.leverage(**place)


def test_a_cost_that_fp16_does_not_show_may_grow_as_if_it_barely_did(make_sites: MakeSites) -> None:
    form, costly = DECODE[0], np.array([0.034, 2e-3, 8.3e-7])
    priors = [fit_stage(form, make_sites(form, np.array([0.034, shown, 8.3e-7]))) for shown in (0.0, 1e-9)]
    none, barely = (fit_stage(form, make_sites(form, costly), prior=prior).coef[1] for prior in priors)
    assert none == pytest.approx(barely, rel=0.01)
    assert none > 1e-5

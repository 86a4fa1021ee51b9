from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import kvpred
from kvpred.data.runs import read_runs
from kvpred.data.sites import SiteTable, pool_sites
from kvpred.errors import UsageError
from kvpred.methods import get_method
from kvpred.predictors.crossval import SPLITS
from kvpred.predictors.greybox import STAGES
from kvpred.predictors.predictor import MOST_LOG_ERROR, Predictor, fit_predictor
from kvpred.predictors.scaling import FIELD_SPEEDUP, Place

MakeTable = Callable[..., SiteTable]
H2O = get_method("h2o").spec


@pytest.fixture
def fit(here: Place) -> Callable[..., Predictor]:
    def fit(table: SiteTable, **options: bool) -> Predictor:
        return fit_predictor(table, place=here, engine="lmdeploy", provenance="made up", **options)

    return fit


def test_the_packaged_predictor_is_what_the_published_runs_give(shared_data, packaged: Predictor) -> None:
    runs = read_runs(
        shared_data / "a6000" / "throughput",
        model="llama-2-7b",
        device="a6000",
        engine="lmdeploy",
        pool_labels=True,
    )
    again = fit_predictor(
        pool_sites(runs), place=packaged.place, engine="lmdeploy", provenance="", assess=False
    )
    for stage in STAGES:
        made, packed = again.stages[stage], packaged.stages[stage]
        assert made.fits.form == packed.fits.form
        np.testing.assert_array_equal(made.domain.corners, packed.domain.corners)
        for method, found in made.fits.fits.items():
            np.testing.assert_allclose(found.coef, packed.fits.fits[method].coef, rtol=1e-5, atol=1e-12)


def test_a_fit_is_the_same_every_time(make_table: MakeTable, fit: Callable[..., Predictor]) -> None:
    table = make_table(methods={"fp16": 1.0, "h2o": 1.1}, bsz=(1, 8), prompt_len=(128, 512, 4096))
    first, second = fit(table), fit(table)
    assert first.accuracy == second.accuracy
    for stage in STAGES:
        assert first.stages[stage].scores.tolist() == second.stages[stage].scores.tolist()


def test_what_held_out_sites_taught_is_kept(made_up: Predictor) -> None:
    assert list(made_up.accuracy) == list(SPLITS)
    for split in SPLITS:
        assert set(made_up.accuracy[split]) == {f"{m} {s}" for m in made_up.methods for s in STAGES}
        assert min(made_up.accuracy[split].values()) > 0.93
    for stage in STAGES:
        scores = made_up.stages[stage].scores
        assert len(scores) == 2 * np.count_nonzero(made_up.sites.stage == stage)
        assert np.all(np.diff(scores) >= 0)


def test_made_up_runs_at_new_sites_fall_into_their_intervals(
    made_up: Predictor, make_table: MakeTable
) -> None:
    inside = []
    for seed in (8, 9):
        fresh = make_table(bsz=(1, 3, 6, 8), prompt_len=(192, 384, 768, 1536, 3072), seed=seed)
        for method in made_up.methods:
            rows = fresh.select(fresh.method == method)
            found = kvpred.predict(
                method=method, bsz=rows.bsz, prompt_len=rows.prompt_len, output_len=1, predictor=made_up
            )
            for stage, field in (("prefill", "ttft_s"), ("decode", "tpot_s")):
                (low, high), of = found.interval[field], rows.stage == stage
                inside += ((low <= rows.time_s) & (rows.time_s <= high))[of].tolist()
    # Eighteen sites of a method tell its noise to about a sixth, so coverage varies between such fits.
    assert 0.8 <= np.mean(inside) <= 0.98


def test_only_methods_with_runs_of_both_stages_are_measured(
    make_table: MakeTable, fit: Callable[..., Predictor]
) -> None:
    table = make_table()
    predictor = fit(table.select((table.method != H2O) | (table.stage == "prefill")), assess=False)
    assert H2O not in predictor.methods
    assert kvpred.predict(method="h2o", bsz=2, prompt_len=512, predictor=predictor).basis == "roofline"


@pytest.mark.parametrize("missing", STAGES)
def test_both_stages_are_needed(make_table: MakeTable, fit: Callable[..., Predictor], missing: str) -> None:
    table = make_table()
    with pytest.raises(UsageError, match=f"there are no {missing} runs"):
        fit(table.select(table.stage != missing), assess=False)


def test_fp16_is_needed(make_table: MakeTable, fit: Callable[..., Predictor]) -> None:
    with pytest.raises(UsageError, match="there are no fp16 runs"):
        fit(make_table(methods={"h2o": 1.0}))


def test_runs_of_one_batch_size_suffice(make_table: MakeTable, fit: Callable[..., Predictor]) -> None:
    predictor = fit(make_table(bsz=(1,)))
    assert set(predictor.accuracy) == {"lengths", "random rows"}
    estimate = kvpred.predict(method="kivi", bsz=1, prompt_len=700, predictor=predictor)
    assert (estimate.basis, estimate.in_domain) == ("calibrated", True)


def test_runs_of_one_length_suffice(make_table: MakeTable, fit: Callable[..., Predictor]) -> None:
    predictor = fit(make_table(prompt_len=(1024,)))
    assert set(predictor.accuracy) == {"batches", "largest batch", "random rows"}
    assert kvpred.predict(method="kivi", bsz=3, prompt_len=1024, output_len=1, predictor=predictor).in_domain


def test_a_stage_may_reach_further_than_the_other(
    make_table: MakeTable, fit: Callable[..., Predictor]
) -> None:
    table = make_table(methods={"fp16": 1.0}, bsz=(1, 2, 8), prompt_len=(128, 512, 4096))
    predictor = fit(table.select((table.stage == "decode") | (table.bsz < 8)))
    assert set(predictor.accuracy["largest batch"]) == {"fp16 prefill", "fp16 decode"}


def test_without_held_out_sites_errors_are_taken_to_be_normal(
    make_table: MakeTable, fit: Callable[..., Predictor]
) -> None:
    predictor = fit(make_table(), assess=False)
    assert predictor.accuracy == {}
    found = kvpred.predict(method="fp16", bsz=4, prompt_len=1000, level=0.9, predictor=predictor)
    low, high = found.interval["ttft_s"]
    error = predictor.stages["prefill"].fits.error("fp16", bsz=4, length=1000)
    assert np.log(high / low) == pytest.approx(2 * 1.6449 * error, rel=1e-4)


def test_far_out_an_interval_is_as_wide_as_what_is_published_of_unknown_kernels(packaged: Predictor) -> None:
    assert pytest.approx(-np.log(FIELD_SPEEDUP["decode"][0])) == MOST_LOG_ERROR
    stage, places = packaged.stages["decode"], {"bsz": 2.0 ** np.arange(3, 17), "length": np.array([16.0])}
    error = stage.fits.error("fp16", **places)
    for level, share in ((0.5, 0.41), (0.9, 1.0), (0.99, 1.566)):
        width = stage.log_half_width(error, **places, level=level)
        assert np.all(np.diff(width) >= 0)
        assert width[0] < 0.2 * width[-1]
        # Quantiles of the normal distribution: 0.674, 1.645 and 2.576.
        assert width[-1] == pytest.approx(share * MOST_LOG_ERROR, rel=1e-3)


def test_sites_that_are_off_by_more_keep_their_interval(packaged: Predictor) -> None:
    stage = packaged.stages["decode"]
    vague = replace(stage, fits=replace(stage.fits, site_error=dict.fromkeys(stage.fits.site_error, 1.0)))
    inside, far = {"bsz": 4, "length": 1024.0}, {"bsz": 2**16, "length": 16.0}
    error, far_error = (vague.fits.error("fp16", **where) for where in (inside, far))
    width = vague.log_half_width(error, **inside, level=0.9)
    assert width == pytest.approx(vague.score(0.9) * error)
    assert MOST_LOG_ERROR < width < vague.log_half_width(far_error, **far, level=0.9)


def test_near_the_sites_an_interval_grows_as_its_error_and_the_octaves(packaged: Predictor) -> None:
    stage = packaged.stages["decode"]
    near = {"bsz": np.array([1, 8, 32]), "length": np.array([2048.0])}
    error = stage.fits.error("fp16", **near)
    octaves = np.array([0, 0, 2])
    width = stage.log_half_width(error, **near, level=0.9)
    assert width == pytest.approx(stage.score(0.9) * error * (1 + stage.growth_per_octave * octaves))


def test_short_method_names_are_written_out(make_table: MakeTable, fit: Callable[..., Predictor]) -> None:
    table = make_table()
    short = replace(table, method=np.array([name.partition(":")[0] for name in table.method]))
    assert fit(short, assess=False).methods == fit(table, assess=False).methods

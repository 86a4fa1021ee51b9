from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.data.sites import SiteTable
from kvpred.errors import UsageError
from kvpred.methods import get_method, list_methods
from kvpred.predictors.calibration import (
    ASSUMED_RUN_NOISE,
    canonical,
    fit_stage_methods,
    mean_attended,
    predict_sites,
    stage_lengths,
)

MakeTable = Callable[..., SiteTable]
H2O, KIVI = get_method("h2o").spec, get_method("kivi").spec
METHODS = [method.spec for method in list_methods()]


@given(st.sampled_from(METHODS), st.integers(1, 5000), st.integers(1, 300))
def test_attended_tokens_are_those_of_each_step_averaged(method: str, prompt: int, output: int) -> None:
    steps = [
        get_method(method).attended_tokens(prompt + i - 1, prompt_len=prompt)
        for i in range(1, max(output - 1, 1) + 1)
    ]
    found = mean_attended(method, prompt_len=prompt, output_len=output)
    assert found == pytest.approx(np.mean(steps))


@given(
    st.sampled_from(METHODS),
    st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 300)), min_size=1, max_size=6),
)
def test_many_requests_attend_as_each_alone(method: str, requests: list[tuple[int, int]]) -> None:
    prompts, outputs = np.array(requests).T
    alone = [mean_attended(method, prompt_len=p, output_len=o) for p, o in requests]
    assert mean_attended(method, prompt_len=prompts, output_len=outputs).tolist() == alone


def test_a_generation_of_ten_million_tokens_is_averaged_without_filling_the_memory() -> None:
    assert mean_attended("fp16", prompt_len=1, output_len=5_000_002) == pytest.approx(1 + 5_000_000 / 2)


def test_h2o_is_measured_by_what_it_attends_to(make_table: MakeTable) -> None:
    table = make_table(methods={"h2o": 1.0}, bsz=(1,), prompt_len=(256, 4096))
    lengths = stage_lengths(table)
    assert lengths[table.stage == "prefill"].tolist() == [256, 4096]
    assert lengths[table.stage == "decode"].tolist() == [256, 512]


def test_methods_are_written_out(make_table: MakeTable) -> None:
    table = make_table(methods={"kivi": 1.0}, bsz=(1,), prompt_len=(256,))
    short = replace(table, method=np.array(["kivi:bits=4"] * len(table)))
    assert set(canonical(short).method) == {KIVI}
    assert short.method[0] == "kivi:bits=4"


def test_each_method_gets_its_own_times(make_table: MakeTable) -> None:
    table = make_table(noise=0.0)
    for stage in ("prefill", "decode"):
        rows = table.stage == stage
        time_s, _ = predict_sites(fit_stage_methods(table, stage), table, rows)
        np.testing.assert_allclose(time_s, table.time_s[rows], rtol=0.01)


def test_a_method_without_training_runs_copies_fp16(make_table: MakeTable) -> None:
    table = make_table()
    fits = fit_stage_methods(table, "prefill", train=table.method != H2O).fits
    np.testing.assert_allclose(fits[H2O].coef, fits["fp16"].coef)


def test_rows_left_out_of_training_do_not_matter(make_table: MakeTable) -> None:
    table = make_table()
    train = table.bsz < 8
    spoilt = replace(table, time_s=np.where(train, table.time_s, 1e3), count=np.where(train, table.count, 99))
    for stage in ("prefill", "decode"):
        here, there = (fit_stage_methods(t, stage, train=train) for t in (table, spoilt))
        assert here.form == there.form
        assert here.site_error == there.site_error
        assert here.run_noise == there.run_noise
        assert here.typical_count == there.typical_count
        assert all(np.array_equal(here.fits[name].coef, there.fits[name].coef) for name in here.fits)


@pytest.mark.parametrize("stage", ["prefill", "decode"])
def test_without_fp16_there_is_nothing_to_be_relative_to(make_table: MakeTable, stage: str) -> None:
    table = make_table(methods={"h2o": 1.0, "kivi": 1.0})
    with pytest.raises(UsageError, match=f"there are no fp16 runs of {stage}"):
        fit_stage_methods(table, stage)


def test_two_sites_of_fp16_are_too_few(make_table: MakeTable) -> None:
    table = make_table(bsz=(1,), prompt_len=(256, 512))
    with pytest.raises(UsageError, match=re.escape("fp16 has 2 sites of decode; at least 3")):
        fit_stage_methods(table, "decode")


# Errors


def test_site_errors_are_the_noise_of_the_sites(make_table: MakeTable) -> None:
    lengths = tuple(int(2**octave) for octave in np.linspace(7, 13, 25))
    fits = fit_stage_methods(make_table(prompt_len=lengths, noise=0.03), "decode")
    assert list(fits.site_error.values()) == pytest.approx([0.03] * 3, rel=0.2)


def test_run_noise_is_the_spread_of_repeats(make_table: MakeTable) -> None:
    fits = fit_stage_methods(make_table(noise=0.03, count=4), "decode")
    assert list(fits.run_noise.values()) == pytest.approx([0.06] * 3)


def test_runs_measured_once_each_are_taken_for_a_quiet_servers(make_table: MakeTable) -> None:
    fits = fit_stage_methods(make_table(count=1), "decode")
    assert set(fits.run_noise.values()) == {ASSUMED_RUN_NOISE}


def test_repeats_of_one_method_tell_the_noise_of_the_others(make_table: MakeTable) -> None:
    table = make_table(noise=0.03, count=4)
    once = table.method == H2O
    table = replace(table, count=np.where(once, 1, table.count), spread=np.where(once, np.nan, table.spread))
    assert fit_stage_methods(table, "decode").run_noise[H2O] == pytest.approx(0.06)


@pytest.mark.parametrize("stage", ["prefill", "decode"])
def test_a_median_of_fewer_runs_is_less_certain(make_table: MakeTable, stage: str) -> None:
    fits = fit_stage_methods(make_table(count=4), stage)
    place = {"bsz": 4, "length": 1024}
    one, four, many = (fits.error("fp16", **place, count=count) for count in (1, 4, 100))
    assert one > four == many == fits.error("fp16", **place)
    assert one**2 - four**2 == pytest.approx(0.06**2 * (1 - 1 / 4))


def test_a_method_with_few_sites_is_less_certain(make_table: MakeTable) -> None:
    table = make_table()
    few = (table.method != H2O) | ((table.bsz == 8) & (table.prompt_len == 4096))
    place = {"bsz": 1, "length": 128}
    whole, shot = (fit_stage_methods(table, "prefill", train=train) for train in (None, few))
    assert shot.error(H2O, **place) > 1.5 * whole.error(H2O, **place)


def test_only_the_asked_rows_are_predicted(make_table: MakeTable) -> None:
    table = make_table()
    rows = (table.stage == "decode") & (table.bsz == 2)
    time_s, error = predict_sites(fit_stage_methods(table, "decode"), table, rows)
    assert len(time_s) == len(error) == np.count_nonzero(rows)
    assert np.isfinite([time_s, error]).all()

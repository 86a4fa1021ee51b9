"""A sweep in place teaches its own laws: operators, overhead, and nothing of the sites held out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kvpred.data.profiles import time_column
from kvpred.errors import DataError, UsageError
from kvpred.evaluation.accuracy import evaluate
from kvpred.hardware import get_device
from kvpred.methods import get_method
from kvpred.models import get_model
from kvpred.predictors import bundle
from kvpred.predictors.estimate import Estimate, predict
from kvpred.predictors.in_place import StepsOfSites, predictor_of_steps, profile_at, step_sites
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.scaling import Place
from tests.in_place import (
    DECODE,
    DEVICE,
    ENGINE,
    FACTORS,
    MODEL,
    OVERHEAD_MS,
    PREFILL,
    make_profile,
    step_ms,
)

# Between and beside the profiled sites.
UNSEEN = [(1, 700), (2, 900), (3, 512), (8, 1500)]


@pytest.fixture(scope="module")
def place() -> Place:
    return Place(get_model(MODEL), get_device(DEVICE))


@pytest.fixture(scope="module")
def predictor(place: Place) -> Predictor:
    profiles = [make_profile(method, noise=0.01) for method in FACTORS]
    return predictor_of_steps(profiles, place=place, engine=ENGINE, provenance="made by hand")


def _estimate(predictor: Predictor, method: str, bsz: int, length: int) -> Estimate:
    return predict(
        method=method, bsz=bsz, prompt_len=length, output_len=1, predictor=predictor,
        model=MODEL, device=DEVICE, engine=ENGINE,
    )  # fmt: skip


def test_steps_become_sites_with_their_repeats() -> None:
    sites = step_sites([make_profile("h2o", noise=0.02)])
    assert len(sites) == len(PREFILL) + len(DECODE)
    assert set(sites.method) == {get_method("h2o").spec}
    assert set(sites.count) == {4}
    assert np.median(sites.spread) == pytest.approx(0.02, rel=0.3)
    first = sites.select(np.array([0]))
    assert (first.stage[0], first.bsz[0], first.prompt_len[0], first.output_len[0]) == ("decode", 1, 128, 1)
    assert first.time_s[0] == pytest.approx(step_ms("h2o", "decode", 1, 128) / 1e3, rel=0.05)
    assert first.throughput_tok_s[0] == pytest.approx(1 / first.time_s[0])


@pytest.mark.parametrize("method", FACTORS)
@pytest.mark.parametrize(("bsz", "length"), UNSEEN)
def test_unseen_steps_follow_the_law(predictor: Predictor, method: str, bsz: int, length: int) -> None:
    found = _estimate(predictor, method, bsz, length)
    assert found.basis == "calibrated"
    assert found.tpot_s == pytest.approx(step_ms(method, "decode", bsz, length) / 1e3, rel=0.02)
    assert found.ttft_s == pytest.approx(step_ms(method, "prefill", bsz, length) / 1e3, rel=0.04)


def test_the_overhead_is_found_beside_operators_that_count_once(predictor: Predictor) -> None:
    for stage, overhead_ms in OVERHEAD_MS.items():
        coef = predictor.stages[stage].fits.fits["fp16"].coef
        assert coef[0] == pytest.approx(overhead_ms / 1e3, rel=0.3)
        assert coef[1:] == pytest.approx([1.0, 1.0], abs=0.04)


def test_sites_that_were_held_out_are_predicted(predictor: Predictor) -> None:
    assert min(predictor.accuracy["lengths"].values()) > 0.97
    assert min(predictor.accuracy["batches"].values()) > 0.97
    assert len(predictor.accuracy["lengths"]) == 2 * len(FACTORS)


def test_a_copy_of_fp16_has_fp16s_operators(predictor: Predictor) -> None:
    report = evaluate(predictor.sites, profiles=predictor.profiles)
    (lengths,) = (split for split in report.splits if split.split == "lengths")
    (kivi,) = (cell for cell in lengths.cells if cell.method.startswith("kivi") and cell.stage == "decode")
    assert kivi.copy < 0.95 < kivi.accuracy


def test_an_evicting_methods_decode_costs_the_same_past_its_budget(predictor: Predictor) -> None:
    short, long = (_estimate(predictor, "h2o", 4, length).tpot_s for length in (1024, 4096))
    assert short == pytest.approx(long)


def test_a_bundle_of_steps_comes_back_equal(predictor: Predictor, tmp_path: Path) -> None:
    bundle.save(predictor, tmp_path / "bundle")
    loaded = bundle.load(tmp_path / "bundle")
    for method in FACTORS:
        assert _estimate(loaded, method, 2, 900).as_dict() == _estimate(predictor, method, 2, 900).as_dict()


def test_operators_are_fitted_to_the_given_sites_alone(place: Place) -> None:
    honest, spoilt = make_profile(), make_profile()
    sites = step_sites([honest])
    kept = sites.select(sites.prompt_len != 512)
    held = np.maximum(spoilt.attention["prefill_chunk_size"], spoilt.attention["kv_cache_size"]) == 512
    for operator in ("attn_decode", "attn_kv_cache_save"):
        spoilt.attention[time_column(operator)][held] *= 100
    at = {"bsz": np.array([1.0, 4.0]), "length": np.array([512.0, 512.0])}
    clean, unaware = (
        StepsOfSites([profile], place, "physics")(kept)["fp16"].device_s("decode", **at)
        for profile in (honest, spoilt)
    )
    np.testing.assert_array_equal(clean, unaware)


def test_a_profile_keeps_the_rows_of_its_methods_sites() -> None:
    profile, other = make_profile(), make_profile("kivi")
    sites = step_sites([profile, other])
    short = sites.select((sites.prompt_len == 128) & (sites.method == "fp16"))
    kept = profile_at(profile, short)
    assert kept is not None
    assert len(kept.attention["batch_size"]) == 3 + 4
    assert kept.mlp["num_tokens"].tolist() == [1, 2, 4, 8, 128, 256, 512]
    assert profile_at(other, short) is None
    assert profile_at(profile, short.select(short.stage == "decode")) is None


def test_a_stack_of_fewer_layers_is_summed_to_the_model_and_says_so(place: Place) -> None:
    profiles = [make_profile(method, noise=0.01, n_layers=6) for method in ("fp16", "kivi")]
    predictor = predictor_of_steps(profiles, place=place, engine=ENGINE, provenance="made by hand")
    for method in ("fp16", "kivi"):
        found = _estimate(predictor, method, 2, 900)
        low, high = found.interval["tpot_s"]
        assert found.basis == "profiled"
        assert found.tpot_s == pytest.approx(step_ms(method, "decode", 2, 900) / 1e3, rel=0.03)
        assert low < found.tpot_s < high < 1.5 * found.tpot_s


def test_stacks_of_different_layers_are_refused(place: Place) -> None:
    profiles = [make_profile(), make_profile("kivi", n_layers=6)]
    with pytest.raises(DataError, match="stacks of 6 and 30 layers"):
        predictor_of_steps(profiles, place=place, engine=ENGINE, provenance="made by hand")


def test_steps_without_fp16_teach_nothing(place: Place) -> None:
    with pytest.raises(UsageError, match="no fp16"):
        predictor_of_steps([make_profile("kivi")], place=place, engine=ENGINE, provenance="made by hand")


def test_steps_that_were_not_repeated_have_no_spread() -> None:
    profile = make_profile(noise=0.02)
    assert profile.manifest is not None
    once = replace(profile, manifest=profile.manifest.model_copy(update={"repeats": 1}))
    assert np.isnan(step_sites([once]).spread).all()

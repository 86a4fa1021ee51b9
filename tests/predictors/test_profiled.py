from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kvpred.data.collectives import CollectiveTimes
from kvpred.data.profiles import SCHEMAS, Columns, Manifest, Profile, time_column
from kvpred.data.sites import SiteTable
from kvpred.errors import DataError, NotCoveredError
from kvpred.hardware import get_device
from kvpred.predictors import bundle
from kvpred.predictors.estimate import predict
from kvpred.predictors.predictor import Predictor, fit_predictor
from kvpred.predictors.profiled import ProfiledStep, predictor_of_profile, profiled_steps
from kvpred.predictors.scaling import Place, transfer

# A layer whose operators take, in ms: 0.01 + 0.001 a token each of two linear ones; attention 2e-6 a pair of
# prompt tokens, and 0.02 + 1e-4 a sequence's cached token of a decode step.
BATCHES, LENGTHS, TOKENS = (1, 2, 4, 8), (128, 256, 512, 1024, 2048), (1, 8, 64, 512, 4096, 16384)
TIMED = ("attn_pre_proj", "mlp_up_proj")


def _linear_ms(tokens: float) -> float:
    return 0.01 + 0.001 * tokens


def make_profile(
    method: str = "fp16",
    *,
    decode_factor: float = 1.0,
    manifest: Manifest | None = None,
    tp: int = 1,
) -> Profile:
    prefill = [(1, chunk, 0) for chunk in LENGTHS]
    decode = [(bsz, 0, kv_len) for bsz in BATCHES for kv_len in LENGTHS]
    batch, chunk, kv_len = np.array(prefill + decode).T
    is_prefill = chunk > 0
    attention: Columns = {name: np.full(len(batch), 32) for name in SCHEMAS["attention"].integers}
    attention |= {
        "num_tensor_parallel_workers": np.full(len(batch), tp),
        "batch_size": batch,
        "prefill_chunk_size": chunk,
        "kv_cache_size": kv_len,
        "is_prefill": is_prefill,
        "attention_backend": np.array(["flash"] * len(batch)),
        time_column("attn_prefill"): np.where(is_prefill, 2e-6 * chunk**2, np.nan),
        time_column("attn_decode"): np.where(
            is_prefill, np.nan, decode_factor * (0.02 + 1e-4 * batch * kv_len)
        ),
    }
    mlp: Columns = {name: np.full(len(TOKENS), 32) for name in SCHEMAS["mlp"].integers}
    mlp |= {
        "num_tensor_parallel_workers": np.full(len(TOKENS), tp),
        "num_tokens": np.array(TOKENS),
        "use_gated_mlp": np.array([True] * len(TOKENS)),
    }
    mlp |= {time_column(operator): np.array([_linear_ms(n) for n in TOKENS]) for operator in TIMED}
    return Profile(
        model="llama-2-7b", device="a6000", method=method, attention=attention, mlp=mlp, manifest=manifest
    )


@pytest.fixture(scope="module")
def predictor(here: Place) -> Predictor:
    return predictor_of_profile([make_profile()], place=here, engine="lmdeploy", provenance="made by hand")


def _request(predictor: Predictor, **asked: object) -> dict[str, object]:
    request = {"method": "fp16", "bsz": 4, "prompt_len": 512, "output_len": 1} | asked
    return predict(predictor=predictor, **request).as_dict()  # type: ignore[arg-type]


def test_a_step_is_the_sum_of_its_layers_operators(predictor: Predictor, here: Place) -> None:
    estimate = predict(method="fp16", bsz=4, prompt_len=512, output_len=1, predictor=predictor)
    layers = here.model.n_layers
    prefill_ms = layers * (2 * _linear_ms(4 * 512) + 4 * 2e-6 * 512**2)
    decode_ms = layers * (2 * _linear_ms(4) + 0.02 + 1e-4 * 4 * 512)
    assert estimate.ttft_s == pytest.approx(prefill_ms / 1e3, rel=0.02)
    assert estimate.tpot_s == pytest.approx(decode_ms / 1e3, rel=0.02)


def test_operators_alone_are_basis_profiled_and_may_only_be_slower(predictor: Predictor) -> None:
    estimate = predict(method="fp16", bsz=4, prompt_len=512, output_len=1, predictor=predictor)
    low, high = estimate.interval["tpot_s"]
    assert estimate.basis == "profiled"
    assert estimate.in_domain
    assert high / estimate.tpot_s > 3 * estimate.tpot_s / low


def test_operators_timed_in_place_leave_less_unknown(predictor: Predictor, here: Place) -> None:
    cold = Manifest(
        device="a6000", model="llama-2-7b", method="fp16", method_params="fp16", cache_state="cold"
    )
    in_place = predictor_of_profile(
        [make_profile(manifest=cold)], place=here, engine="lmdeploy", provenance="made by hand"
    )
    ends = [_request(p)["interval"] for p in (in_place, predictor)]
    assert ends[0]["tpot_s"][1] < ends[1]["tpot_s"][1]  # type: ignore[index]


def test_a_methods_own_attention_is_used_and_the_rest_shared(here: Place) -> None:
    profiles = [make_profile(), make_profile("kivi:bits=4", decode_factor=0.5)]
    both = predictor_of_profile(profiles, place=here, engine="lmdeploy", provenance="made by hand")
    fp16, kivi = (
        predict(method=m, bsz=8, prompt_len=2048, output_len=1, predictor=both) for m in ("fp16", "kivi")
    )
    saved_ms = here.model.n_layers * 0.5 * (0.02 + 1e-4 * 8 * 2048)
    assert kivi.basis == "profiled"
    assert fp16.tpot_s - kivi.tpot_s == pytest.approx(saved_ms / 1e3, rel=0.03)
    assert fp16.ttft_s == pytest.approx(kivi.ttft_s)


def test_a_methods_own_upkeep_is_used_where_it_depends_on_tokens_alone(here: Place) -> None:
    fp16, kivi = make_profile(), make_profile("kivi:bits=4")
    for profile, save_ms in ((fp16, 0.1), (kivi, 0.3)):
        profile.attention[time_column("attn_kv_cache_save")] = np.full(
            len(profile.attention["batch_size"]), save_ms
        )
    both = predictor_of_profile([fp16, kivi], place=here, engine="lmdeploy", provenance="made by hand")
    times = [
        predict(method=method, bsz=4, prompt_len=512, output_len=1, predictor=both).tpot_s
        for method in ("kivi", "fp16")
    ]
    assert times[0] - times[1] == pytest.approx(here.model.n_layers * 0.2e-3, rel=0.01)


def test_prompts_profiled_in_batches_are_predicted_in_batches(here: Place) -> None:
    single, batched = make_profile(), make_profile()
    rows = batched.attention["is_prefill"]
    batched.attention["batch_size"][rows] = 2
    steps = (profiled_steps([profile], place=here, kind="physics")["fp16"] for profile in (single, batched))
    alone, together = (
        step.device_s("prefill", bsz=np.array([4.0]), length=np.array([1024.0]))[0, 1] for step in steps
    )
    # The same times, once of one sequence and once of two.
    assert together == pytest.approx(alone / 2, rel=0.03)


def test_two_profiles_of_one_method_or_none_of_fp16_are_refused(here: Place) -> None:
    for profiles in ([make_profile(), make_profile()], [make_profile("kivi:bits=4")]):
        with pytest.raises(DataError):
            profiled_steps(profiles, place=here, kind="physics")


def test_a_bundle_of_a_profile_comes_back_equal(predictor: Predictor, tmp_path: Path) -> None:
    bundle.save(predictor, tmp_path / "bundle")
    assert _request(bundle.load(tmp_path / "bundle")) == _request(predictor)


def test_runs_find_the_overhead_that_operators_lack(
    here: Place, make_table: Callable[..., SiteTable], tmp_path: Path
) -> None:
    profiles = profiled_steps([make_profile()], place=here, kind="physics")
    step = profiles["fp16"]
    assert isinstance(step, ProfiledStep)
    table = make_table(methods={"fp16": 1.0}, noise=0.0)
    length = table.prompt_len.astype(float)
    device = {s: step.device_s(s, bsz=table.bsz.astype(float), length=length) for s in ("prefill", "decode")}
    overhead_s, slower = 0.02, 1.2
    decode_s = overhead_s + slower * device["decode"].sum(axis=-1)
    time_s = np.where(table.stage == "decode", decode_s, device["prefill"].sum(axis=-1))
    fitted = fit_predictor(
        replace(table, time_s=time_s), place=here, engine="lmdeploy", provenance="made", profiles=profiles
    )
    coef = fitted.stages["decode"].fits.fits["fp16"].coef
    assert coef == pytest.approx([overhead_s, slower, slower], rel=0.02)
    assert _request(fitted)["basis"] == "calibrated"
    bundle.save(fitted, tmp_path / "bundle")
    assert _request(bundle.load(tmp_path / "bundle")) == _request(fitted)


def test_a_profile_transfers_by_bytes_and_flops(predictor: Predictor) -> None:
    here, there = (
        predict(method="fp16", bsz=4, prompt_len=1024, predictor=predictor, device=d)
        for d in ("a6000", "a100")
    )
    assert there.basis == "transferred"
    assert there.tpot_s == pytest.approx(here.tpot_s * 768 / 2039, rel=0.01)


def test_a_profile_without_linear_layers_is_not_covered(here: Place) -> None:
    without, elsewhere = replace(make_profile(), mlp={}), make_profile(tp=2)
    mixed = replace(make_profile(), mlp=elsewhere.mlp)
    for profiles in ([without], [mixed], [without, make_profile("kivi:bits=4")]):
        with pytest.raises(NotCoveredError, match="no linear layers"):
            predictor_of_profile(profiles, place=here, engine="lmdeploy", provenance="made by hand")


@pytest.mark.parametrize("stage", ["prefill", "decode"])
def test_a_profile_without_a_stages_attention_is_not_covered(here: Place, stage: str) -> None:
    profile = make_profile()
    rows = profile.attention["is_prefill"] == (stage != "prefill")
    half = replace(profile, attention={name: values[rows] for name, values in profile.attention.items()})
    for lacking in (half, replace(profile, attention={})):
        with pytest.raises(NotCoveredError, match="no attention of"):
            predictor_of_profile([lacking], place=here, engine="lmdeploy", provenance="made by hand")


# Devices that share the work


def _times(predictor: Predictor, **asked: object) -> np.ndarray:
    found = _request(predictor, **asked)
    return np.array([found["ttft_s"], found["tpot_s"]])


def _shared(profile: Profile, place: Place) -> Predictor:
    return predictor_of_profile([profile], place=place, engine="lmdeploy", provenance="made by hand")


def _measured(num_workers: int) -> dict[str, CollectiveTimes]:
    """All-reduces of so many devices, which take 1 ms and 1 ms per 2**20 bytes."""
    sizes = 2 ** np.arange(11, 26)
    workers = np.full(len(sizes), num_workers)
    return {"all_reduce": CollectiveTimes(workers, workers, sizes, 1.0 + sizes / 2**20)}


@pytest.fixture(scope="module")
def two(here: Place) -> Place:
    return replace(here, tp=2)


def test_two_devices_pay_the_links_all_reduces_on_top_of_their_operators(
    predictor: Predictor, here: Place, two: Place, tmp_path: Path
) -> None:
    # The same operators, said to be those of each of two devices.
    pair = _shared(make_profile(tp=2), two)
    fixed_s, token_s = two.all_reduce_s()
    added = _times(pair, tp=2) - _times(predictor)
    assert added == pytest.approx([fixed_s + token_s * 4 * 512, fixed_s + token_s * 4], rel=1e-6)
    bundle.save(pair, tmp_path / "bundle")
    assert _request(bundle.load(tmp_path / "bundle"), tp=2) == _request(pair, tp=2)


def test_measured_all_reduces_count_instead_of_the_data_sheets(predictor: Predictor, two: Place) -> None:
    pair = _shared(replace(make_profile(tp=2), collectives=_measured(2)), two)
    added = _times(pair, tp=2) - _times(predictor)
    # 64 of them, each of 2 x 4096 bytes per token.
    expected = [64e-3 * (1 + tokens * 8192 / 2**20) for tokens in (4 * 512, 4)]
    assert added == pytest.approx(expected, rel=2e-3)


def test_all_reduces_of_another_number_of_devices_do_not_count(two: Place) -> None:
    pair, four = (
        _shared(replace(make_profile(tp=2), collectives=found), two) for found in ({}, _measured(4))
    )
    assert _times(four, tp=2).tolist() == _times(pair, tp=2).tolist()


def test_a_device_of_which_no_link_is_known_needs_measured_all_reduces(two: Place) -> None:
    lone = replace(two, device=replace(two.device, link=None))
    with pytest.raises(NotCoveredError, match="network/DEVICE/all_reduce"):
        _shared(make_profile(tp=2), lone)
    pair = _shared(replace(make_profile(tp=2), collectives=_measured(2)), lone)
    assert _times(pair, tp=2, device=lone.device).min() > 64e-3


def test_a_profile_of_one_device_is_halved_for_two_and_pays_their_all_reduces(
    predictor: Predictor, here: Place, two: Place
) -> None:
    fixed_s, token_s = two.all_reduce_s()
    fits = {stage: predictor.stages[stage].fits for stage in ("prefill", "decode")}
    layers = here.model.n_layers
    for stage, tokens, linear in (
        ("prefill", 4 * 512, two.token_s / here.token_s),
        ("decode", 4, two.weights_s / here.weights_s),
    ):
        fit = transfer(fits[stage], here, two).fits["fp16"]
        found = fit.form.profile.device_s(stage, bsz=np.array([4.0]), length=np.array([512.0]))[0]
        expected_s = linear * layers * 2 * _linear_ms(tokens) / 1e3 + fixed_s + token_s * tokens
        assert fit.coef[0] == 0.0
        assert fit.coef[1] * found[0] == pytest.approx(expected_s, rel=0.01)


@pytest.mark.parametrize("measured", [{}, _measured(2)])
@pytest.mark.parametrize("stage", ["prefill", "decode"])
def test_carrying_a_profile_of_two_devices_to_the_same_place_changes_nothing(
    two: Place, measured: dict[str, CollectiveTimes], stage: str
) -> None:
    fits = _shared(replace(make_profile(tp=2), collectives=measured), two).stages[stage].fits
    at = {"bsz": [1, 4, 16], "length": [16, 1024, 30_000]}
    same = transfer(fits, two, two)
    np.testing.assert_allclose(same.fits["fp16"].times(**at), fits.fits["fp16"].times(**at), rtol=1e-12)


def test_measured_all_reduces_go_by_the_data_sheets_of_both_devices(two: Place) -> None:
    pair = _shared(replace(make_profile(tp=2), collectives=_measured(2)), two)
    there = replace(two, device=get_device("a100"))
    at = {"bsz": np.array([4.0]), "length": np.array([512.0])}
    fit = transfer(pair.stages["decode"].fits, two, there).fits["fp16"]
    (fixed_here_s, token_here_s), (fixed_s, token_s) = two.all_reduce_s(), there.all_reduce_s()
    sheets = (fixed_s + token_s * 4) / (fixed_here_s + token_here_s * 4)
    linear_s = two.model.n_layers * 2 * _linear_ms(4) / 1e3 * there.weights_s / two.weights_s
    expected_s = linear_s + sheets * 64e-3 * (1 + 4 * 8192 / 2**20)
    found_s = fit.coef[1] * fit.form.profile.device_s("decode", **at)[0, 0]
    assert found_s == pytest.approx(expected_s, rel=0.01)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kvpred.data.profiles import SCHEMAS, Columns, Manifest, Profile, time_column
from kvpred.data.sites import SiteTable
from kvpred.errors import DataError
from kvpred.predictors import bundle
from kvpred.predictors.estimate import predict
from kvpred.predictors.predictor import Predictor, fit_predictor
from kvpred.predictors.profiled import ProfiledStep, predictor_of_profile, profiled_steps
from kvpred.predictors.scaling import Place

# A layer whose operators take, in ms: 0.01 + 0.001 a token each of two linear ones; attention 2e-6 a pair of
# prompt tokens, and 0.02 + 1e-4 a sequence's cached token of a decode step.
BATCHES, LENGTHS, TOKENS = (1, 2, 4, 8), (128, 256, 512, 1024, 2048), (1, 8, 64, 512, 4096, 16384)
TIMED = ("attn_pre_proj", "mlp_up_proj")


def _linear_ms(tokens: float) -> float:
    return 0.01 + 0.001 * tokens


def make_profile(
    method: str = "fp16", *, decode_factor: float = 1.0, manifest: Manifest | None = None
) -> Profile:
    prefill = [(1, chunk, 0) for chunk in LENGTHS]
    decode = [(bsz, 0, kv_len) for bsz in BATCHES for kv_len in LENGTHS]
    batch, chunk, kv_len = np.array(prefill + decode).T
    is_prefill = chunk > 0
    attention: Columns = {name: np.full(len(batch), 32) for name in SCHEMAS["attention"].integers}
    attention |= {
        "num_tensor_parallel_workers": np.ones(len(batch), dtype=np.int64),
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
        "num_tensor_parallel_workers": np.ones(len(TOKENS), dtype=np.int64),
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

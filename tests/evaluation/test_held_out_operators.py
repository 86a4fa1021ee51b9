from __future__ import annotations

import pytest

from kvpred.data.profiles import Profile
from kvpred.evaluation.held_out_operators import (
    BATCHES,
    HALF,
    LENGTHS,
    TOKEN_COUNTS,
    OperatorError,
    held_out_operators,
)
from tests.in_place import make_profile

NOISE = 0.02


@pytest.fixture(scope="module")
def errors() -> dict[tuple[str, str, str, str], OperatorError]:
    return _judged({method: make_profile(method, noise=NOISE) for method in ("fp16", "kivi")})


def _judged(profiles: dict[str, Profile]) -> dict[tuple[str, str, str, str], OperatorError]:
    found = held_out_operators(profiles)
    return {(one.method, one.stage, one.operator, one.split): one for one in found}


def test_every_operator_of_every_method_and_stage_is_held_out(
    errors: dict[tuple[str, str, str, str], OperatorError],
) -> None:
    assert {split for *_, split in errors} == {HALF, BATCHES, LENGTHS, TOKEN_COUNTS}
    for method in ("fp16", "kivi"):
        for stage in ("prefill", "decode"):
            own = {f"attn_{stage}", "attn_kv_cache_save", "attn_input_reshape", "attn_output_reshape"}
            for split in (HALF, BATCHES, LENGTHS):
                found = {op for m, s, op, sp in errors if (m, s, sp) == (method, stage, split)}
                assert own <= found
    assert ("fp16", "decode", "lm_head", HALF) in errors
    assert ("fp16", "prefill", "lm_head", HALF) not in errors


def test_operators_that_follow_a_law_are_predicted_within_their_noise(
    errors: dict[tuple[str, str, str, str], OperatorError],
) -> None:
    halves = [one for one in errors.values() if one.split == HALF]
    assert all(one.within for one in halves)
    assert all((one.of_noise_and_drift or 0) <= (one.of_noise or 0) for one in halves)
    assert all(one.noise is not None and one.noise.single == pytest.approx(NOISE, rel=0.5) for one in halves)
    assert all(one.noise is not None and one.noise.median < one.noise.single for one in halves)


def test_every_site_is_held_out(errors: dict[tuple[str, str, str, str], OperatorError]) -> None:
    for stage, n_sites in (("decode", 20), ("prefill", 12)):
        assert errors["kivi", stage, f"attn_{stage}", HALF].n_points == 5 * n_sites
        for split in (BATCHES, LENGTHS):
            assert errors["kivi", stage, f"attn_{stage}", split].n_points == n_sites


def test_what_a_method_does_to_shared_operators_counts_as_error() -> None:
    profiles = {"fp16": make_profile(), "kivi": make_profile("kivi", shared_factor=1.25)}
    error = _judged(profiles)["kivi", "prefill", "mlp_up_proj", HALF]
    assert error.error == pytest.approx(0.2, abs=0.02)


def test_without_standard_deviations_nothing_is_said_of_noise() -> None:
    profile = make_profile()
    for table in (profile.attention, profile.mlp):
        for name in [name for name in table if name.endswith(".std")]:
            del table[name]
    error = _judged({"fp16": profile})["fp16", "decode", "attn_decode", HALF]
    assert (error.noise, error.of_noise, error.within) == (None, None, None)

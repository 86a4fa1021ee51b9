from __future__ import annotations

import pytest

from kvpred.evaluation.premise import ALL_SHARED, ATTENTION, MethodRatio, compare_methods
from tests.in_place import FACTORS, make_profile

NOISE = 0.02


def _compared(shared_factor: float = 1.0, *, method: str = "kivi") -> dict[tuple[str, str], MethodRatio]:
    fp16, other = make_profile(noise=NOISE), make_profile(method, noise=NOISE, shared_factor=shared_factor)
    return {(one.stage, one.operator): one for one in compare_methods({"fp16": fp16, method: other})}


def test_shared_operators_that_are_alike_do_not_differ() -> None:
    for (_, operator), ratio in _compared().items():
        if operator == ALL_SHARED:
            assert not ratio.differs
            assert ratio.ratio == pytest.approx(1.0, abs=0.01)
            assert abs(ratio.of_step) < 0.01


def test_shared_operators_that_a_method_slows_are_named() -> None:
    compared = _compared(1.1)
    for stage in ("prefill", "decode"):
        for operator in ("mlp_up_proj", ALL_SHARED):
            ratio = compared[stage, operator]
            assert ratio.differs
            assert ratio.ratio == pytest.approx(1.1, rel=0.02)
            assert ratio.low < ratio.ratio < ratio.high
    whole = compared["decode", ALL_SHARED]
    assert whole.of_step == pytest.approx(whole.share * (1 - 1 / 1.1), rel=0.2)


def test_attention_is_compared_site_by_site() -> None:
    ratio = _compared()["decode", ATTENTION]
    assert ratio.n_points == 20
    assert ratio.differs
    # All but the reshapes take 1.5 times as long.
    assert 1.3 < ratio.ratio < FACTORS["kivi"]["decode"]


def test_attention_that_gains_at_some_sites_and_loses_at_others_differs() -> None:
    ratio = _compared(method="h2o")["decode", ATTENTION]
    assert ratio.least < 1 < ratio.most
    assert ratio.differs


def test_fp16_is_not_compared_with_itself() -> None:
    assert compare_methods({"fp16": make_profile()}) == []

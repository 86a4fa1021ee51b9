"""Speed-ups of whole steps whose laws are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kvpred.data.profiles import Profile
from kvpred.evaluation.speedups import Crossing, StepTime, crossings, differences, step_times
from kvpred.profiling.grid import Site
from tests.in_place import DECODE, FACTORS, PREFILL, make_profile, own_ms, step_ms

METHODS = tuple(FACTORS)
H2O = "h2o:heavy=64,recent=448"
KIVI = "kivi:bits=4,group_size=32,residual_length=128"


def _steps(*profiles: Profile) -> dict[tuple[str, Site], StepTime]:
    return {(step.method, step.site): step for step in step_times(profiles)}


@pytest.fixture(scope="module")
def exact() -> dict[tuple[str, Site], StepTime]:
    return _steps(*map(make_profile, METHODS))


def _another_fp16(noise: float, *, seed: int) -> Profile:
    """Return fp16's law under another method's name."""
    profile = make_profile(noise=noise, seed=seed)
    assert profile.manifest is not None
    manifest = profile.manifest.model_copy(update={"method": "kv-int8", "method_params": "kv-int8"})
    return replace(profile, method="kv-int8", manifest=manifest)


def test_every_site_of_both_stages_is_there(exact: dict[tuple[str, Site], StepTime]) -> None:
    assert len(exact) == len(METHODS) * (len(DECODE) + len(PREFILL))


def test_speedup_is_the_ratio_of_the_laws(exact: dict[tuple[str, Site], StepTime]) -> None:
    for bsz, length in DECODE:
        expected = step_ms("fp16", "decode", bsz, length) / step_ms("h2o", "decode", bsz, length)
        assert exact[H2O, Site("decode", bsz, length)].speedup == pytest.approx(expected)
    assert {step.speedup for (method, _), step in exact.items() if method == "fp16"} == {None}


def test_without_noise_every_difference_counts(exact: dict[tuple[str, Site], StepTime]) -> None:
    assert exact[H2O, Site("decode", 8, 4096)].told_apart == 1
    assert exact[KIVI, Site("decode", 8, 4096)].told_apart == -1
    assert exact["fp16", Site("decode", 8, 4096)].told_apart == 0


def test_the_same_law_is_rarely_told_apart_from_itself() -> None:
    seeds = range(5)
    found = [
        step
        for seed in seeds
        for step in step_times([make_profile(noise=0.05, seed=seed), _another_fp16(0.05, seed=seed + 99)])
        if step.speedup is not None
    ]
    assert len(found) == len(seeds) * (len(DECODE) + len(PREFILL))
    assert np.mean([step.told_apart != 0 for step in found]) <= 0.08


def test_bounds_hold_the_true_speedup_about_as_often_as_two_standard_errors_promise() -> None:
    inside = []
    for seed in range(5):
        for step in step_times(
            [make_profile(noise=0.05, seed=seed), make_profile("h2o", noise=0.05, seed=seed)]
        ):
            if step.bounds is not None:
                site = (step.site.stage, step.site.bsz, step.site.length)
                low, high = step.bounds
                inside.append(low <= step_ms("fp16", *site) / step_ms("h2o", *site) <= high)
    assert 0.9 <= np.mean(inside) < 1.0


def test_a_site_with_a_wild_repeat_is_not_told_apart() -> None:
    fp16, h2o = make_profile(noise=0.01), make_profile("h2o", noise=0.01)
    site = Site("decode", 8, 4096)
    row = next(
        i for i, size in enumerate(zip(h2o.steps["batch_size"], h2o.steps["kv_cache_size"], strict=True))
        if size == (8, 4096)
    )  # fmt: skip
    assert _steps(fp16, h2o)[H2O, site].told_apart == 1
    h2o.steps["time_stats.step.std"][row] = h2o.steps["time_stats.step.median"][row]
    assert _steps(fp16, h2o)[H2O, site].told_apart == 0


def test_steps_of_another_host_are_not_compared() -> None:
    fp16, h2o = make_profile(), make_profile("h2o")
    assert h2o.manifest is not None
    elsewhere = replace(h2o, manifest=h2o.manifest.model_copy(update={"host": "another", "threads": 64}))
    assert differences(elsewhere, fp16) == ["host", "threads"]
    assert {step.speedup for step in step_times([fp16, elsewhere])} == {None}


def test_without_fp16_there_is_no_speedup() -> None:
    assert {step.speedup for step in step_times([make_profile("h2o")])} == {None}


def test_nobody_timed_whole_steps() -> None:
    assert step_times([replace(make_profile(), steps={})]) == []
    assert step_times([make_profile()], tp=2) == []


def _of(found: list[Crossing], method: str, stage: str, bsz: int) -> list[Crossing]:
    return [c for c in found if (c.method, c.stage, c.bsz) == (method, stage, bsz)]


def test_crossing_lies_where_the_laws_meet(exact: dict[tuple[str, Site], StepTime]) -> None:
    (crossing,) = _of(crossings(list(exact.values())), H2O, "decode", 8)
    # fp16's attention grows by 6e-5 ms per sequence and token; H2O's has been the same since 512 tokens.
    more = sum(own_ms("h2o", "decode", 8, 4096).values()) - sum(own_ms("fp16", "decode", 8, 512).values())
    meet = 512 + more / (8 * 6e-5)
    # Between 512 and 1,024 the curve of the laws is not quite the straight line drawn.
    assert crossing.crosses_at == pytest.approx(meet, rel=0.03)
    assert (crossing.upward, crossing.certain) == (True, True)
    assert (crossing.shortest, crossing.longest, crossing.faster, crossing.slower) == (128, 4096, 3, 2)


def test_a_slower_method_never_crosses(exact: dict[tuple[str, Site], StepTime]) -> None:
    found = crossings(list(exact.values()))
    for bsz in (1, 2, 4, 8):
        (crossing,) = _of(found, KIVI, "decode", bsz)
        assert (crossing.crosses_at, crossing.upward, crossing.certain) == (None, None, False)
        assert (crossing.faster, crossing.slower) == (0, 5)


def _curve(*points: tuple[int, float, float]) -> list[StepTime]:
    """Return a curve of lengths, speed-ups and their errors."""
    return [
        StepTime("h2o", Site("decode", 1, length), 1.0, None, None, 0.0, speedup, error)
        for length, speedup, error in points
    ]


def test_crossing_is_interpolated_in_the_logarithms() -> None:
    (crossing,) = crossings(_curve((256, 0.5, 0.01), (1024, 2.0, 0.01)))
    assert crossing.crosses_at == pytest.approx(512)


def test_downward_crossings_are_found_too() -> None:
    (crossing,) = crossings(_curve((256, 2.0, 0.01), (512, 1.01, 0.1), (1024, 0.5, 0.01)))
    assert (crossing.upward, crossing.certain) == (False, True)
    assert crossing.crosses_at is not None and 512 < crossing.crosses_at < 550


def test_a_curve_may_cross_twice() -> None:
    found = crossings(_curve((256, 0.5, 0.01), (512, 2.0, 0.01), (1024, 0.5, 0.01)))
    assert [crossing.upward for crossing in found] == [True, False]


def test_a_crossing_with_one_sure_side_is_uncertain() -> None:
    (crossing,) = crossings(_curve((256, 0.5, 0.01), (1024, 1.1, 0.1)))
    assert crossing.crosses_at is not None
    assert not crossing.certain


def test_noise_about_1_crosses_nothing() -> None:
    (crossing,) = crossings(_curve((256, 0.98, 0.1), (1024, 1.02, 0.1)))
    assert (crossing.crosses_at, crossing.faster, crossing.slower) == (None, 0, 0)

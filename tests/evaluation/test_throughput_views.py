"""Wins, losses and engines side by side, counted by hand."""

from __future__ import annotations

from kvpred.data.sites import RunSite
from kvpred.evaluation.throughput import Setting, Throughput, throughputs
from kvpred.evaluation.throughput_views import side_by_side, tally, where
from tests.measured_runs import EAGER, make_runs

HERE, THERE = Setting("openvino", "cpu", "lab"), Setting("llamacpp", "cpu", "lab")


def _case(
    speedup: float | None, error: float | None = 0.01, *, setting: Setting = HERE, method: str = "h2o",
    bsz: int = 1,
) -> Throughput:  # fmt: skip
    return Throughput(
        setting, method, "decode", RunSite(bsz, 256, 32), 100.0, 3, {}, False, 0.01, speedup, error
    )


def test_tally_counts_each_case_once() -> None:
    counted = tally([_case(1.2), _case(0.8), _case(0.7), _case(0.99), _case(0.5, None), _case(None)])
    assert counted is not None
    assert (counted.cases, counted.median) == (5, 0.8)
    assert (counted.faster, counted.slower, counted.within, counted.unknown) == (1, 2, 1, 1)
    assert counted.below == 4
    assert (counted.lowest.speedup, counted.highest.speedup) == (0.5, 1.2)


def test_without_speedups_there_is_nothing_to_tally() -> None:
    assert tally([_case(None)]) is None


def test_only_shared_sites_stand_side_by_side() -> None:
    cases = [
        *(_case(1.1, bsz=bsz) for bsz in (1, 2, 4)),
        *(_case(0.9, bsz=bsz, setting=THERE) for bsz in (2, 4, 8)),
        _case(1.0, method="snapkv"),
    ]
    (side,) = side_by_side(cases).values()
    assert {s.engine: [case.site.bsz for case in own] for s, own in side.items()} == {
        "openvino": [2, 4],
        "llamacpp": [2, 4],
    }


def test_engines_without_a_common_site_do_not_stand_side_by_side() -> None:
    assert side_by_side([_case(1.1, bsz=1), _case(1.1, bsz=2, setting=THERE)]) == {}


def test_every_stage_and_method_of_two_engines_stands_side_by_side() -> None:
    runs = [*make_runs("transformers", laws=EAGER), *make_runs("openvino", prompts=(256, 1024))]
    sides = side_by_side(throughputs(runs))
    h2o = "h2o:heavy=64,recent=448"
    assert set(sides) == {(stage, method) for stage in ("decode", "prefill") for method in ("kv-int8", h2o)}
    assert {len(own) for side in sides.values() for own in side.values()} == {6}


def test_places_are_named_once() -> None:
    assert where([HERE, THERE, Setting("vllm", "a100")]) == "a100 (host not named) and cpu (lab)"

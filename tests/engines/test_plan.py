"""The order of runs."""

from __future__ import annotations

from kvpred.data.sites import RunSite
from kvpred.engines.base import Target
from kvpred.engines.plan import MeasurePlan
from kvpred.engines.transformers import Transformers
from tests.tiny import TINY

SMALL, LARGE = RunSite(1, 64, 4), RunSite(2, 128, 4)


def plan(repeats: int = 2) -> MeasurePlan:
    sites = {"fp16": [SMALL, LARGE], "kv-int8": [SMALL, LARGE], "kv-int4": [LARGE]}
    return MeasurePlan(Transformers, Target(TINY), sites, repeats, "host-cpu", "a processor")


def test_methods_take_turns_at_every_site_and_another_one_begins_each_round() -> None:
    order = [(visit.repeat, str(visit.site), visit.method.name) for visit in plan().visits()]

    assert order == [
        (0, "1 x 64", "fp16"),
        (0, "1 x 64", "kv-int8"),
        (0, "2 x 128", "fp16"),
        (0, "2 x 128", "kv-int8"),
        (0, "2 x 128", "kv-int4"),
        (1, "1 x 64", "kv-int8"),
        (1, "1 x 64", "fp16"),
        (1, "2 x 128", "kv-int8"),
        (1, "2 x 128", "kv-int4"),
        (1, "2 x 128", "fp16"),
    ]


def test_every_run_has_its_own_key() -> None:
    keys = [visit.key for visit in plan(repeats=3).visits()]

    assert len(set(keys)) == len(keys) == 15


def test_methods_sites_and_repeats_may_grow_within_one_folder() -> None:
    assert plan(repeats=2).header() == plan(repeats=5).header()
    assert not {"sites", "repeats", "methods"} & set(plan().header())

"""The nearest published measurements, and what they differ in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvpred
from kvpred.errors import UsageError
from kvpred.evaluation.evidence import Wanted, beside, nearest, wanted
from tests.made_up_evidence import make_evidence

ASKED = Wanted("kv-fp8", "lmdeploy", "a6000", "llama-2-7b", 2048, 8)
CHANGES = {
    "method": {"method": "kv-int8", "published_method": "int8"},
    "engine": {"engine": "vllm"},
    "device": {"device": "h100"},
    "model": {"model": "llama-3.1-8b"},
    "prompt_len": {"prompt_len": 2**20},
    "bsz": {"bsz": 4096},
}


def test_the_very_row_has_no_distance() -> None:
    (near,) = nearest(ASKED, rows=[make_evidence()])
    assert (near.distance, near.differs) == (0.0, ())


@pytest.mark.parametrize("name", CHANGES)
def test_what_differs_is_named(name: str) -> None:
    (near,) = nearest(ASKED, rows=[replace(make_evidence(), **CHANGES[name])])
    assert near.differs == (name,)
    assert near.distance > 0


@pytest.mark.parametrize("name", ["engine", "device", "model", "prompt_len", "bsz"])
def test_what_a_source_does_not_say_counts_as_different(name: str) -> None:
    nothing = None if name in ("prompt_len", "bsz") else ""
    unknown, other = make_evidence(**{name: nothing}), make_evidence(**CHANGES[name])
    near = nearest(ASKED, rows=[unknown])[0]
    assert near.differs == (f"{name} unknown",)
    assert near.distance >= nearest(ASKED, rows=[other])[0].distance


def test_each_difference_weighs_more_than_all_lesser_ones_together() -> None:
    names = ("method", "engine", "device", "model")
    for number, name in enumerate(names):
        lesser = {key: value for one in [*names[number + 1 :], "prompt_len", "bsz"]
                  for key, value in CHANGES[one].items()}  # fmt: skip
        rows = [make_evidence(**CHANGES[name]), make_evidence(**lesser)]
        assert nearest(ASKED, rows=rows)[0].row == rows[1]


def test_other_parameters_are_nearer_than_another_method_and_farther_than_all_else() -> None:
    asked = replace(ASKED, method="turboquant:bits=4")
    everything = {key: value for name in list(CHANGES)[1:] for key, value in CHANGES[name].items()}
    same = make_evidence(method="turboquant:bits=4", **everything)
    variant, other = make_evidence(method="turboquant:bits=3"), make_evidence()
    found = nearest(asked, rows=[other, variant, same])
    assert [near.row for near in found] == [same, variant, other]
    assert found[1].differs == ("parameters",)


@given(st.integers(1, 2**22), st.integers(1, 2**22))
def test_a_longer_way_is_never_nearer(one: int, another: int) -> None:
    def octaves(length: int) -> float:
        return max(length / 2048, 2048 / length)

    rows = [make_evidence(prompt_len=one), make_evidence(prompt_len=another)]
    nearer = nearest(ASKED, rows=rows)[0].row.prompt_len
    assert nearer is not None
    assert octaves(nearer) == min(octaves(one), octaves(another))


def test_what_is_not_asked_is_not_compared() -> None:
    row = make_evidence(device="", model="", bsz=None, prompt_len=None)
    assert nearest(Wanted(method="kv-fp8"), rows=[row])[0].differs == ()


def test_no_source_speaks_twice_of_a_stage_if_asked_so() -> None:
    rows = [make_evidence(bsz=bsz) for bsz in (1, 2, 4)] + [make_evidence(source_url="https://b", bsz=64)]
    assert len(nearest(ASKED, rows=rows)) == 4
    found = nearest(ASKED, rows=rows, per_source=1)
    assert [near.row.bsz for near in found] == [4, 64]


def test_stage_and_limit_cut_the_list() -> None:
    rows = [make_evidence(stage=stage) for stage in ("prefill", "decode", "memory", "decode")]
    assert [near.row.stage for near in nearest(ASKED, rows=rows, stage="decode")] == ["decode"] * 2
    assert len(nearest(ASKED, rows=rows, limit=3)) == 3


def test_beside_an_estimate_stands_its_own_method_only() -> None:
    estimate = kvpred.predict(method="turboquant", bsz=8, prompt_len=4096, engine="vllm", device="h100")
    found = beside(estimate)
    assert {near.row.method.partition(":")[0] for near in found} == {"turboquant"}
    assert len({(near.row.source_url, near.row.stage) for near in found}) == len(found) == 3
    assert beside(kvpred.predict(method="h2o", bsz=8, prompt_len=4096)) == []


def test_names_are_read_as_the_catalogues_and_the_sources_spell_them() -> None:
    asked = wanted(method="turboquant", engine="VLLM", device="rtx 5090", model="qwen3.5-2b", bsz=1)
    assert asked == Wanted("turboquant:bits=4", "vllm", "RTX 5090", "Qwen3.5-2B", None, 1)
    assert wanted(method="exl2-q4").method == "exl2-q4"


@pytest.mark.parametrize(
    "given_", [{"method": "kv-fp9"}, {"engine": "vlm"}, {"device": "h1000"}, {"model": "lama"}, {"bsz": 0}]
)
def test_what_nobody_knows_is_refused(given_: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        wanted(**given_)  # type: ignore[arg-type]

"""Attention against its roofline, and what a step is made of, where the laws are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kvpred.evaluation.profile_parts import (
    ATTENTION,
    REST,
    UPKEEP,
    Rates,
    attention_times,
    compositions,
    roofline_ms,
)
from kvpred.evaluation.profile_rows import rows_by_site
from kvpred.evaluation.profile_views import largest_common
from kvpred.evaluation.speedups import step_times
from kvpred.models import get_model
from kvpred.profiling.grid import Site
from tests.in_place import DECODE, MODEL, N_LAYERS, OVERHEAD_MS, make_profile, own_ms, step_ms

RATES = Rates(bytes_s=1e10, flops_s=1e11, source="nowhere")
SITE = Site("decode", 8, 4096)


def test_decode_roofline_is_the_cache_over_the_bandwidth() -> None:
    model = get_model(MODEL)
    cache = 2 * 2 * model.n_kv_heads * model.head_dim * 4096  # keys and values, 16 bit
    expected = 1e3 * 8 * cache / RATES.bytes_s
    assert roofline_ms("fp16", SITE, model=model, rates=RATES) == pytest.approx(expected)


def test_prefill_roofline_is_its_flops_over_the_peak_whatever_the_method() -> None:
    model, site = get_model(MODEL), Site("prefill", 2, 1024)
    flops = 4 * model.n_q_heads * model.head_dim * 1024 * 1025 / 2
    for method in ("fp16", "h2o", "kivi"):
        least = roofline_ms(method, site, model=model, rates=RATES)
        assert least == pytest.approx(1e3 * 2 * flops / RATES.flops_s)


def test_evicting_methods_have_a_flat_roofline() -> None:
    model = get_model(MODEL)
    least = [
        roofline_ms("streamingllm", Site("decode", 1, n), model=model, rates=RATES) for n in (512, 1024, 4096)
    ]
    assert least[0] == least[1] == least[2]


def test_a_method_that_does_not_suit_the_degree_has_no_roofline() -> None:
    assert roofline_ms("fp16", SITE, model=get_model(MODEL), rates=RATES, tp=2) is None  # 9 heads


def test_attention_is_as_the_law_says() -> None:
    profile = make_profile("h2o")
    found = {t.site: t for t in attention_times(profile, model=None, rates=None)}
    law = own_ms("h2o", "decode", 8, 4096)
    assert found[SITE].attention_ms == pytest.approx(law["attn_decode"])
    assert found[SITE].upkeep_ms == pytest.approx(law["attn_kv_cache_save"])
    assert found[SITE].roofline_ms is None


def test_rows_of_a_site_are_pooled_and_later_chunks_left_out() -> None:
    columns = {
        "num_tensor_parallel_workers": np.array([1, 1, 1, 2]),
        "is_prefill": np.array([True, True, True, True]),
        "batch_size": np.array([1, 1, 1, 1]),
        "prefill_chunk_size": np.array([64, 64, 64, 64]),
        "kv_cache_size": np.array([0, 0, 64, 0]),
    }
    assert rows_by_site(columns, tp=1) == {Site("prefill", 1, 64): [0, 1]}


def test_parts_add_up_to_the_step_and_leave_the_overhead() -> None:
    profile = make_profile("kivi")
    found = compositions(profile, shared=profile.mlp, n_layers=N_LAYERS, steps=step_times([profile]))
    assert len([c for c in found if c.site.stage == "decode"]) == len(DECODE)
    for part in found:
        site = (part.site.stage, part.site.bsz, part.site.length)
        law = own_ms("kivi", *site)
        assert part.whole_ms == pytest.approx(step_ms("kivi", *site))
        assert part.parts[ATTENTION] == pytest.approx(N_LAYERS * law[f"attn_{part.site.stage}"])
        assert part.parts[UPKEEP] == pytest.approx(N_LAYERS * law["attn_kv_cache_save"])
        assert part.parts[REST] == pytest.approx(OVERHEAD_MS[part.site.stage])


def test_without_steps_shares_are_of_the_operators() -> None:
    profile = replace(make_profile(), steps={})
    (part,) = (
        c for c in compositions(profile, shared=profile.mlp, n_layers=N_LAYERS, steps=[]) if c.site == SITE
    )
    assert REST not in part.parts
    assert part.whole_ms == pytest.approx(step_ms("fp16", "decode", 8, 4096) - OVERHEAD_MS["decode"])


def test_a_site_whose_shared_operators_nobody_timed_is_left_out() -> None:
    profile = make_profile()
    few = {name: values[profile.mlp["num_tokens"] == 8] for name, values in profile.mlp.items()}
    found = compositions(profile, shared=few, n_layers=N_LAYERS, steps=[])
    assert {c.site.num_tokens for c in found} == {8}
    assert compositions(profile, shared={}, n_layers=N_LAYERS, steps=[]) == []


def test_the_largest_common_site_is_one_that_all_methods_have() -> None:
    all_sites = attention_times(make_profile(), model=None, rates=None)
    fewer = attention_times(make_profile("h2o", decode=[(1, 128), (2, 1024)]), model=None, rates=None)
    assert largest_common(all_sites, "decode") == SITE
    assert largest_common([*all_sites, *fewer], "decode") == Site("decode", 2, 1024)
    none = attention_times(make_profile("kivi", decode=[(3, 77)]), model=None, rates=None)
    assert largest_common([*all_sites, *none], "decode") is None

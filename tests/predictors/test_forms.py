from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from kvpred.predictors.forms import candidate_forms, choose_form
from kvpred.predictors.greybox import StageForm, StageSites

PREFILL = (StageForm("prefill", overlap=2.0), np.array([0.05, 1.7e-4, 1.3e-8]))
# transformers' paged attention on two cores: all prompts of a batch run as one, under a mask.
PREFILL_JOINT = (StageForm("prefill", joint=True), np.array([0.08, 7.9e-4, 5.1e-7]))
DECODE = (StageForm("decode"), np.array([0.034, 2e-4, 8.3e-7]))
DECODE_OVERLAPPED = (StageForm("decode", overlap=2.0), np.array([0.034, 2e-3, 8.3e-7]))
DECODE_HINGED = (StageForm("decode", hinge=4), np.array([0.034, 2e-4, 8.3e-7, 4e-3]))
# What a two-core CPU shows under a paged engine: reading one long cache is half as dear as reading several.
DECODE_BATCHED = (StageForm("decode", batched=True), np.array([0.056, 2e-4, 1.7e-5, 0.012]))
DECODE_CROWDED = (StageForm("decode", crowded=True), np.array([0.0066, 2.5e-4, 9.5e-7, 8.5e-7]))
LAWS = [
    PREFILL, (StageForm("prefill"), PREFILL[1]), PREFILL_JOINT,
    DECODE, DECODE_OVERLAPPED, DECODE_HINGED, DECODE_BATCHED, DECODE_CROWDED,
]  # fmt: skip
BATCHES = (1, 2, 4, 8, 16)

MakeSites = Callable[..., StageSites]


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_the_form_behind_the_times_is_found(law, noise: float, make_sites: MakeSites) -> None:
    form, coef = law
    groups = [make_sites(form, coef, bsz=BATCHES, noise=noise, seed=seed) for seed in range(3)]
    assert choose_form(form.stage, groups) == form


@pytest.mark.parametrize("law", [PREFILL, DECODE], ids=str)
def test_noise_does_not_talk_the_default_form_away(law, make_sites: MakeSites) -> None:
    form, coef = law
    chosen = [choose_form(form.stage, [make_sites(form, coef, noise=0.04, seed=seed)]) for seed in range(20)]
    assert chosen.count(form) >= 18


def test_too_few_sites_to_compare_forms_get_the_default(make_sites: MakeSites) -> None:
    sites = make_sites(*DECODE_OVERLAPPED).select(np.arange(4))
    assert choose_form("decode", [sites]) == StageForm("decode")


def test_few_sites_of_each_method_show_that_crowded_caches_cost_more(make_sites: MakeSites) -> None:
    form, coef = DECODE_CROWDED
    fp16 = make_sites(form, coef, length=(512, 4096), noise=0.01)
    others = [make_sites(form, coef, bsz=(1, 8), length=(1024, 4096), noise=0.01, seed=k) for k in (1, 2)]
    assert choose_form("decode", [fp16, *others]) == form


def test_joint_attention_is_not_asked_about_where_all_batches_are_of_one_size() -> None:
    assert not any(form.joint for form in candidate_forms("prefill", np.array([4, 4, 4])))
    assert any(form.joint for form in candidate_forms("prefill", np.array([4, 4, 8])))


@pytest.mark.parametrize("form", ["crowded", "batched"])
def test_single_sequences_must_be_measured_to_tell_them_from_several(form: str) -> None:
    assert not any(getattr(one, form) for one in candidate_forms("decode", np.array([2, 4, 8])))
    assert any(getattr(one, form) for one in candidate_forms("decode", np.array([1, 4, 8])))

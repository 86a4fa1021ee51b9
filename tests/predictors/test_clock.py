"""The clock of single steps agrees with predictions of whole batches, and adds up where steps are mixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvpred
from kvpred.hardware import get_device
from kvpred.methods import get_method, list_methods
from kvpred.models import get_model
from kvpred.predictors.clock import StepClock, clock_for
from kvpred.predictors.greybox import ATTENTION, StageFit, StageForm
from kvpred.predictors.in_place import predictor_of_steps
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.scaling import Place
from tests.in_place import DEVICE, ENGINE, FACTORS, MODEL, make_profile

PREDICTOR = kvpred.load(kvpred.PACKAGED)
assert isinstance(PREDICTOR, Predictor)
METHODS = [method.name for method in list_methods()]


def clock(method: str = "fp16", *, model: str = "llama-2-7b", device: str = "a6000") -> StepClock:
    place = Place(get_model(model), get_device(device))
    assert isinstance(PREDICTOR, Predictor)
    return clock_for(PREDICTOR, get_method(method), place, "lmdeploy")


@pytest.mark.parametrize(("model", "device"), [("llama-2-7b", "a6000"), ("llama-3-8b", "a100")])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("bsz", "prompt_len", "output_len"), [(1, 2048, 200), (8, 512, 1), (3, 100, 600), (1000, 128, 20)]
)
def test_a_batch_of_equals_takes_what_is_predicted(
    method: str, model: str, device: str, bsz: int, prompt_len: int, output_len: int
) -> None:
    predicted = kvpred.predict(
        method=method, bsz=bsz, prompt_len=prompt_len, output_len=output_len, model=model, device=device
    )
    ticks = clock(method, model=model, device=device)

    prefill_s = ticks.step_s([(0, prompt_len)] * bsz)
    steps_s = [ticks.step_s((), [(prompt_len + i, prompt_len)] * bsz) for i in range(max(output_len - 1, 1))]

    assert prefill_s == pytest.approx(predicted.ttft_s, rel=1e-9)
    # A method's saving is taken at the mean length by the one, step by step by the other.
    assert np.mean(steps_s) == pytest.approx(predicted.tpot_s, rel=2e-3)


@pytest.mark.parametrize("method", FACTORS)
def test_profiled_operators_tick_as_predicted(method: str) -> None:
    place = Place(get_model(MODEL), get_device(DEVICE))
    profiles = [make_profile(name) for name in FACTORS]
    predictor = predictor_of_steps(profiles, place=place, engine=ENGINE, provenance="made by hand")
    ticks = clock_for(predictor, get_method(method), place, ENGINE)
    predicted = kvpred.predict(
        method=method, bsz=4, prompt_len=700, output_len=1, predictor=predictor,
        model=MODEL, device=DEVICE, engine=ENGINE,
    )  # fmt: skip

    assert ticks.step_s([(0, 700)] * 4) == pytest.approx(predicted.ttft_s, rel=5e-3)
    assert ticks.step_s((), [(700, 700)] * 4) == pytest.approx(predicted.tpot_s, rel=5e-3)


@pytest.mark.parametrize("method", ["fp16", "kv-int4"])
def test_no_step_computes_faster_than_the_devices_peak(method: str) -> None:
    place = Place(get_model("llama-3.1-8b"), get_device("a100"))
    found = kvpred.predict(
        method=method, bsz=[200, 1000, 4000], prompt_len=128, output_len=64,
        model="llama-3.1-8b", device="a100",
    )  # fmt: skip
    least_s = found.bsz * place.model.linear_flops_per_token() / 312e12
    assert (found.tpot_s >= least_s).all()
    assert (found.interval["tpot_s"][0] >= least_s).all()
    ticks = clock(method, model="llama-3.1-8b", device="a100")
    assert ticks.step_s((), [(150, 128)] * 4000) >= least_s[-1]
    # Decoding tokens are computed beside those of the prompt.
    assert ticks.step_s([(0, 128)], [(150, 128)] * 4000) >= least_s[-1] * 4128 / 4000


@pytest.mark.parametrize(("peak", "beyond"), [(1e12, True), (None, False)])
def test_what_was_measured_counts_more_than_a_data_sheet(
    made_up: Predictor, peak: float | None, beyond: bool
) -> None:
    """A device that is said to do 1 TFLOP/s did more; one that states no peak may."""
    place = replace(made_up.place, device=replace(made_up.place.device, peak_flops_16bit=peak))
    odd, method = replace(made_up, place=place), get_method("fp16")
    ticks = clock_for(odd, method, place, "lmdeploy")
    for bsz, inside in ((4, True), (1000, False)):
        asked = {"method": "fp16", "bsz": bsz, "prompt_len": 512, "output_len": 1}
        honest = kvpred.predict(**asked, predictor=made_up)
        found = kvpred.predict(**asked, predictor=odd, device=place.device)
        slower = beyond and not inside
        assert found.in_domain is inside
        assert (found.ttft_s > honest.ttft_s, found.tpot_s > honest.tpot_s) == (slower, slower)
        assert ticks.step_s([(0, 512)] * bsz) == pytest.approx(found.ttft_s)
        assert ticks.step_s((), [(512, 512)] * bsz) == pytest.approx(found.tpot_s)


def test_joint_attention_meets_everything_that_a_step_reads() -> None:
    usual = clock()
    coef = np.array([0.08, 8e-4, 5e-7])
    joint = StageFit(StageForm("prefill", joint=True), coef, np.zeros((3, 3)))
    ticks = replace(usual, prefill=replace(usual.prefill, form=joint.form, fits={"fp16": joint}))

    assert ticks.step_s([(0, 300)] * 4) == pytest.approx(joint.times(bsz=4, length=300))
    # Prompts of 100 and 500 tokens, the second one after 200, beside a sequence that attends to 1,000.
    together = ticks.step_s([(0, 100), (200, 500)], [(1000, 900)])
    attended = usual.decode.fits["fp16"].coef[ATTENTION] * 1000
    assert together == pytest.approx(0.08 + 8e-4 * 601 + 5e-7 * 601 * (100 + 700 + 1000) + attended)
    assert ticks.step_s((), [(1000, 900)]) == usual.step_s((), [(1000, 900)])


def test_batched_steps_tick_as_their_form() -> None:
    usual = clock()
    coef = np.array([0.056, 2e-4, 1.7e-5, 0.012])
    batched = StageFit(StageForm("decode", batched=True), coef, np.zeros((4, 4)))
    ticks = replace(usual, decode=replace(usual.decode, form=batched.form, fits={"fp16": batched}))
    for bsz in (1, 3):
        expected = batched.times(bsz=bsz, length=500)
        assert ticks.step_s((), [(500, 400)] * bsz) == pytest.approx(expected)


def test_a_step_of_nothing_takes_no_time() -> None:
    assert clock().step_s() == 0.0


def test_parts_of_a_prompt_take_longer_than_the_whole() -> None:
    ticks = clock()
    parts_s = sum(ticks.step_s([(passed, 512)]) for passed in range(0, 2048, 512))
    assert ticks.step_s([(0, 2048)]) < parts_s < 1.3 * ticks.step_s([(0, 2048)])


@given(
    st.lists(st.integers(1, 3000), max_size=4),
    st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 500)), max_size=8),
    st.sampled_from(METHODS),
)
def test_a_mixed_step_costs_no_less_than_either_part_and_hardly_more_than_both(
    prompts: list[int], sequences: list[tuple[int, int]], method: str
) -> None:
    ticks = clock(method)
    prefills = [(0, tokens) for tokens in prompts]
    decodes = [(prompt_len + answered, prompt_len) for prompt_len, answered in sequences]

    apart = ticks.step_s(prefills), ticks.step_s((), decodes)
    together = ticks.step_s(prefills, decodes)

    assert together >= 0.999 * max(apart) - 1e-12
    # Decoding tokens pass the prompts' linear layers, which costs what some tokens of prompt do.
    beside = ticks.step_s([(0, tokens) for tokens in prompts] + [(0, 1)] * len(decodes))
    assert together <= beside + apart[1] + 1e-12


@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 500)), min_size=1, max_size=8))
def test_the_order_of_sequences_does_not_matter(sequences: list[tuple[int, int]]) -> None:
    decodes = [(prompt_len + answered, prompt_len) for prompt_len, answered in sequences]
    assert clock().step_s((), decodes) == pytest.approx(clock().step_s((), decodes[::-1]))

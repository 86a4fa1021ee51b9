"""What a request costs: the formula, exact sums over a mix, and what is unsure about both."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvpred
from kvpred.errors import UsageError
from kvpred.methods import list_methods
from kvpred.predictors.cost import RequestCost, request_cost
from kvpred.predictors.length.outputs import OutputLengths, OutputShift, output_shift
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.relative import relative_times
from kvpred.predictors.steps import Query

ALL = tuple(method.name for method in list_methods())
LONGER = OutputShift(1.25, 1.1, 1.5, "measured", "made up")
PREDICTOR = kvpred.load(kvpred.PACKAGED)
assert isinstance(PREDICTOR, Predictor)


def cost(lengths: OutputLengths | int, **request: Any) -> RequestCost:
    mix = OutputLengths.given(lengths) if isinstance(lengths, int) else lengths
    asked = {"method": "fp16", "bsz": 8, "prompt_len": 1024, "price_per_hour": 0.8, "predictor": PREDICTOR}
    return request_cost(lengths=mix, **(asked | request))


# Exact


def test_a_request_pays_its_part_of_the_batchs_time() -> None:
    found, step = cost(256), kvpred.predict(method="fp16", bsz=8, prompt_len=1024, output_len=256)
    by_hand = 0.8 / 3600 * (step.ttft_s + 255 * step.tpot_s) / 8
    assert found.usd_per_request.mean == pytest.approx(by_hand)
    assert found.usd_per_request_without_shift == pytest.approx(by_hand)
    assert found.usd_per_million_output_tokens.mean == pytest.approx(1e6 * by_hand / 256)
    assert (found.output_tokens.low, found.output_tokens.high) == (256, 256)


def test_every_device_is_paid_for() -> None:
    place = {"device": "h100", "model": "llama-3.1-70b", "engine": "vllm"}
    found = cost(100, tp=4, **place)
    step = kvpred.predict(method="fp16", bsz=8, prompt_len=1024, output_len=100, tp=4, **place)
    assert found.usd_per_request.mean == pytest.approx(0.8 * 4 / 3600 * step.e2e_latency_s / 8)


@pytest.mark.parametrize("method", ALL)
def test_a_given_length_has_the_times_and_the_interval_of_predict(method: str) -> None:
    found = cost(256, method=method, samples=100_000)
    step = kvpred.predict(method=method, bsz=8, prompt_len=1024, output_len=256)
    for name in ("ttft_s", "tpot_s", "e2e_latency_s"):
        spread = getattr(found, name)
        assert spread.mean == pytest.approx(getattr(step, name))
        assert spread.median == pytest.approx(spread.mean, rel=0.02)
        assert (spread.low, spread.high) == pytest.approx(step.interval[name], rel=0.05)


def test_a_mix_costs_the_mean_of_its_requests() -> None:
    prompts, tokens = [512, 2048, 512, 100], [10, 400, 10, 1]
    found = cost(OutputLengths.of(tokens, "seen", prompt_tokens=prompts), prompt_len=None, method="h2o")
    each = kvpred.predict(method="h2o", bsz=8, prompt_len=prompts, output_len=tokens)
    assert found.e2e_latency_s.mean == pytest.approx(each.e2e_latency_s.mean())
    assert found.usd_per_request.mean == pytest.approx(0.8 / 3600 * each.e2e_latency_s.mean() / 8)
    assert found.usd_per_million_output_tokens.mean == pytest.approx(
        1e6 * found.usd_per_request.mean / np.mean(tokens)
    )
    assert found.prompt_len == np.mean(prompts)


@settings(max_examples=40)
@given(
    st.sampled_from(ALL),
    st.integers(1, 64),
    st.integers(1, 3000),
    st.integers(1, 500),
    st.integers(0, 500),
    st.floats(1, 2),
)
def test_a_longer_answer_never_costs_less(
    method: str, bsz: int, prompt: int, output: int, more: int, multiplier: float
) -> None:
    shift = OutputShift(multiplier, multiplier, multiplier, "measured", "made up")
    short, long = (
        cost(n, method=method, bsz=bsz, prompt_len=prompt, samples=100) for n in (output, output + more)
    )
    assert long.usd_per_request.mean >= short.usd_per_request.mean
    shifted = cost(
        OutputLengths.given(output).under(shift), method=method, bsz=bsz, prompt_len=prompt, samples=100
    )
    assert shifted.usd_per_request.mean >= short.usd_per_request.mean
    assert shifted.usd_per_request_without_shift == pytest.approx(short.usd_per_request.mean)


def test_dollars_rise_with_the_price_alone() -> None:
    cheap, dear, free = (cost(256, method="kivi", price_per_hour=price) for price in (0.5, 1.5, 0))
    assert dear.usd_per_request.high == pytest.approx(3 * cheap.usd_per_request.high)
    assert dear.e2e_latency_s == cheap.e2e_latency_s
    assert dear.usd_ratio_vs_fp16 == cheap.usd_ratio_vs_fp16
    assert free.usd_per_request.mean == free.usd_per_million_output_tokens.high == 0


# The shift


def test_a_shift_makes_answers_longer_and_says_what_it_would_cost_without() -> None:
    lengths = OutputLengths.of([100, 200, 300], "seen")
    found, without = cost(lengths.under(LONGER), method="h2o"), cost(lengths, method="h2o")
    assert found.output_tokens.mean == pytest.approx(250)
    assert found.usd_per_request.mean > without.usd_per_request.mean
    assert found.usd_per_request_without_shift == pytest.approx(without.usd_per_request.mean)
    assert found.usd_ratio_vs_fp16_without_shift == pytest.approx(without.usd_ratio_vs_fp16.mean)
    assert found.output_shift == LONGER


def test_a_shift_can_turn_a_faster_method_into_a_dearer_one() -> None:
    lengths = OutputLengths.given(512)
    faster = cost(lengths, method="h2o")
    dearer = cost(lengths.under(LONGER), method="h2o")
    assert faster.usd_ratio_vs_fp16.mean < 1 < dearer.usd_ratio_vs_fp16.mean
    assert faster.p_cheaper_than_fp16 is not None
    assert dearer.p_cheaper_than_fp16 is not None
    assert faster.p_cheaper_than_fp16 > 0.95
    assert dearer.p_cheaper_than_fp16 < 0.2


def test_a_shifts_doubt_widens_the_bill() -> None:
    sure = OutputShift(1.25, 1.25, 1.25, "measured", "made up")
    lengths = OutputLengths.given(512)
    wide, narrow = (
        cost(lengths.under(shift), method="h2o").usd_per_request_mean_interval for shift in (LONGER, sure)
    )
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_half_a_token_takes_half_a_step() -> None:
    shift = OutputShift(1.05, 1.05, 1.05, "measured", "made up")
    found = cost(OutputLengths.given(10).under(shift))  # 10.5 tokens
    ends = kvpred.predict(method="fp16", bsz=8, prompt_len=1024, output_len=[10, 11]).e2e_latency_s
    assert found.e2e_latency_s.mean == pytest.approx(ends.mean())


def test_the_context_ends_answers() -> None:
    found = cost(OutputLengths.of([50, 90], "seen").under(LONGER), prompt_len=3996)
    assert found.cut_at_context == 0.5  # 90 * 1.25 = 112.5 of the 100 that are left
    assert found.output_tokens.mean == pytest.approx((62.5 + 100) / 2)
    assert found.output_tokens.high == 100


# What is unsure


def test_single_requests_differ_more_than_their_mean() -> None:
    found = cost(OutputLengths.of(range(1, 1001), "seen"), method="h2o")
    # The middle 90 % of lengths from 1 to 1,000.
    assert (found.output_tokens.low, found.output_tokens.high) == pytest.approx((50.5, 950.5), abs=2)
    low, high = found.usd_per_request_mean_interval
    assert found.usd_per_request.low < low < found.usd_per_request.mean < high < found.usd_per_request.high


def test_fp16_is_as_dear_as_itself() -> None:
    found = cost(256)
    assert found.usd_ratio_vs_fp16.low == found.usd_ratio_vs_fp16.high == 1
    assert found.p_cheaper_than_fp16 is None


def test_the_ratio_doubts_only_what_does_not_cancel() -> None:
    # One token: the bill is the prefill's, so its ratio has the prefill's interval.
    found = cost(1, method="kivi", samples=100_000)
    query = Query(*np.array([[8], [1024], [1]]))
    place = PREDICTOR.place
    from kvpred.methods import get_method

    value, low, high = relative_times(
        PREDICTOR, get_method("kivi"), place, "lmdeploy", query=query, level=0.9
    )["prefill"]
    spread = found.usd_ratio_vs_fp16
    assert (spread.mean, spread.low, spread.high) == pytest.approx((value[0], low[0], high[0]), rel=0.005)


def test_another_devices_doubt_cancels_in_the_ratio() -> None:
    here, there = (cost(256, method="h2o", device=device) for device in ("a6000", "a100"))

    def width(low: float, high: float) -> float:
        return float(np.log(high / low))

    assert width(*there.usd_per_request_mean_interval) > 3 * width(*here.usd_per_request_mean_interval)
    assert width(there.usd_ratio_vs_fp16.low, there.usd_ratio_vs_fp16.high) < 0.6 * width(
        *there.usd_per_request_mean_interval
    )


def test_the_same_seed_gives_the_same_and_another_nearly_so() -> None:
    lengths = OutputLengths.of([10, 200, 600], "seen").under(output_shift("kivi"))
    one, again, other = (cost(lengths, method="kivi", seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one.usd_per_request.mean == other.usd_per_request.mean
    assert one.usd_per_request != other.usd_per_request
    assert one.usd_ratio_vs_fp16.high == pytest.approx(other.usd_ratio_vs_fp16.high, rel=0.01)


def test_a_wider_level_holds_more() -> None:
    narrow, wide = (cost(256, method="h2o", level=level) for level in (0.5, 0.95))
    assert wide.usd_per_request.low < narrow.usd_per_request.low
    assert narrow.usd_per_request.high < wide.usd_per_request.high


def test_json_can_hold_it() -> None:
    found = cost(OutputLengths.given(256).under(LONGER), method="h2o").as_dict()
    back = json.loads(json.dumps(found, allow_nan=False))
    assert back["usd_per_request"]["mean"] == found["usd_per_request"]["mean"]
    assert back["output_shift"]["basis"] == "measured"


# Bad input


@pytest.mark.parametrize("price", [-0.01, float("nan"), float("inf")])
def test_a_price_that_cannot_be_is_refused(price: float) -> None:
    with pytest.raises(UsageError, match=r"price_per_hour=.* must be a number of US dollars, 0 or more"):
        cost(256, price_per_hour=price)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"prompt_len": 4096}, "4,096 tokens leaves no room .* 4,096 of llama-2-7b"),
        ({"prompt_len": 4000}, "4,000 tokens and an answer of 256 exceed the context of 4,096"),
        ({"prompt_len": None}, "how long are the prompts"),
        ({"prompt_len": 0}, "prompt_len=0"),
        ({"samples": 99}, "samples=99 must be from 100"),
        ({"level": 1.0}, "level=1.0"),
        ({"bsz": 0}, "bsz=0"),
        ({"method": "kiwi"}, "kiwi"),
    ],
)
def test_what_cannot_be_asked_is_refused(request_: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        cost(256, **request_)

from __future__ import annotations

import json
from dataclasses import fields, replace
from inspect import signature

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvpred
from kvpred.errors import KvpredError, NotCoveredError, UsageError
from kvpred.hardware import get_device
from kvpred.methods import get_method, list_methods
from kvpred.models import get_model
from kvpred.predictors import estimate
from kvpred.predictors.crossval import conformal_quantile
from kvpred.predictors.estimate import Estimate
from kvpred.predictors.memory import predict_memory
from kvpred.predictors.predictor import Predictor

MEASURED = ("fp16", "kivi", "gear", "h2o", "streamingllm")
ALL = tuple(method.name for method in list_methods())
TIMES = ("prefill_time_s", "decode_step_time_s", "ttft_s", "tpot_s", "e2e_latency_s")
RATES = ("prefill_throughput_tok_s", "decode_throughput_tok_s")
PLACES = ({}, {"model": "llama-3-8b"}, {"device": "a100"}, {"engine": "vllm"}, {"device": "h100", "tp": 4})

requests = st.fixed_dictionaries(
    {
        "method": st.sampled_from(ALL),
        "bsz": st.integers(1, 256),
        "prompt_len": st.integers(1, 32_768),
        "output_len": st.integers(1, 600),
    }
)
places = st.sampled_from(PLACES)


def predict(**request: object) -> Estimate:
    return kvpred.predict(**({"bsz": 4, "prompt_len": 2048, "method": "fp16"} | request))


# Identities


@given(requests, places)
def test_the_parts_of_an_estimate_agree(request: dict, place: dict) -> None:
    found = predict(**request, **place)
    assert found.ttft_s == found.prefill_time_s
    assert found.tpot_s == found.decode_step_time_s
    assert found.e2e_latency_s == pytest.approx(found.ttft_s + (found.output_len - 1) * found.tpot_s)
    assert found.prefill_throughput_tok_s == pytest.approx(found.bsz * found.prompt_len / found.ttft_s)
    assert found.decode_throughput_tok_s == pytest.approx(found.bsz / found.tpot_s)


@given(requests, places)
def test_intervals_contain_their_estimates(request: dict, place: dict) -> None:
    found = predict(**request, **place)
    assert set(found.interval) == {*TIMES, *RATES}
    for name, (low, high) in found.interval.items():
        assert 0 < low <= getattr(found, name) <= high < np.inf


@given(requests, places)
def test_a_speedup_is_fp16s_time_over_the_methods(request: dict, place: dict) -> None:
    found, fp16 = predict(**request, **place), predict(**request | {"method": "fp16"}, **place)
    assert found.speedup_vs_fp16 == pytest.approx(
        {
            "prefill": fp16.ttft_s / found.ttft_s,
            "decode": fp16.tpot_s / found.tpot_s,
            "e2e": fp16.e2e_latency_s / found.e2e_latency_s,
        }
    )
    assert fp16.speedup_vs_fp16 == {"prefill": 1.0, "decode": 1.0, "e2e": 1.0}


@pytest.mark.parametrize("method", MEASURED)
def test_a_decode_step_is_the_mean_over_the_cache_lengths_it_sees(method: str) -> None:
    whole = predict(method=method, prompt_len=500, output_len=65)
    steps = [predict(method=method, prompt_len=500 + i, output_len=1).tpot_s for i in range(64)]
    assert whole.tpot_s == pytest.approx(np.mean(steps))


def test_one_token_costs_the_prefill_alone() -> None:
    found = predict(output_len=1)
    assert found.e2e_latency_s == found.ttft_s
    assert found.tpot_s > 0


@given(requests)
def test_memory_is_what_the_memory_model_says(request: dict) -> None:
    found = predict(**request)
    memory = predict_memory(
        get_model("llama-2-7b"),
        get_method(request["method"]),
        get_device("a6000"),
        bsz=request["bsz"],
        prompt_len=request["prompt_len"],
        output_len=request["output_len"],
        block_tokens=64,
        prefill_tokens=8192,
    )
    for name in ("kv_cache_bytes", "peak_memory_bytes", "fits", "max_bsz"):
        assert getattr(found, name) == getattr(memory, name)


# Shapes


@given(requests, places, st.lists(st.integers(1, 20_000), min_size=1, max_size=4))
def test_arrays_give_what_a_loop_of_scalars_gives(request: dict, place: dict, prompts: list[int]) -> None:
    together = _flat(predict(**request | {"prompt_len": np.array(prompts)}, **place))
    alone = [_flat(predict(**request | {"prompt_len": prompt}, **place)) for prompt in prompts]
    for name, values in together.items():
        each = [one[name] for one in alone]
        found = np.broadcast_to(values, len(prompts)).tolist()
        assert found == (pytest.approx(each) if isinstance(each[0], float) else each), name


def _flat(estimate: Estimate) -> dict[str, object]:
    """The fields by name, with nested ones spelt out."""
    plain = estimate.as_dict()
    bounds = {
        f"{name} {end}": pair[k]
        for name, pair in plain.pop("interval").items()
        for k, end in enumerate(("low", "high"))
    }
    speedups = {f"speedup {name}": value for name, value in plain.pop("speedup_vs_fp16").items()}
    return plain | bounds | speedups


@given(requests, places)
def test_scalars_give_plain_values_that_json_holds(request: dict, place: dict) -> None:
    found = predict(**request, **place).as_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for name, value in found.items():
        assert type(value) in (str, int, float, bool, dict), name


def test_all_three_lengths_broadcast() -> None:
    found = predict(bsz=[[1], [8]], prompt_len=[128, 512, 2048], output_len=[[16]])
    assert found.e2e_latency_s.shape == found.in_domain.shape == found.fits.shape == (2, 3)
    assert found.e2e_latency_s[1, 2] == predict(bsz=8, prompt_len=2048, output_len=16).e2e_latency_s


def test_a_list_of_one_stays_a_list() -> None:
    assert predict(bsz=[4]).ttft_s.shape == (1,)


def test_no_requests_give_no_estimates() -> None:
    assert predict(bsz=np.array([], dtype=int)).ttft_s.shape == (0,)


def test_narrow_integers_do_not_overflow() -> None:
    narrow = predict(bsz=np.array([200], np.uint8), prompt_len=np.array([30_000], np.int16))
    assert narrow.ttft_s.tolist() == [predict(bsz=200, prompt_len=30_000).ttft_s]


def test_an_estimate_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        predict().ttft_s = 0.0


def test_the_package_tells_its_parameters_and_their_defaults() -> None:
    package, module = (signature(one).parameters for one in (kvpred.predict, estimate.predict))
    assert set(package) == set(module)
    assert {name: one.default for name, one in package.items() if name != "predictor"} == {
        name: one.default for name, one in module.items() if name != "predictor"
    }
    assert package["predictor"].default is None
    assert list(package)[:9] == [
        "method", "bsz", "prompt_len", "model", "device", "engine", "output_len", "tp", "predictor"
    ]  # fmt: skip


def test_estimates_have_every_promised_field() -> None:
    promised = (
        "method model device engine tp bsz prompt_len output_len prefill_time_s prefill_throughput_tok_s "
        "decode_step_time_s decode_throughput_tok_s ttft_s tpot_s e2e_latency_s kv_cache_bytes "
        "peak_memory_bytes fits max_bsz speedup_vs_fp16 interval interval_level basis in_domain provenance "
        "method_params"
    )
    assert {field.name for field in fields(Estimate)} >= set(promised.split())


def test_a_million_requests_are_answered_at_once() -> None:
    rng = np.random.default_rng(0)
    bsz, prompts = rng.integers(1, 65, 10**6), rng.integers(1, 16_385, 10**6)
    found = predict(method="h2o", bsz=bsz, prompt_len=prompts)
    assert found.e2e_latency_s.shape == (10**6,)
    last = predict(method="h2o", bsz=int(bsz[-1]), prompt_len=int(prompts[-1]))
    assert found.e2e_latency_s[-1] == pytest.approx(last.e2e_latency_s)


# Order


@given(requests, places, st.integers(1, 64))
def test_a_bigger_batch_is_never_faster(request: dict, place: dict, more: int) -> None:
    small, big = predict(**request, **place), predict(**request | {"bsz": request["bsz"] + more}, **place)
    for name in ("ttft_s", "tpot_s", "e2e_latency_s"):
        assert getattr(small, name) <= getattr(big, name) * (1 + 1e-9)


@given(requests, st.sampled_from(MEASURED), places, st.integers(1, 5000))
def test_a_longer_prompt_is_never_faster(request: dict, method: str, place: dict, more: int) -> None:
    request |= {"method": method}
    short = predict(**request, **place)
    long = predict(**request | {"prompt_len": request["prompt_len"] + more}, **place)
    for name in ("ttft_s", "tpot_s", "e2e_latency_s"):
        assert getattr(short, name) <= getattr(long, name) * (1 + 1e-9)


@given(requests, places, st.integers(1, 100))
def test_a_longer_answer_never_takes_less_time(request: dict, place: dict, more: int) -> None:
    short = predict(**request, **place)
    long = predict(**request | {"output_len": request["output_len"] + more}, **place)
    assert short.e2e_latency_s <= long.e2e_latency_s * (1 + 1e-9)
    assert short.ttft_s == long.ttft_s


@given(requests, places)
def test_more_confidence_needs_a_wider_interval(request: dict, place: dict) -> None:
    widths = []
    for level in (0.5, 0.8, 0.9, 0.99):
        found = predict(**request, **place, level=level)
        assert found.interval_level == level
        low, high = found.interval["e2e_latency_s"]
        widths.append(high / low)
    assert widths == sorted(widths)


# Bases


@pytest.mark.parametrize("method", MEASURED)
def test_published_runs_are_the_basis_where_they_were_made(method: str) -> None:
    assert predict(method=method).basis == "calibrated"


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"model": "llama-3-8b"},
        {"model": "llama-2-13b"},
        {"device": "a100"},
        {"device": "rtx-4090"},
        {"tp": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", MEASURED)
def test_elsewhere_they_are_transferred(method: str, elsewhere: dict) -> None:
    found = predict(method=method, **elsewhere)
    assert (found.basis, found.in_domain) == ("transferred", False)


@pytest.mark.parametrize(
    "request_",
    [{"method": name} for name in sorted(set(ALL) - set(MEASURED))] + [{"engine": "vllm"}],
    ids=str,
)
def test_what_was_never_run_is_a_roofline(request_: dict) -> None:
    found = predict(**request_)
    assert (found.basis, found.in_domain) == ("roofline", False)


def test_other_parameters_are_another_method() -> None:
    assert predict(method="kivi:bits=2").basis == "roofline"
    assert predict(method="kivi:bits=4,group_size=32").basis == "calibrated"


def test_weaker_bases_have_wider_intervals() -> None:
    def width(**request: str) -> float:
        low, high = predict(**request).interval["tpot_s"]
        return high / low

    calibrated, transferred = width(), width(device="a40")
    assert calibrated < transferred < width(engine="vllm") < width(method="snapkv", engine="vllm")
    assert transferred < width(method="snapkv")


def test_names_are_taken_as_they_are_written_elsewhere() -> None:
    loose = predict(method="FP16", model="meta-llama/Llama-2-7b-hf", device="RTX A6000", engine="LMDeploy")
    assert loose.as_dict() == predict().as_dict()


def test_specs_are_as_good_as_names() -> None:
    given = predict(method=get_method("kivi"), model=get_model("llama-3-8b"), device=get_device("a40"))
    assert given.as_dict() == predict(method="kivi", model="llama-3-8b", device="a40").as_dict()


def test_another_predictor_may_be_given(made_up: Predictor) -> None:
    assert predict(predictor=made_up).provenance == "made up, for tests"
    assert predict().provenance != "made up, for tests"


# Domain


def test_the_measured_range_is_known() -> None:
    found = predict(bsz=[1, 8, 8, 16, 4], prompt_len=[256, 256, 4000, 1024, 8000], output_len=1)
    assert found.in_domain.tolist() == [True, True, True, False, False]


def test_decoding_past_the_measured_range_is_outside() -> None:
    assert predict(prompt_len=4000, output_len=1).in_domain
    assert not predict(prompt_len=4000, output_len=200).in_domain


@pytest.mark.parametrize("stage", ["ttft_s", "tpot_s"])
def test_intervals_widen_outside_the_measured_range(stage: str) -> None:
    found = predict(bsz=[4, 8, 16, 32, 64], prompt_len=2000)
    low, high = found.interval[stage]
    assert found.in_domain.tolist() == [True, True, False, False, False]
    assert np.all(np.diff(np.log(high / low))[1:] > 0)


@pytest.mark.parametrize(("bsz", "octaves"), [(8, 0), (16, 1), (64, 3)])
def test_each_doubling_outside_widens_by_the_growth_that_was_measured(
    packaged: Predictor, bsz: int, octaves: int
) -> None:
    found = predict(bsz=bsz, prompt_len=2000)
    low, high = found.interval["ttft_s"]
    prefill = packaged.stages["prefill"]
    inside = conformal_quantile(prefill.scores, 0.9) * prefill.fits.error("fp16", bsz=bsz, length=2000)
    assert prefill.growth_per_octave > 0
    assert np.log(high / low) / 2 == pytest.approx(inside * (1 + prefill.growth_per_octave * octaves))


# Refusals


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"bsz": 0}, "bsz=0"),
        ({"bsz": -3}, "bsz=-3"),
        ({"bsz": 2.5}, "bsz=2.5 must be whole"),
        ({"bsz": 4.0}, "bsz=4.0 must be whole"),
        ({"bsz": True}, "bsz=True must be whole"),
        ({"bsz": "4"}, "bsz=4 must be whole"),
        ({"bsz": None}, "bsz=None must be whole"),
        ({"bsz": float("nan")}, "bsz=nan must be whole"),
        ({"bsz": []}, "must be whole"),
        ({"bsz": [4, 0]}, "bsz=0"),
        ({"bsz": 10**6}, "bsz=1000000"),
        ({"bsz": 10**30}, "bsz=1000"),
        ({"bsz": [[1, 2], [3]]}, "do not fit together"),
        ({"bsz": [1, 2], "prompt_len": [1, 2, 3]}, "do not fit together"),
        ({"prompt_len": 0}, "prompt_len=0"),
        ({"prompt_len": 10**12}, "prompt_len=1000000000000"),
        ({"prompt_len": 10**7, "output_len": 2}, "10,000,000"),
        ({"output_len": 0}, "output_len=0"),
        ({"output_len": -1}, "output_len=-1"),
        ({"output_len": 10**12}, "output_len=1000000000000"),
        ({"tp": 3}, "tp=3 does not divide"),
        ({"tp": 0}, "tp=0 does not divide"),
        ({"tp": -1}, "tp=-1 does not divide"),
        ({"model": "llama-3-8b", "tp": 16}, "tp=16 does not divide"),
        ({"level": 0.3}, "level=0.3"),
        ({"level": 1.0}, "level=1.0"),
        ({"level": float("nan")}, "level=nan"),
        ({"weight_bits": 3}, "weight_bits=3"),
        ({"memory_utilization": 1.5}, "memory_utilization=1.5"),
        ({"method": "kivvi"}, "Did you mean kivi?"),
        ({"method": "kivi:bits=5"}, "bits=5"),
        ({"model": "llama-9"}, "Model 'llama-9' is not known"),
        ({"device": "a600"}, "Did you mean a6000?"),
        ({"engine": "vlm"}, "Did you mean vllm?"),
    ],
    ids=str,
)
def test_requests_that_make_no_sense_are_usage_errors(wrong: dict, complaint: str) -> None:
    with pytest.raises(UsageError) as error:
        predict(**wrong)
    assert complaint in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("device", ["host-cpu", "no-flops"])
def test_a_device_without_numbers_is_not_covered(device: str) -> None:
    where = replace(get_device("a6000"), peak_flops_16bit=None) if device == "no-flops" else device
    with pytest.raises(NotCoveredError) as error:
        predict(device=where)
    assert error.value.exit_code == 4
    assert "unknown: measure" in str(error.value)


@given(
    st.sampled_from(["bsz", "prompt_len", "output_len", "tp"]),
    st.integers(-(10**13), 10**13)
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.integers(-3, 3), max_size=3),
)
def test_whatever_is_asked_gets_an_answer_or_a_clear_error(name: str, value: object) -> None:
    if name == "tp" and not isinstance(value, int):
        value = 1
    try:
        found = predict(**{name: value})
    except KvpredError as error:
        assert error.exit_code in (2, 4)
    else:
        assert np.all(found.e2e_latency_s > 0)

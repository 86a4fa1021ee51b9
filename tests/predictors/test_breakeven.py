from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvpred
from kvpred.errors import UsageError
from kvpred.predictors.breakeven import break_even
from kvpred.predictors.breakeven_map import (
    BETTER,
    EQUAL,
    LARGEST,
    NO_ROOM,
    ONLY_THIS,
    QUANTITIES,
    UNCERTAIN,
    VERDICTS,
    WORSE,
    BreakEven,
    Grid,
    Map,
)
from kvpred.predictors.length.outputs import output_shift

HERE = {"model": "llama-2-7b", "device": "a6000", "engine": "lmdeploy"}
METHODS = ("kivi", "h2o", "kv-int4")


def grid(
    bsz: tuple[int, ...] = (1, 8, 32), prompt: tuple[int, ...] = (256, 1024, 4000), output: int = 256
) -> Grid:
    return Grid("bsz", np.array(bsz), np.array(prompt), np.array([output]))


def maps(asked: Grid, methods: tuple[str, ...] = METHODS, **options: object) -> BreakEven:
    return break_even(kvpred._packaged(), asked, methods=methods, **(HERE | options))


def the_map(asked: Grid, method: str, batches: str, **options: object) -> Map:
    (found,) = maps(asked, (method,), batches=[batches], **options).maps
    return found


@pytest.mark.parametrize("method", METHODS)
def test_at_equal_batch_ratios_are_those_of_predict(method: str) -> None:
    asked = grid()
    found = the_map(asked, method, EQUAL, shifted=False)
    for i, bsz in enumerate(asked.bsz):
        for j, prompt_len in enumerate(asked.prompt_len):
            said = kvpred.predict(method=method, bsz=int(bsz), prompt_len=int(prompt_len))
            for quantity in ("decode", "prefill", "e2e"):
                ratio = found.ratios[quantity][0][i, j]
                assert 1 / ratio == pytest.approx(said.speedup_vs_fp16[quantity])
            assert found.ratios["usd"][0][i, j] == pytest.approx(found.ratios["e2e"][0][i, j])
            assert found.fits[i, j] == said.fits


def test_money_is_the_price_of_a_share_of_the_devices_time() -> None:
    asked = grid(bsz=(8,), prompt=(1024,))
    found = the_map(asked, "h2o", EQUAL, price_per_hour=0.8, shifted=False)
    fp16 = kvpred.predict(method="fp16", bsz=8, prompt_len=1024)
    assert found.base_usd is not None
    assert found.base_usd.item() == pytest.approx(0.8 / 3600 * (fp16.ttft_s + 255 * fp16.tpot_s) / 8)


def test_a_price_is_per_device() -> None:
    one, two = (
        the_map(grid(), "h2o", EQUAL, device="a100", tp=tp, price_per_hour=2.0).base_usd for tp in (1, 2)
    )
    fp16 = [kvpred.predict(method="fp16", bsz=8, prompt_len=1024, device="a100", tp=tp) for tp in (1, 2)]
    assert one is not None
    assert two is not None
    assert two[1, 1] / one[1, 1] == pytest.approx(2 * fp16[1].e2e_latency_s / fp16[0].e2e_latency_s)


@pytest.mark.parametrize("method", METHODS)
def test_each_takes_the_largest_batch_that_fits_up_to_what_is_asked(method: str) -> None:
    asked = grid(bsz=(1, 64))
    found = the_map(asked, method, LARGEST, shifted=False)
    for j, prompt_len in enumerate(asked.prompt_len):
        for name, bsz in ((method, found.bsz), ("fp16", found.base_bsz)):
            most = kvpred.predict(method=name, bsz=1, prompt_len=int(prompt_len)).max_bsz
            assert bsz[:, j].tolist() == [1, min(64, most)]


def test_without_a_cap_batches_are_max_bsz_and_money_is_per_request() -> None:
    asked = Grid("output_len", np.array([8]), np.array([1024]), np.array([128]))
    found = the_map(asked, "kv-int4", LARGEST, shifted=False)
    request = {"bsz": 1, "prompt_len": 1024, "output_len": 128}
    most = [kvpred.predict(method=method, **request).max_bsz for method in ("kv-int4", "fp16")]
    assert [found.bsz.item(), found.base_bsz.item()] == most
    own, base = (
        kvpred.predict(method=method, **request | {"bsz": bsz})
        for method, bsz in zip(("kv-int4", "fp16"), most, strict=True)
    )
    usd = (own.e2e_latency_s / most[0]) / (base.e2e_latency_s / most[1])
    assert found.ratios["usd"][0].item() == pytest.approx(usd)
    assert found.ratios["e2e"][0].item() == pytest.approx(own.e2e_latency_s / base.e2e_latency_s)
    throughput = base.decode_throughput_tok_s / own.decode_throughput_tok_s
    assert found.ratios["decode"][0].item() == pytest.approx(throughput)


def test_longer_answers_cost_more_and_the_shifts_doubt_is_in_the_interval() -> None:
    shift = output_shift("h2o", "llama-2-7b")
    bare, shifted = (the_map(grid(), "h2o", EQUAL, shifted=on) for on in (False, True))
    assert shifted.shift == shift
    assert np.array_equal(bare.ratios["decode"][0], shifted.ratios["decode"][0])
    for quantity in ("e2e", "usd"):
        (ratio, low, high), (plain, plain_low, plain_high) = (one.ratios[quantity] for one in (shifted, bare))
        assert np.all(np.sign(ratio - plain) == np.sign(shift.multiplier - 1))
        assert np.all(high / low > plain_high / plain_low)


def test_a_higher_level_widens_every_interval() -> None:
    low, high = (the_map(grid(), "h2o", LARGEST, level=level) for level in (0.6, 0.95))
    for quantity in QUANTITIES:
        (ratio, below, above), (same, wider_below, wider_above) = (
            one.ratios[quantity] for one in (low, high)
        )
        assert np.array_equal(ratio, same)
        assert np.all(wider_below < below)
        assert np.all(wider_above > above)


def test_a_method_whose_shift_is_unknown_is_named_so() -> None:
    assert the_map(grid(), "turboquant", EQUAL).shift.basis == "assumed-none"


def test_verdicts_follow_the_interval_and_memory_goes_first() -> None:
    found = the_map(grid(bsz=(1, 8, 64), prompt=(256, 4000)), "h2o", EQUAL)
    for quantity in QUANTITIES:
        ratio, low, high = found.ratios[quantity]
        for cell in np.ndindex(ratio.shape):
            word = found.verdicts(quantity)[cell]
            if not found.fits[cell]:
                assert word == NO_ROOM
            elif not found.base_fits[cell]:
                assert word == ONLY_THIS
            else:
                assert word == (BETTER if high[cell] < 1 else WORSE if low[cell] > 1 else UNCERTAIN)
        assert sum(found.share(quantity, word) for word in VERDICTS) == pytest.approx(1)
    # 64 x 4,000 tokens in 16 bit are 125 GiB, and H2O's prompt passes uncompressed.
    assert found.verdicts("decode")[2, 1] == NO_ROOM


def test_what_only_a_method_has_room_for_is_told() -> None:
    # 60 x (1,024 + 255) tokens x 0.5 MiB are 37 GiB of the 28 beside the weights; in 4 bit less than 12.
    found = the_map(grid(bsz=(60,), prompt=(1024,)), "kv-int4", EQUAL)
    assert found.verdicts("e2e").item() == ONLY_THIS


def test_a_device_where_not_even_one_fits_is_marked() -> None:
    found = the_map(grid(), "h2o", LARGEST, model="llama-2-13b", device="rtx-4090")
    assert set(found.verdicts("usd").ravel()) == {NO_ROOM}
    assert found.bsz.min() == 1


# Of KIVI and GEAR a longer answer may take less memory: the residual is quantised as soon as it is full.
@pytest.mark.parametrize(
    ("method", "batches"),
    [
        *((method, EQUAL) for method in ("kivi", "gear", "h2o", "streamingllm", "snapkv", "kv-int4")),
        *((method, LARGEST) for method in ("h2o", "streamingllm", "snapkv", "kv-int4")),
    ],
)
def test_a_longer_answer_never_costs_less(method: str, batches: str) -> None:
    asked = Grid("output_len", np.array([8]), np.array([100, 700, 3000]), np.arange(1, 700, 7))
    found = the_map(asked, method, batches, price_per_hour=1.0)
    assert found.base_usd is not None
    for usd in (found.base_usd, found.base_usd * found.ratios["usd"][0]):
        assert np.all(np.diff(usd, axis=0) >= 0)


@given(
    st.sampled_from(["kivi", "gear", "h2o", "streamingllm", "kv-fp8"]),
    st.integers(1, 64),
    st.integers(1, 8000),
    st.integers(2, 500),
    st.sampled_from([EQUAL, LARGEST]),
)
@settings(max_examples=40)
def test_ratios_lie_in_their_intervals(
    method: str, bsz: int, prompt_len: int, output_len: int, batches: str
) -> None:
    found = the_map(grid((bsz,), (prompt_len,), output_len), method, batches)
    for ratio, low, high in found.ratios.values():
        assert 0 < low.item() <= ratio.item() * (1 + 1e-12)
        assert ratio.item() <= high.item() * (1 + 1e-12)


def test_cells_beyond_the_models_context_are_counted() -> None:
    found = maps(grid(prompt=(256, 3840, 4096)))
    assert (found.context, found.beyond_context) == (4096, pytest.approx(1 / 3))


def test_only_the_measured_methods_own_range_is_in_domain() -> None:
    asked = grid(bsz=(1, 8, 16), prompt=(300, 3000))
    assert the_map(asked, "h2o", EQUAL).in_domain["e2e"].tolist() == [
        [True, True],
        [True, True],
        [False, False],
    ]
    assert not the_map(asked, "kv-int4", EQUAL).in_domain["e2e"].any()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"methods": ("fp16",)}, "fp16"),
        ({"price_per_hour": -1.0}, "-1.0"),
        ({"price_per_hour": float("inf")}, "inf"),
        ({"level": 2.0}, "level"),
        ({"model": "lama"}, "lama"),
    ],
)
def test_bad_requests_are_refused(options: dict, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        maps(grid(), **options)


def test_a_grid_has_one_value_where_there_is_no_axis() -> None:
    with pytest.raises(UsageError, match="output_len must be one number"):
        Grid("bsz", np.array([1, 2]), np.array([128]), np.array([16, 32]))
    with pytest.raises(UsageError, match="prompt_len"):
        Grid("prompt_len", np.array([1]), np.array([128]), np.array([16]))

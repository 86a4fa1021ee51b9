import pytest

from kvpred.engines.openvino_recipes import Recipe, properties_of, recipe_of
from kvpred.errors import UsageError
from kvpred.methods import get_method

BF16_CPU, PLAIN_CPU = ["BF16", "FP32"], ["FP32"]


def properties(method: str, **options: str) -> dict[str, str | int]:
    return properties_of(recipe_of(get_method(method)), options, native="bf16", able=BF16_CPU)


def test_h2o_keeps_its_budget_with_the_first_block_among_the_heavy_hitters():
    assert recipe_of(get_method("h2o:heavy=96,recent=160")) == Recipe(start=32, recent=160, budget=256)


def test_snapkv_keeps_its_budget_with_the_window_in_whole_blocks():
    recipe = recipe_of(get_method("snapkv:budget=256,window=40"))
    assert recipe == Recipe(start=32, recent=64, budget=256, window=40)


@pytest.mark.parametrize(
    ("method", "possible"),
    [
        ("kivi", "serves fp16, kv-int8, kv-int4, h2o, snapkv"),
        ("h2o:heavy=32,recent=448", "heavy=32 must be a multiple of 32 from 64 on"),
        ("h2o:heavy=64,recent=100", "recent=100 one from 32 on"),
        ("snapkv:budget=100", "budget=100 must be a multiple of 32 from 96 on"),
        ("snapkv:budget=96,window=33", "from 128 on at window=33"),
        ("snapkv:kernel=5", "kernel=5 must be 7"),
    ],
)
def test_what_blocks_cannot_do_is_refused_with_what_is_possible(method, possible):
    with pytest.raises(UsageError, match=possible):
        recipe_of(get_method(method))


@pytest.mark.parametrize(
    ("method", "precision"), [("fp16", "bf16"), ("kv-int8", "u8"), ("kv-int4", "u4"), ("h2o", "bf16")]
)
def test_the_type_of_the_cache_is_always_said(method, precision):
    said = properties(method)
    assert (said["KEY_CACHE_PRECISION"], said["VALUE_CACHE_PRECISION"]) == (precision, precision)


def test_beside_32_bit_arithmetic_a_16_bit_cache_is_f16():
    said = properties_of(Recipe(), {}, native="f32", able=PLAIN_CPU)
    assert (said["KEY_CACHE_PRECISION"], said["INFERENCE_PRECISION_HINT"]) == ("f16", "f32")


def test_options_mix_the_types_of_quantising_methods_alone():
    options = {"value_precision": "u4", "value_group_size": "32", "threads": "1"}
    mixed, plain = properties("kv-int8", **options), properties("fp16", **options)
    assert mixed["KEY_CACHE_PRECISION"] == "u8"
    assert (mixed["VALUE_CACHE_PRECISION"], mixed["VALUE_CACHE_GROUP_SIZE"]) == ("u4", 32)
    assert plain == properties("fp16", threads="1")
    assert plain["INFERENCE_NUM_THREADS"] == 1


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("threds", "2", "has no option 'threds': it has key_precision, value_precision"),
        ("key_precision", "i8", "must be u8 or u4"),
        ("value_precision", "u3", "must be u8 or u4"),
        ("key_group_size", "32", "heeds no key_group_size"),
        ("inference_precision", "f16", "must be bf16 or f32, what this processor computes in"),
        ("threads", "0", "positive whole number"),
        ("value_group_size", "many", "positive whole number"),
    ],
)
def test_an_option_that_would_do_nothing_or_harm_is_refused(option, value, complaint):
    with pytest.raises(UsageError, match=complaint):
        properties("kv-int8", **{option: value})

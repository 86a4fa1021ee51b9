import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest

from kvpred.engines.base import EngineError, Target, Usage
from kvpred.engines.openvino import OpenVINO
from kvpred.errors import DataError, MissingExtraError, UsageError
from kvpred.methods import get_method
from kvpred.models import get_model

pytestmark = pytest.mark.slow

MODEL = get_model("smollm2-135m")
FP16 = get_method("fp16")
LIST = "apple river stone paper light horse table green water music night plant"
TOLERANCE = 0.03
"""Between the engine's own timings and the client's."""

Start = Callable[..., OpenVINO]


@pytest.fixture(scope="module")
def start(smollm2) -> Start:
    """Load an engine, which takes seconds."""
    pytest.importorskip("openvino_genai")
    target = Target(MODEL, smollm2, max_tokens=1200, max_bsz=2, max_seq_len=1200)
    return lambda method="fp16", **changes: OpenVINO(replace(target, **changes), [get_method(method)])


@pytest.fixture(scope="module")
def engine(start: Start) -> OpenVINO:
    return start()


@pytest.fixture(scope="module")
def served(start: Start, engine: OpenVINO) -> Callable[[str], tuple[Usage, str]]:
    """Return what a method's cache took at 1,063 tokens, and its continuation of a list that it has seen."""

    @cache
    def serve(name: str) -> tuple[Usage, str]:
        method = get_method(name)
        serving = engine if method == FP16 else start(name)
        prompt = f"{LIST}\n{LIST}\n{LIST}\napple river stone"
        usage = serving.usage(method, prompt_len=1024, output_len=40)
        return usage, serving.complete(method, prompt, max_tokens=12)

    return serve


def test_fp16_fills_pages_of_32_tokens_at_16_bit(served):
    usage, _ = served("fp16")
    assert usage.kv_len == 1063
    assert usage.cache_tokens == 1088
    assert usage.cache_bytes == 1088 * MODEL.kv_bytes_per_token()


@pytest.mark.parametrize(
    ("method", "bytes_per_token"),
    # Keys: numbers, and per channel and block of 32 tokens 8 bytes. Values: numbers, and per token 8 bytes.
    [("kv-int8", (64 + 8 * 64 / 32) + (64 + 8)), ("kv-int4", (32 + 8 * 64 / 32) + (32 + 8))],
)
def test_a_quantised_cache_takes_the_bytes_of_its_numbers_and_scales(served, method, bytes_per_token):
    usage, _ = served(method)
    assert usage.cache_tokens == served("fp16")[0].cache_tokens
    assert usage.cache_bytes == 1088 * MODEL.n_layers * MODEL.n_kv_heads * bytes_per_token


@pytest.mark.parametrize("method", ["h2o", "snapkv"])
def test_eviction_leaves_the_budget_and_the_page_being_filled(served, method):
    usage, _ = served(method)
    assert usage.cache_tokens == 512 + 32
    assert usage.cache_bytes == 544 * MODEL.kv_bytes_per_token()


@pytest.mark.parametrize("method", ["fp16", "kv-int8", "kv-int4", "h2o", "snapkv"])
def test_every_method_copies_words_from_its_context(served, method):
    _, text = served(method)
    assert text.split()[:5] == LIST.split()[3:8]


def test_mixed_precisions_take_the_bytes_of_both(start):
    mixed = start("kv-int8", options={"value_precision": "u4"})
    usage = mixed.usage(mixed.methods[0], prompt_len=30, output_len=2)
    assert usage.cache_bytes == 32 * MODEL.n_layers * MODEL.n_kv_heads * ((64 + 16) + (32 + 8))
    assert mixed.settings(mixed.methods[0])["value_cache_precision"] == "u4"


def test_a_batch_is_prefilled_and_decoded_together(engine):
    done = engine.generate(FP16, bsz=2, prompt_len=200, output_len=24, seed=1)
    assert done.prompt_tokens == (200, 200)
    assert done.arrivals_s[0] == done.arrivals_s[1]
    assert len(done.arrivals_s[0]) == 24
    assert all(earlier < later for earlier, later in pairwise(done.arrivals_s[0]))


@pytest.mark.alone
@pytest.mark.parametrize("bsz", [1, 2])
def test_own_timings_of_the_engine_agree_with_the_clients(engine, bsz):
    done = engine.generate(FP16, bsz=bsz, prompt_len=256, output_len=32, seed=2)
    assert done.own_ttft_s == pytest.approx(done.ttft_s, rel=TOLERANCE)
    assert done.own_tpot_s == pytest.approx(done.tpot_s, rel=TOLERANCE)


def test_a_single_token_has_no_time_per_output_token(engine):
    assert engine.generate(FP16, bsz=1, prompt_len=16, output_len=1, seed=3).own_tpot_s is None


@pytest.mark.parametrize(
    ("batch", "complaint"),
    [
        ({"prompt_len": 8190, "output_len": 3}, "do not fit into smollm2-135m's context of 8,192"),
        ({"bsz": 3}, "started for 2 sequences"),
        ({"bsz": 2, "prompt_len": 600}, "and 1,200 tokens"),
        ({"method": get_method("kv-int8")}, "serves fp16, not kv-int8"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_and_the_next_is_served(engine, batch, complaint):
    small = {"method": FP16, "bsz": 1, "prompt_len": 16, "output_len": 2, "seed": 4}
    with pytest.raises(UsageError, match=complaint):
        engine.generate(**small | batch)
    assert engine.generate(**small).output_len == 2


def test_settings_and_versions_say_what_ran(engine):
    settings = engine.settings(FP16)
    assert settings["key_cache_precision"] in ("bf16", "f16")
    assert settings["dynamic_split_fuse"] is False
    assert set(engine.versions()) == {"openvino", "openvino_genai"}


def test_weights_of_another_model_are_refused(start):
    with pytest.raises(DataError, match="vocabulary of more than 32,000 tokens, so it is not llama-2-7b"):
        start(model=get_model("llama-2-7b"))
    other = start(model=replace(MODEL, name="deeper", n_layers=31))
    with pytest.raises(DataError, match="bytes of 16-bit cache per token, so it is not deeper"):
        other.usage(FP16, prompt_len=16, output_len=2)


def test_weights_that_are_none_are_refused(start, tmp_path):
    with pytest.raises(UsageError, match="needs real weights"):
        start(weights=None)
    with pytest.raises(DataError, match="does not exist"):
        start(weights=tmp_path / "none.gguf")
    with pytest.raises(DataError, match="holds neither"):
        start(weights=tmp_path)
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_text("no model")
    with pytest.raises(DataError, match=r"name one: a\.gguf, b\.gguf"):
        start(weights=tmp_path)
    with pytest.raises(EngineError, match=r"cannot serve .*a\.gguf"):
        start(weights=tmp_path / "a.gguf")


def test_another_device_and_several_methods_are_refused(start, smollm2):
    with pytest.raises(UsageError, match="serves on the CPU, not on cuda:0"):
        start(device="cuda:0")
    with pytest.raises(UsageError, match="serves one method, not 2"):
        OpenVINO(Target(MODEL, smollm2), [FP16, get_method("h2o")])


def test_a_missing_package_names_the_extra(start, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino_genai", None)
    with pytest.raises(MissingExtraError, match=r"kvpred\[openvino\]"):
        start()

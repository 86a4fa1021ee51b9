"""llama.cpp itself, with a small real model: its cache types, its batches, and what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from kvpred.engines.base import EngineError, Target
from kvpred.engines.llamacpp import LlamaCpp
from kvpred.engines.proof import copying_tasks
from kvpred.errors import DataError, MissingExtraError, UsageError
from kvpred.methods import get_method
from kvpred.models import get_model

METHODS = ("fp16", "kv-int8", "kv-int4")
# llama.cpp's blocks of 32 values: 32 or 16 bytes and a 2-byte scale, against 64 bytes.
SHARES = {"kv-int8": 34 / 64, "kv-int4": 18 / 64}


@pytest.fixture(scope="module")
def target(smollm2: Path) -> Target:
    """One thread, because threads that wait for each other on a busy machine cost a hundredfold."""
    pytest.importorskip("xllamacpp")
    return Target(
        get_model("smollm2-135m"), smollm2, max_tokens=256, max_bsz=3, max_seq_len=256,
        options={"threads": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def engine_of(target: Target) -> Iterator[Callable[[str], LlamaCpp]]:
    """Engines by the names of their methods, each started once."""
    started: dict[str, LlamaCpp] = {}

    def engine(name: str) -> LlamaCpp:
        if name not in started:
            started[name] = LlamaCpp(target, [get_method(name)])
        return started[name]

    yield engine
    for running in started.values():
        running.close()


@pytest.mark.parametrize("name", SHARES)
def test_quantised_cache_takes_the_bytes_of_its_blocks(
    name: str, engine_of: Callable[[str], LlamaCpp]
) -> None:
    baseline = engine_of("fp16").usage(get_method("fp16"), prompt_len=64, output_len=4)
    own = engine_of(name).usage(get_method(name), prompt_len=64, output_len=4)

    assert own.kv_len == baseline.kv_len == 64 + 4 - 1
    assert own.cache_bytes is not None and baseline.cache_bytes is not None
    assert own.cache_bytes / baseline.cache_bytes == pytest.approx(SHARES[name], rel=0.01)


def test_fp16_takes_what_its_memory_model_says(target: Target, engine_of: Callable[[str], LlamaCpp]) -> None:
    fp16 = get_method("fp16")
    usage = engine_of("fp16").usage(fp16, prompt_len=64, output_len=4)

    expected = fp16.cache_bytes(target.model, bsz=1, kv_len=usage.kv_len)
    assert usage.cache_bytes == pytest.approx(float(expected), rel=0.01)


@pytest.mark.parametrize("name", METHODS)
def test_words_are_copied_from_the_context(name: str, engine_of: Callable[[str], LlamaCpp]) -> None:
    prompt, words = next(copying_tasks())

    answer = engine_of(name).complete(get_method(name), prompt, max_tokens=16)

    assert answer.split()[:6] == words[:6]


@pytest.mark.parametrize("bsz", [2, 1, 3])
def test_every_token_of_a_batch_arrives_after_the_one_before(
    bsz: int, engine_of: Callable[[str], LlamaCpp]
) -> None:
    done = engine_of("fp16").generate(get_method("fp16"), bsz=bsz, prompt_len=24, output_len=6, seed=bsz)

    assert done.prompt_tokens == (24,) * bsz
    assert [len(arrivals) for arrivals in done.arrivals_s] == [6] * bsz
    assert all(0 < a < b for arrivals in done.arrivals_s for a, b in pairwise(arrivals))


@pytest.mark.alone
def test_a_batch_is_prefilled_and_decoded_together(engine_of: Callable[[str], LlamaCpp]) -> None:
    done = engine_of("fp16").generate(get_method("fp16"), bsz=3, prompt_len=64, output_len=6, seed=0)

    # One after another, the last first token would come a prefill after the first one, or a step later.
    firsts = [arrivals[0] for arrivals in done.arrivals_s]
    seconds = [arrivals[1] for arrivals in done.arrivals_s]
    assert max(firsts) < min(seconds)
    assert max(firsts) - min(firsts) < 0.2 * min(firsts)


@pytest.mark.alone
def test_client_times_agree_with_llama_cpps_own(engine_of: Callable[[str], LlamaCpp]) -> None:
    runs = [
        engine_of("fp16").generate(get_method("fp16"), bsz=1, prompt_len=64, output_len=12, seed=seed)
        for seed in range(5)
    ]

    own_ttft, own_tpot = (
        median(run.own_ttft_s or 0 for run in runs),
        median(run.own_tpot_s or 0 for run in runs),
    )
    assert median(run.ttft_s for run in runs) == pytest.approx(own_ttft, rel=0.03)
    assert median(run.tpot_s for run in runs) == pytest.approx(own_tpot, rel=0.03)


def test_nothing_is_written_to_standard_error(target: Target, capfd: pytest.CaptureFixture[str]) -> None:
    engine = LlamaCpp(target, [get_method("kv-int8")])
    engine.generate(get_method("kv-int8"), bsz=1, prompt_len=8, output_len=2, seed=0)
    engine.close()
    engine.close()

    assert capfd.readouterr() == ("", "")


def test_mixed_types_are_served_and_named(target: Target) -> None:
    mixed = replace(target, options={"threads": "1", "cache_type_k": "q8_0", "cache_type_v": "q4_0"})
    engine = LlamaCpp(mixed, [get_method("kv-int8")])
    usage = engine.usage(get_method("kv-int8"), prompt_len=32, output_len=2)

    settings = engine.settings(get_method("kv-int8"))
    engine.close()
    assert (settings["cache_type_k"], settings["cache_type_v"]) == ("q8_0", "q4_0")
    # Bytes of a value; keys and values; layers, heads, width.
    per_token = (34 + 18) / 2 / 32 * 2 * 30 * 3 * 64
    assert usage.cache_bytes == pytest.approx(per_token * usage.kv_len, rel=0.02)


def test_versions_name_llama_cpps_build(engine_of: Callable[[str], LlamaCpp]) -> None:
    versions = engine_of("fp16").versions()

    assert set(versions) == {"xllamacpp", "llama.cpp"}
    assert versions["llama.cpp"][1:].isdecimal()


def test_too_long_a_prompt_is_refused(engine_of: Callable[[str], LlamaCpp]) -> None:
    with pytest.raises(UsageError, match="254 \\+ 3 tokens do not fit into a sequence's 256"):
        engine_of("fp16").generate(get_method("fp16"), bsz=1, prompt_len=254, output_len=3, seed=0)
    with pytest.raises(UsageError, match="exceeds the available context size"):
        engine_of("fp16").complete(get_method("fp16"), "apple " * 600, max_tokens=1)


def test_a_full_context_is_served_whole(engine_of: Callable[[str], LlamaCpp]) -> None:
    done = engine_of("fp16").generate(get_method("fp16"), bsz=1, prompt_len=252, output_len=4, seed=0)

    assert done.output_len == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"cache_typ_k": "q8_0"}}, "no option 'cache_typ_k'; it has cache_type_k, cache_type_v"),
        ({"options": {"cache_type_k": "int8"}}, "no cache of type 'int8'"),
        ({"options": {"threads": "0"}}, "threads is a positive number"),
        ({"options": {"flash_attention": "yes"}}, "flash_attention is on or off"),
        ({"weights": None}, "needs the weights' GGUF file"),
        ({"device": "cuda:0"}, "not on cuda:0"),
    ],
)
def test_impossible_targets_are_refused(target: Target, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LlamaCpp(replace(target, **changes), [get_method("kv-int8")])  # type: ignore[arg-type]


def test_methods_it_does_not_have_are_refused(target: Target) -> None:
    with pytest.raises(UsageError, match="does not serve h2o; it serves fp16, kv-int8, kv-int4"):
        LlamaCpp(target, [get_method("h2o")])


def test_missing_or_ambiguous_files_are_named(target: Target, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.*does not exist"):
        LlamaCpp(replace(target, weights=tmp_path / "nowhere"), [get_method("fp16")])
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(DataError, match=r"one GGUF file, holds: a\.gguf, b\.gguf"):
        LlamaCpp(replace(target, weights=tmp_path), [get_method("fp16")])


def test_what_is_no_model_fails_with_llama_cpps_reason(
    target: Target, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.gguf"
    text.write_text("hello, this is no model")

    with pytest.raises(EngineError, match=r"text\.gguf: .*invalid magic characters"):
        LlamaCpp(replace(target, weights=text), [get_method("fp16")])
    assert capfd.readouterr().err == ""


def test_quantised_values_without_flash_attention_fail_with_llama_cpps_reason(target: Target) -> None:
    off = replace(target, options={"threads": "1", "flash_attention": "off"})

    with pytest.raises(EngineError, match="requires flash_attn"):
        LlamaCpp(off, [get_method("kv-int4")])


def test_a_missing_package_says_what_brings_it(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)

    with pytest.raises(MissingExtraError, match=r"kvpred\[llamacpp\]"):
        LlamaCpp(target, [get_method("fp16")])

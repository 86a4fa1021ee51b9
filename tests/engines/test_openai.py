"""The `openai` engine against real servers on the loopback interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvpred.engines.base import EngineError, Target
from kvpred.engines.openai import OpenAI
from kvpred.engines.openai_dialect import TOLERANCE
from kvpred.errors import UsageError
from kvpred.methods import get_method
from kvpred.models import get_model
from tests.servers import llamacpp_server, transformers_server

MODEL = get_model("smollm2-135m")
FP16, INT8 = get_method("fp16"), get_method("kv-int8")
N_TOKENS = 12

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def llamacpp(smollm2: Path) -> Iterator[OpenAI]:
    """One server with a 16-bit and one with an 8-bit cache, 512 tokens for each of two sequences."""
    with (
        llamacpp_server(smollm2, n_ctx=1024) as fp16,
        llamacpp_server(smollm2, n_ctx=1024, cache_type="q8_0") as int8,
    ):
        yield OpenAI(Target(MODEL, urls={FP16.spec: fp16, INT8.spec: f"{int8}/v1"}), [FP16, INT8])


@pytest.fixture(scope="module")
def transformers(smollm2_folder: Path) -> Iterator[OpenAI]:
    with transformers_server(smollm2_folder) as url:
        yield OpenAI(Target(MODEL, urls={"": url}, served_name=str(smollm2_folder)), [FP16])


@pytest.mark.parametrize("bsz", [1, 2])
def test_llamacpp_counts(llamacpp: OpenAI, bsz: int) -> None:
    found = llamacpp.generate(INT8, bsz=bsz, prompt_len=64, output_len=N_TOKENS, seed=1)
    assert found.prompt_tokens == (64,) * bsz
    assert [len(arrivals) for arrivals in found.arrivals_s] == [N_TOKENS] * bsz
    assert all(list(arrivals) == sorted(arrivals) for arrivals in found.arrivals_s)
    assert found.tpot_s > 0


@pytest.mark.alone
def test_llamacpps_own_timings_agree(llamacpp: OpenAI) -> None:
    """Within 3 %; a busy machine may take away the client's time, so one of three batches is enough."""

    def agree(seed: int) -> bool:
        run = llamacpp.generate(FP16, bsz=1, prompt_len=256, output_len=24, seed=seed)
        assert run.own_ttft_s is not None and run.own_tpot_s is not None
        ratios = (run.ttft_s / run.own_ttft_s, run.tpot_s / run.own_tpot_s)
        return all(abs(ratio - 1) < 0.03 for ratio in ratios)

    assert any(agree(seed) for seed in range(3))


def test_llamacpp_is_asked_with_token_numbers(llamacpp: OpenAI) -> None:
    settings = llamacpp.settings(FP16)
    assert settings["prompts"] == "token ids"
    assert settings["endpoint"] == "/v1/completions"
    assert settings["url"] != llamacpp.settings(INT8)["url"]
    assert llamacpp.versions()["server"] == "llama.cpp"


def test_llamacpp_does_not_tell_its_cache(llamacpp: OpenAI) -> None:
    assert llamacpp.usage(INT8, prompt_len=32, output_len=4) is None


def test_llamacpp_continues_a_text_with_either_cache(llamacpp: OpenAI) -> None:
    answers = {method.name: llamacpp.complete(method, "The capital of France is", max_tokens=2)
               for method in (FP16, INT8)}  # fmt: skip
    assert answers == {"fp16": " Paris.", "kv-int8": " Paris."}


def test_llamacpp_refuses_a_prompt_longer_than_its_context(llamacpp: OpenAI) -> None:
    with pytest.raises(UsageError, match=r"answers 400: .*context size.*shorter --prompt-len"):
        llamacpp.generate(FP16, bsz=1, prompt_len=700, output_len=4, seed=0)


def test_llamacpp_ends_an_answer_where_its_context_does(llamacpp: OpenAI) -> None:
    with pytest.raises(EngineError, match=r"tokens where 40 were asked: .*the context is full"):
        llamacpp.generate(FP16, bsz=1, prompt_len=500, output_len=40, seed=0)


@pytest.mark.parametrize("bsz", [1, 2])
def test_transformers_counts(transformers: OpenAI, bsz: int) -> None:
    found = transformers.generate(FP16, bsz=bsz, prompt_len=100, output_len=N_TOKENS, seed=1)
    assert all(abs(tokens - 100) <= TOLERANCE * 100 for tokens in found.prompt_tokens)
    assert [len(arrivals) for arrivals in found.arrivals_s] == [N_TOKENS] * bsz
    assert found.tpot_s > 0
    assert found.own_ttft_s is None


def test_transformers_continues_a_text(transformers: OpenAI) -> None:
    assert transformers.complete(FP16, "The capital of France is", max_tokens=2) == " Paris."
    assert transformers.usage(FP16, prompt_len=32, output_len=4) is None
    assert transformers.settings(FP16)["prompts"] == "words"


def test_transformers_passes_stop_tokens(transformers: OpenAI) -> None:
    """Asked with the fields that it takes, it goes on where its model would end."""
    dialect = transformers._dialect(FP16)
    question = "<|im_start|>user\nSay yes.<|im_end|>\n<|im_start|>assistant\n"
    short, full = (
        dialect.server.stream(dialect.path, lambda body=body: [body])[0]  # type: ignore[misc]
        for body in (dialect.body(question, 32, full_length=False), dialect.body(question, 32))
    )
    assert len(short.arrivals_s) < 32 == len(full.arrivals_s)


def test_transformers_refuses_another_model(transformers: OpenAI) -> None:
    other = OpenAI(Target(MODEL, urls=transformers.target.urls, served_name="other"), [FP16])
    with pytest.raises(EngineError, match=r"answers 400: Server is pinned.*Correct --served-name"):
        other.settings(FP16)

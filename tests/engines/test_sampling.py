"""Sampled answers: the same in every batch, ended where the model ends them, cut at the cap."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import PreTrainedModel

import kvpred.caches
from kvpred.engines.sampling import Answer, Prompt, sample_answers
from kvpred.methods import get_method, list_methods
from kvpred.models.weights import random_model
from tests.tiny import TINY

FP16 = get_method("fp16")
PROMPTS = [Prompt(f"c{n}_0/0", tuple(int(t) for t in np.arange(7 + 9 * n) * 37 % 90 + 3)) for n in range(4)]
# A twelfth of the vocabulary ends an answer: random weights choose evenly.
ENDS = frozenset(range(0, TINY.vocab_size, 12))


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    import torch

    made = random_model(TINY, dtype=torch.float32, device="cpu", seed=0)
    made.set_attn_implementation(kvpred.caches.NAME)
    return made


def sample(
    model: PreTrainedModel, prompts: list[Prompt], seeds: list[int], **options: object
) -> list[Answer]:
    asked = {"temperature": 1.0, "cap": 40, "ends": ENDS, "method": FP16} | options
    return sample_answers(model, asked.pop("method"), prompts, seeds, **asked)  # type: ignore[arg-type]


def test_an_answer_is_the_same_alone_and_in_any_batch(model: PreTrainedModel) -> None:
    together = sample(model, PROMPTS, [0, 1, 2, 3])
    assert len({answer.output_tokens for answer in together}) > 1
    for place, prompt in enumerate(PROMPTS):
        assert sample(model, [prompt], [place]) == [together[place]]
    assert sample(model, PROMPTS[::-1], [3, 2, 1, 0]) == together[::-1]


@pytest.mark.parametrize("method", list_methods(), ids=lambda method: method.name)
def test_answers_that_leave_the_batch_change_none_of_the_others(
    method: object, model: PreTrainedModel
) -> None:
    together = sample(model, PROMPTS, [0, 1, 2, 3], method=method)
    alone = [sample(model, [prompt], [seed], method=method)[0] for seed, prompt in enumerate(PROMPTS)]
    assert together == alone


@pytest.mark.parametrize("spec", ["h2o", "streamingllm", "snapkv"])
def test_a_budget_that_holds_everything_gives_the_answers_of_fp16(spec: str, model: PreTrainedModel) -> None:
    assert sample(model, PROMPTS, [0] * 4, method=get_method(spec)) == sample(model, PROMPTS, [0] * 4)


def test_another_seed_gives_another_answer(model: PreTrainedModel) -> None:
    first, second = sample(model, [PROMPTS[0]] * 2, [0, 1])
    assert first.tokens != second.tokens


def test_an_answer_ends_with_its_end_or_at_the_cap(model: PreTrainedModel) -> None:
    answers = sample(model, PROMPTS * 3, list(range(12)), cap=12)
    assert {answer.ended for answer in answers} == {True, False}
    for answer in answers:
        assert answer.output_tokens == len(answer.tokens) <= 12
        assert not ENDS & set(answer.tokens[:-1])
        assert answer.ended == (answer.tokens[-1] in ENDS)
        assert answer.ended or answer.output_tokens == 12


def test_the_numbers_of_a_token_are_spread_as_the_model_says(model: PreTrainedModel) -> None:
    drawn = [answer.tokens[0] for answer in sample(model, [PROMPTS[0]] * 400, list(range(400)), cap=1)]
    import torch

    with torch.inference_mode():
        logits = model(torch.tensor([PROMPTS[0].tokens])).logits[0, -1]
    likely = torch.softmax(logits, -1).numpy()
    counts = np.bincount(drawn, minlength=len(likely))
    statistic = float(((counts - 400 * likely) ** 2 / (400 * likely)).sum())
    freedom = len(likely) - 1
    assert abs(statistic - freedom) < 4 * np.sqrt(2 * freedom)


def test_a_low_temperature_takes_the_likeliest_token(model: PreTrainedModel) -> None:
    cold = {answer.tokens for answer in sample(model, [PROMPTS[0]] * 5, list(range(5)), temperature=1e-4)}
    assert len(cold) == 1

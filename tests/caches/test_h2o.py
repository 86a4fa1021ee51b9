from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from kvpred.caches.h2o import H2OLayer
from kvpred.methods.h2o import H2O

HEAVY, RECENT = 4, 6
SCALING = 0.5
N_TOKENS = 48


class NaiveH2O:
    """One KV head of one sequence, token by token: which positions are kept, and their sums."""

    def __init__(self, query: Tensor, key: Tensor, prompt_len: int) -> None:
        self.query, self.key, self.prompt_len = query, key, prompt_len
        self.sums: dict[int, float] = {}
        for position in range(prompt_len):
            self.look(position)
        self.evict(prompt_len)

    def look(self, position: int) -> None:
        """Let a token's query heads look at what is kept and at the token itself."""
        self.sums[position] = 0.0
        attended = sorted(self.sums)
        for q_head in range(len(self.query)):
            logits = torch.tensor(
                [float(self.query[q_head, position] @ self.key[p]) * SCALING for p in attended]
            )
            for p, probability in zip(attended, logits.softmax(dim=0).tolist(), strict=True):
                self.sums[p] += probability

    def evict(self, n_tokens: int) -> None:
        """Keep the last tokens and, among the others, those with the largest sums."""
        others = sorted((p for p in self.sums if p < n_tokens - RECENT), key=self.sums.__getitem__)
        for p in others[: max(0, len(others) - HEAVY)]:
            del self.sums[p]


@pytest.mark.parametrize("prompt_len", [1, 4, 10, 11, 12, 30])
def test_h2o_keeps_exactly_what_a_naive_reference_keeps(prompt_len: int) -> None:
    torch.manual_seed(prompt_len)
    query, key = torch.randn(2, 6, N_TOKENS, 8), torch.randn(2, 2, N_TOKENS, 8)
    value = torch.arange(float(N_TOKENS))[:, None].expand(2, 2, -1, 8)
    prompt = (slice(None), slice(None), slice(prompt_len))
    layer = H2OLayer(H2O(heavy=HEAVY, recent=RECENT))
    layer.step(query[prompt], key[prompt], value[prompt], SCALING, None)
    heads = [(sequence, head) for sequence in range(2) for head in range(2)]
    naive = {(s, h): NaiveH2O(query[s, 3 * h : 3 * h + 3], key[s, h], prompt_len) for s, h in heads}

    for own in range(prompt_len, N_TOKENS):
        here = (slice(None), slice(None), slice(own, own + 1))
        layer.append(key[here], value[here])
        kept = {at: sorted([*reference.sums, own]) for at, reference in naive.items()}
        assert {at: sorted(layer.materialise()[1][at][:, 0].int().tolist()) for at in heads} == kept
        layer.attend(query[here], SCALING)
        for at, reference in naive.items():
            reference.look(own)
            sums = dict(
                zip(layer.materialise()[1][at][:, 0].int().tolist(), held_sums(layer, at), strict=True)
            )
            assert sums == pytest.approx(reference.sums, rel=1e-4)
            reference.evict(own + 1)
        layer.evict()


def held_sums(layer: H2OLayer, at: tuple[int, int]) -> list[float]:
    sums: list[float] = layer.sequences["accumulators"].view[at].flatten().tolist()
    return sums


def test_heads_keep_different_tokens() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 2, 40, 8), torch.randn(1, 2, 40, 8)
    value = torch.arange(40.0)[:, None].expand(1, 2, -1, 8)
    layer = H2OLayer(H2O(heavy=HEAVY, recent=RECENT))
    layer.step(query, key, value, SCALING, None)
    layer.append(key[:, :, :1], value[:, :, :1])
    first, second = layer.materialise()[1][0, :, :, 0].int().tolist()
    assert set(first) != set(second)
    assert {*range(34, 40)} <= set(first) & set(second)


def test_step_attends_to_what_is_kept_and_to_itself() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 1, 31, 8), torch.randn(1, 1, 31, 8), torch.randn(1, 1, 31, 8)
    layer = H2OLayer(H2O(heavy=HEAVY, recent=RECENT))
    layer.step(query[:, :, :30], key[:, :, :30], value[:, :, :30], SCALING, None)
    kept = [*sorted(NaiveH2O(query[0], key[0, 0], 30).sums), 30]
    output = layer.step(query[:, :, 30:], key[:, :, 30:], value[:, :, 30:], SCALING, None)
    probabilities = (query[0, 0, 30] @ key[0, 0, kept].T * SCALING).softmax(dim=0)
    assert_close(output[0, 0, 0], probabilities @ value[0, 0, kept])


def test_sums_are_fp32_under_a_16_bit_model() -> None:
    entries = [torch.randn(1, heads, 30, 8, dtype=torch.bfloat16) for heads in (4, 2, 2)]
    layer = H2OLayer(H2O(heavy=HEAVY, recent=RECENT))
    layer.step(*entries, SCALING, None)
    assert layer.sequences["accumulators"].view.dtype == torch.float32
    assert layer.step(*(e[:, :, :1] for e in entries), SCALING, None).dtype == torch.bfloat16

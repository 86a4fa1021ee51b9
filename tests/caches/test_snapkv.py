from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from kvpred.caches.snapkv import SnapKVLayer
from kvpred.methods.snapkv import SnapKV

SCALING = 0.5


def naive_kept(query: Tensor, key: Tensor, method: SnapKV) -> list[int]:
    """Positions that one KV head keeps of a prompt: one vote and one neighbour at a time."""
    n_tokens, reach = len(key), method.kernel // 2
    voted_on = n_tokens - method.window
    votes = [0.0] * voted_on
    for q_head in range(len(query)):
        for position in range(voted_on, n_tokens):
            logits = key[: position + 1] @ query[q_head, position] * SCALING
            for p, probability in enumerate(logits.softmax(dim=0)[:voted_on].tolist()):
                votes[p] += probability
    pooled = [max(votes[max(0, p - reach) : p + reach + 1]) for p in range(voted_on)]
    best = sorted(range(voted_on), key=lambda p: -pooled[p])[: method.budget - method.window]
    return [*sorted(best), *range(voted_on, n_tokens)]


def layer_after_prompt(query: Tensor, key: Tensor, method: SnapKV) -> SnapKVLayer:
    """Pass a prompt whose values are its positions."""
    layer = SnapKVLayer(method)
    value = torch.arange(float(key.shape[2]))[:, None].expand_as(key)
    layer.step(query, key, value, SCALING, None)
    return layer


def positions(layer: SnapKVLayer) -> Tensor:
    return layer.materialise()[1][..., 0].int()


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("prompt_len", [21, 22, 60])
def test_snapkv_keeps_exactly_what_a_naive_reference_keeps(prompt_len: int, kernel: int) -> None:
    torch.manual_seed(0)
    method = SnapKV(budget=20, window=5, kernel=kernel)
    query, key = torch.randn(2, 6, prompt_len, 8), torch.randn(2, 2, prompt_len, 8)
    kept = positions(layer_after_prompt(query, key, method))
    for sequence in range(2):
        for head in range(2):
            queries = query[sequence, 3 * head : 3 * head + 3]
            assert kept[sequence, head].tolist() == naive_kept(queries, key[sequence, head], method)


@pytest.mark.parametrize("prompt_len", [1, 4, 19, 20])
def test_prompt_within_the_budget_is_kept_whole(prompt_len: int) -> None:
    query = key = torch.randn(1, 1, prompt_len, 8)
    layer = layer_after_prompt(query, key, SnapKV(budget=20, window=5))
    assert positions(layer)[0, 0].tolist() == list(range(prompt_len))


def test_snapkv_keeps_the_observation_window() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(3, 4, 100, 8), torch.randn(3, 2, 100, 8)
    kept = positions(layer_after_prompt(query, key, SnapKV(budget=24, window=16)))
    assert (kept[..., 8:] == torch.arange(84, 100)).all()
    assert (kept[..., :8] < 84).all()


def test_token_that_the_window_looks_at_is_kept_with_its_neighbours() -> None:
    query = torch.zeros(1, 1, 100, 2)
    key = torch.zeros(1, 1, 100, 2)
    query[..., 0] = 1.0
    key[0, 0, 42, 0] = 20.0
    kept = positions(layer_after_prompt(query, key, SnapKV(budget=15, window=10, kernel=5)))
    assert kept[0, 0].tolist() == [40, 41, 42, 43, 44, *range(90, 100)]


def test_decoding_attends_to_all_that_was_kept_and_evicts_nothing() -> None:
    torch.manual_seed(0)
    method = SnapKV(budget=20, window=5, kernel=3)
    query, key, value = torch.randn(1, 1, 70, 8), torch.randn(1, 1, 70, 8), torch.randn(1, 1, 70, 8)
    layer = SnapKVLayer(method)
    layer.step(query[:, :, :60], key[:, :, :60], value[:, :, :60], SCALING, None)
    kept = naive_kept(query[0, :, :60], key[0, 0, :60], method)
    for own in range(60, 70):
        here = (slice(None), slice(None), slice(own, own + 1))
        output = layer.step(query[here], key[here], value[here], SCALING, None)
        kept.append(own)
        probabilities = (query[0, 0, own] @ key[0, 0, kept].T * SCALING).softmax(dim=0)
        assert_close(output[0, 0, 0], probabilities @ value[0, 0, kept])

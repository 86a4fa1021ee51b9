"""A filled cache is what a real prompt would have left, in every layer's own memory."""

from __future__ import annotations

import pytest
import torch

from kvpred.caches import CacheLayer, layer_class
from kvpred.errors import UsageError
from kvpred.methods import Method, get_method, list_methods
from kvpred.profiling.stack import Stack
from tests.tiny import TINY

# Longer than the budgets of the evicting methods, and no multiple of any group or window.
BSZ, LENGTH = 2, 521

pytestmark = pytest.mark.usefixtures("inference")


def _runs(method: Method) -> bool:
    try:
        layer_class(type(method))
    except UsageError:
        return False
    return True


METHODS = [method.name for method in list_methods() if _runs(method)]


def _shapes(layer: CacheLayer) -> dict[str, tuple[torch.Size, torch.dtype]]:
    held = {name: tokens.view for name, tokens in layer.sequences.items() if len(tokens)}
    tensors = held | layer.shared
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


@pytest.mark.parametrize("length", [40, LENGTH])
@pytest.mark.parametrize("name", METHODS)
def test_a_filled_cache_is_as_a_prompt_leaves_it(stack: Stack, name: str, length: int) -> None:
    method = get_method(name)
    real = stack.empty_cache(method)
    stack.step(stack.tokens(bsz=BSZ, length=length), real)
    filled = stack.filled_cache(method, bsz=BSZ, length=length)
    assert filled.get_seq_length() == real.get_seq_length() == length
    assert filled.parts() == real.parts()
    assert [_shapes(layer) for layer in filled.layers] == [_shapes(layer) for layer in real.layers]
    assert [layer.seen for layer in filled.layers] == [length] * TINY.n_layers


@pytest.mark.parametrize("name", METHODS)
def test_a_filled_cache_goes_on_as_a_real_one(stack: Stack, name: str) -> None:
    method = get_method(name)
    real = stack.empty_cache(method)
    token = stack.step(stack.tokens(bsz=BSZ, length=LENGTH), real)
    filled = stack.filled_cache(method, bsz=BSZ, length=LENGTH)
    for _ in range(3):
        stack.step(token, real)
        stack.step(token, filled)
    assert filled.parts() == real.parts()
    assert filled.get_seq_length() == real.get_seq_length() == LENGTH + 3


@pytest.mark.parametrize("name", METHODS)
def test_no_layer_shares_what_its_sequences_hold(stack: Stack, name: str) -> None:
    cache = stack.filled_cache(get_method(name), bsz=BSZ, length=LENGTH)
    places = [
        tokens.view.data_ptr() for layer in cache.layers for tokens in layer.sequences.values() if len(tokens)
    ]
    assert len(set(places)) == len(places)


def test_the_same_seed_gives_the_same_tokens_and_entries(stack: Stack) -> None:
    def drawn() -> list[torch.Tensor]:
        stack.generator.manual_seed(7)
        cache = stack.filled_cache(get_method("fp16"), bsz=1, length=8)
        return [stack.tokens(bsz=2, length=8), *cache.layers[0].materialise()]

    assert all(torch.equal(one, other) for one, other in zip(drawn(), drawn(), strict=True))


def test_tokens_are_of_the_vocabulary_and_a_step_chooses_one_per_sequence(stack: Stack) -> None:
    tokens = stack.tokens(bsz=3, length=50)
    chosen = stack.step(tokens, stack.empty_cache(get_method("fp16")))
    assert (tokens.shape, chosen.shape) == ((3, 50), (3, 1))
    for ids in (tokens, chosen):
        assert 0 <= int(ids.min()) <= int(ids.max()) < TINY.vocab_size

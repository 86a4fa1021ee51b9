"""What tests of caches share: tiny models of every family, and one layer's entries."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

Entries = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], PreTrainedModel]:
    """Build a random fp32 model of a family: two layers, four query heads, two KV heads of 32 channels."""

    def build(family: str = "llama") -> PreTrainedModel:
        config = AutoConfig.for_model(
            family,
            vocab_size=128,
            hidden_size=96,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            sliding_window=None,
            initializer_range=0.3,
            pad_token_id=0,
            eos_token_id=None,
        )
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()

    return build


@pytest.fixture(scope="session")
def entries() -> Callable[..., Entries]:
    """Draw queries, keys and values of one layer, of SmolLM2's heads if not told otherwise."""

    def draw(
        bsz: int, tokens: int, *, q: int = 9, kv: int = 3, dim: int = 64, dtype: torch.dtype = torch.float32
    ) -> Entries:
        torch.manual_seed(0)
        query, key, value = (torch.randn(bsz, heads, tokens, dim, dtype=dtype) for heads in (q, kv, kv))
        return query, key, value

    return draw

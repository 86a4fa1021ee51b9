import pytest

from kvpred.models import ModelSpec


@pytest.fixture(scope="session")
def tiny() -> ModelSpec:
    """Two layers, four query heads, two KV heads of 64 channels: small enough to count by hand."""
    return ModelSpec(
        name="tiny",
        hf_id="tiny",
        n_layers=2,
        hidden_size=256,
        n_q_heads=4,
        n_kv_heads=2,
        head_dim=64,
        intermediate_size=512,
        vocab_size=1000,
        max_position=4096,
        tie_embeddings=False,
        source="made up for the tests",
    )

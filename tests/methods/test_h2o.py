import pytest

from kvpred.errors import UsageError
from kvpred.methods import get_method
from kvpred.models import ModelSpec


def test_h2o_keeps_everything_below_its_budget(tiny: ModelSpec) -> None:
    # 100 tokens; an fp32 accumulator per token, head (2) and layer (2).
    parts = get_method("h2o").cache_parts(tiny, bsz=1, kv_len=100)
    assert parts == {"kv": 100 * 1024, "accumulators": 100 * 2 * 2 * 4}


def test_h2o_memory_matches_hand_count_above_its_budget(tiny: ModelSpec) -> None:
    parts = get_method("h2o").cache_parts(tiny, bsz=2, kv_len=1000)
    assert parts == {"kv": 2 * 512 * 1024, "accumulators": 2 * 512 * 2 * 2 * 4}


@pytest.mark.parametrize(("kv_len", "attended"), [(511, 511), (512, 512), (513, 512), (4096, 512)])
def test_h2o_attends_to_at_most_its_budget(kv_len: int, attended: int) -> None:
    assert get_method("h2o").attended_tokens(kv_len) == attended


def test_h2o_prefill_holds_the_whole_prompt_and_its_sums(tiny: ModelSpec) -> None:
    assert get_method("h2o").prefill_cache_bytes(tiny, bsz=1, prompt_len=1000) == 1000 * (1024 + 16)


def test_h2o_decode_updates_every_sum(tiny: ModelSpec) -> None:
    traffic = get_method("h2o").decode_traffic(tiny, kv_len=1000)
    assert traffic.read_bytes == 512 * (1024 + 16)
    assert traffic.write_bytes == 1024 + 512 * 16
    # Attention over 512 tokens, then an addition per query head and a comparison per KV head.
    assert traffic.flops == (4 * 4 * 64 * 512 + 512 * (4 + 2)) * 2


def test_h2o_prefill_recomputes_the_probabilities(tiny: ModelSpec) -> None:
    plain = get_method("fp16").prefill_traffic(tiny, prompt_len=1000)
    traffic = get_method("h2o").prefill_traffic(tiny, prompt_len=1000)
    pairs = 1000 * 1001 / 2
    assert traffic.flops - plain.flops == 2 * (4 * (2 * 64 + 2) * pairs + 1000 * 2)
    # Keys once more, the sums once, and 512 tokens moved to the front.
    assert traffic.read_bytes - plain.read_bytes == 1000 * 512 + 1000 * 16 + 512 * 1024
    assert traffic.write_bytes - plain.write_bytes == 1000 * 16 + 512 * 1024


@pytest.mark.parametrize("spec", ["h2o:heavy=0", "h2o:recent=0", "h2o:recent=100000000"])
def test_h2o_refuses_budgets_out_of_range(spec: str) -> None:
    with pytest.raises(UsageError, match="must be from 1 to 10,000,000"):
        get_method(spec)

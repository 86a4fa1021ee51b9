from kvpred.methods import get_method
from kvpred.models import ModelSpec, get_model


def test_fp16_cache_matches_hand_count(tiny: ModelSpec) -> None:
    # 2 (K, V) x 2 layers x 2 heads x 64 channels x 2 bytes = 1,024 bytes a token.
    assert get_method("fp16").cache_parts(tiny, bsz=3, kv_len=10) == {"kv": 3 * 10 * 1024}


def test_fp16_cache_of_llama_2_7b_at_2048_tokens_is_one_gib() -> None:
    # 2 x 32 layers x 32 heads x 128 x 2 bytes = 512 KiB a token; x 2,048.
    assert get_method("fp16").cache_bytes(get_model("llama-2-7b"), bsz=1, kv_len=2048) == 2**30


def test_fp16_attends_to_every_token() -> None:
    assert get_method("fp16").attended_tokens(5000, prompt_len=7) == 5000


def test_fp16_decode_reads_the_cache_writes_a_token_and_multiplies_twice(tiny: ModelSpec) -> None:
    traffic = get_method("fp16").decode_traffic(tiny, kv_len=100)
    assert traffic.read_bytes == 100 * 1024
    assert traffic.write_bytes == 1024
    # q.K and p.V: 2 products x 2 FLOPs x 4 heads x 64 channels x 100 tokens x 2 layers.
    assert traffic.flops == 2 * 2 * 4 * 64 * 100 * 2


def test_fp16_prefill_counts_only_the_causal_pairs(tiny: ModelSpec) -> None:
    traffic = get_method("fp16").prefill_traffic(tiny, prompt_len=10)
    # 10 x 11 / 2 = 55 pairs.
    assert traffic.flops == 2 * 2 * 4 * 64 * 55 * 2
    assert traffic.read_bytes == traffic.write_bytes == 10 * 1024

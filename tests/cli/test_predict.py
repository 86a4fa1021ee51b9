"""``kvpred predict`` and ``kvpred memory``: the contract's fields, identities and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvpred.methods import list_methods

Cli = Callable[..., Any]

ASKED = ("--bsz", 32, "--prompt-len", 2048)
FIELDS = {
    "method", "method_params", "model", "device", "engine", "tp", "bsz", "prompt_len", "output_len",
    "prefill_time_s", "prefill_throughput_tok_s", "decode_step_time_s", "decode_throughput_tok_s", "ttft_s",
    "tpot_s", "e2e_latency_s", "kv_cache_bytes", "peak_memory_bytes", "fits", "max_bsz", "speedup_vs_fp16",
    "interval", "interval_level", "basis", "in_domain", "provenance",
}  # fmt: skip
TIMES = {
    "prefill_time_s", "prefill_throughput_tok_s", "decode_step_time_s", "decode_throughput_tok_s", "ttft_s",
    "tpot_s", "e2e_latency_s",
}  # fmt: skip
EVERY_METHOD = [method.name for method in list_methods()]
CONFIG = {
    "model_type": "llama", "num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 512, "vocab_size": 1000, "max_position_embeddings": 2048,
}  # fmt: skip
DEVICE = (
    'name = "mine"\nmemory_bytes = 50_000_000_000\nmemory_bandwidth_bytes_s = 7e11\npeak_flops_16bit = 1e14\n'
)


def test_json_is_one_object_per_method_with_the_contracts_fields(cli: Cli) -> None:
    answer = cli("predict", *ASKED, "--format", "json")
    assert (answer.code, answer.err) == (0, "")
    assert [row["method"] for row in answer.objects] == EVERY_METHOD
    assert {frozenset(row) for row in answer.objects} == {frozenset(FIELDS)}
    assert {frozenset(row["interval"]) for row in answer.objects} == {frozenset(TIMES)}
    assert {frozenset(row["speedup_vs_fp16"]) for row in answer.objects} == {
        frozenset({"prefill", "decode", "e2e"})
    }


@pytest.mark.parametrize("output_len", [1, 2, 300])
def test_the_figures_keep_the_contracts_identities(cli: Cli, output_len: int) -> None:
    for row in cli("predict", *ASKED, "--output-len", output_len, "--format", "json").objects:
        assert row["ttft_s"] == row["prefill_time_s"]
        assert row["tpot_s"] == row["decode_step_time_s"]
        assert row["decode_throughput_tok_s"] == pytest.approx(32 / row["tpot_s"])
        assert row["prefill_throughput_tok_s"] == pytest.approx(32 * 2048 / row["ttft_s"])
        assert row["e2e_latency_s"] == pytest.approx(row["ttft_s"] + (output_len - 1) * row["tpot_s"])
        assert all(low <= row[field] <= high for field, (low, high) in row["interval"].items())


def test_fp16_is_as_fast_as_itself(cli: Cli) -> None:
    (row,) = cli("predict", *ASKED, "--method", "fp16", "--format", "json").objects
    assert row["speedup_vs_fp16"] == {"prefill": 1.0, "decode": 1.0, "e2e": 1.0}


def test_csv_says_what_json_says(cli: Cli) -> None:
    objects = cli("predict", *ASKED, "--format", "json").objects
    rows = cli("predict", *ASKED, "--format", "csv").rows
    assert [float(row["interval.ttft_s.high"]) for row in rows] == [
        item["interval"]["ttft_s"][1] for item in objects
    ]
    assert [row["method_params"] for row in rows] == [item["method_params"] for item in objects]


def test_the_table_names_every_method_and_says_what_does_not_fit(cli: Cli) -> None:
    answer = cli("predict", *ASKED)
    assert answer.code == 0
    assert all(f"\n{name} " in answer.out for name in EVERY_METHOD)
    assert "`kvpred memory` shows what does not fit" in answer.out


def test_a_list_of_methods_keeps_its_order_and_parameters(cli: Cli) -> None:
    answer = cli("predict", *ASKED, "--method", "h2o,kivi:bits=2,group_size=64,fp16", "--format", "json")
    assert [row["method_params"] for row in answer.objects] == [
        "h2o:heavy=64,recent=448",
        "kivi:bits=2,group_size=64,residual_length=128",
        "fp16",
    ]


def test_two_variants_of_a_method_are_told_apart_in_the_table(cli: Cli) -> None:
    table = cli("predict", *ASKED, "--method", "kivi:bits=2,kivi:bits=4,fp16").out
    assert [line.split()[0] for line in table.splitlines()[4:7]] == ["kivi:bits=2", "kivi:bits=4", "fp16"]


def test_a_model_and_a_device_may_be_files(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    config, device = tmp_path / "tiny" / "config.json", tmp_path / "device.toml"
    config.write_text(json.dumps(CONFIG))
    device.write_text(DEVICE)
    (row,) = cli(
        "predict", *ASKED, "--method", "fp16", "--model", config, "--device", device, "--format", "json"
    ).objects
    assert (row["model"], row["device"], row["basis"]) == ("tiny", "mine", "transferred")
    # 4 layers of keys and values, 2 heads of 64 channels, 2 bytes; the last of 256 tokens is not cached.
    assert row["kv_cache_bytes"] == pytest.approx(32 * (2048 + 255) * 4 * 2 * 2 * 64 * 2, rel=0.01)


@pytest.mark.parametrize("command", ["predict", "memory"])
def test_a_request_beyond_the_context_is_remarked_upon(cli: Cli, command: str) -> None:
    within, beyond = (
        cli(command, "--bsz", 1, "--prompt-len", 3840, "--output-len", length, "--format", "json")
        for length in (256, 257)
    )
    assert (within.code, within.err, beyond.code) == (0, "", 0)
    assert beyond.err == (
        "kvpred: a prompt of 3,840 tokens and an answer of 257 exceed the context of 4,096 of llama-2-7b, "
        "which as it is cannot serve them\n"
    )
    assert [set(row) for row in beyond.objects] == [set(row) for row in within.objects]


def test_min_basis_names_what_it_leaves_out(cli: Cli) -> None:
    answer = cli("predict", *ASKED, "--min-basis", "calibrated", "--format", "json")
    kept = {row["method"] for row in answer.objects}
    assert answer.code == 0
    assert kept == {"fp16", "gear", "h2o", "kivi", "streamingllm"}
    dropped = [line for line in answer.err.splitlines() if "its basis is roofline" in line]
    assert len(dropped) == len(EVERY_METHOD) - len(kept)


def test_min_basis_that_leaves_nothing_is_not_covered(cli: Cli) -> None:
    answer = cli("predict", *ASKED, "--device", "h100", "--min-basis", "calibrated")
    assert (answer.code, answer.out) == (4, "")
    assert "kvpred train" in answer.err.splitlines()[-1]


def test_a_device_of_unknown_speed_is_not_covered(cli: Cli) -> None:
    answer = cli("predict", *ASKED, "--device", "host-cpu")
    assert (answer.code, answer.out) == (4, "")


@pytest.mark.parametrize("command", ["predict", "memory"])
def test_strict_shows_the_rows_and_names_what_does_not_fit(cli: Cli, command: str) -> None:
    answer = cli(command, *ASKED, "--method", "fp16,kv-int4", "--strict", "--format", "json")
    assert answer.code == 5
    assert {row["method"]: row["fits"] for row in answer.objects} == {"fp16": False, "kv-int4": True}
    assert "does not fit: fp16;" in answer.err


@pytest.mark.parametrize("command", ["predict", "memory"])
def test_strict_is_content_where_everything_fits(cli: Cli, command: str) -> None:
    assert cli(command, "--bsz", 1, "--prompt-len", 512, "--strict").code == 0


def test_memory_is_the_sum_of_its_parts(cli: Cli) -> None:
    for row in cli("memory", *ASKED, "--format", "json").objects:
        cache = row["kv_cache_bytes"] + row["page_rounding_bytes"]
        assert sum(row["kv_cache_parts"].values()) == row["kv_cache_bytes"]
        assert row["peak_memory_bytes"] == row["weights_bytes"] + row["activation_bytes"] + row[
            "reserve_bytes"
        ] + max(cache, row["prefill_transient_bytes"])
        assert row["fits"] == (row["peak_memory_bytes"] <= row["usable_bytes"])


def test_memory_and_predict_agree(cli: Cli) -> None:
    asked = (*ASKED, "--weight-bits", 4, "--memory-utilization", 0.8, "--format", "json")
    for memory, estimate in zip(cli("memory", *asked).objects, cli("predict", *asked).objects, strict=True):
        for field in ("method_params", "kv_cache_bytes", "peak_memory_bytes", "fits", "max_bsz"):
            assert memory[field] == estimate[field]


def test_the_largest_batch_fits_and_one_more_does_not(cli: Cli) -> None:
    def fits(bsz: int) -> bool:
        (row,) = cli(
            "memory", "--bsz", bsz, "--prompt-len", 2048, "--method", "gear", "--format", "json"
        ).objects
        return bool(row["fits"])

    (row,) = cli("memory", *ASKED, "--method", "gear", "--format", "json").objects
    assert [fits(row["max_bsz"]), fits(row["max_bsz"] + 1)] == [True, False]


def test_memory_in_csv_has_a_column_for_each_part_of_the_cache(cli: Cli) -> None:
    rows = cli("memory", *ASKED, "--method", "fp16,kivi", "--format", "csv").rows
    assert float(rows[1]["kv_cache_parts.residual"]) > 0
    assert rows[0]["kv_cache_parts.residual"] == ""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvpred.data.profiles import Columns, Profile, time_column
from kvpred.data.runs import Run, read_runs
from kvpred.data.store import read_profile
from kvpred.evaluation.audit import Finding, audit_profiles, audit_runs
from kvpred.evaluation.profile_copies import relate
from kvpred.hardware import get_device
from kvpred.models import ModelSpec, get_model

A6000 = get_device("a6000")
LABELS = {
    "meta-llama-Llama-2-7b-hf": get_model("llama-2-7b"),
    "meta-llama-Llama-2-13b-hf": get_model("llama-2-13b"),
    "meta-llama-Meta-Llama-3-8B": get_model("llama-3-8b"),
    "mistralai-Mistral-7B-v0.1": get_model("mistral-7b-v0.1"),
}
DECODE, PREFILL = time_column("attn_decode"), time_column("attn_prefill")

seeds = st.integers(0, 2**32 - 1)


def checks(findings: list[Finding], severity: str | None = None) -> set[str]:
    return {finding.check for finding in findings if severity in (None, finding.severity)}


# --- profiles -----------------------------------------------------------------------------------------------


def timed(
    columns: Columns, operator: str, times_ms: np.ndarray, rng: np.random.Generator, noise: float
) -> None:
    """Add an operator's statistics as a stopwatch of 1 microsecond takes them."""
    median = times_ms * np.exp(noise * rng.standard_normal(len(times_ms)))
    spread = noise * median * rng.uniform(0.5, 1.5, len(median))
    columns[time_column(operator)] = np.round(median, 3)
    columns[time_column(operator, "std")] = spread
    columns[time_column(operator, "min")] = median - 2 * spread
    columns[time_column(operator, "max")] = median + 2 * spread


def measured(
    device: str, method: str, *, seed: int, noise: float = 0.02, bytes_share: float = 1.0, upkeep: float = 1.0
) -> Profile:
    """Profile LLaMA-2-7B on a device at 80 % of its bandwidth and 60 % of its FLOPs, and 20 us per kernel."""
    rng = np.random.default_rng(seed)
    spec, hardware = get_model("llama-2-7b"), get_device(device)
    bandwidth, peak = hardware.memory_bandwidth_bytes_s, hardware.peak_flops_16bit
    assert bandwidth is not None
    assert peak is not None

    def time_ms(n_bytes: np.ndarray, flops: np.ndarray) -> np.ndarray:
        return 1e3 * np.maximum(n_bytes / (0.8 * bandwidth), flops / (0.6 * peak)) + 0.02

    batch, kv_len = (
        grid.ravel() for grid in np.meshgrid([1, 2, 4, 8, 16, 32, 64, 128], [256, 512, 1024, 2048, 4096])
    )
    chunk = np.array([64, 128, 256, 512, 1024, 1536, 2048, 3072, 4096])
    none = np.zeros(len(chunk), dtype=np.int64)
    is_prefill = np.repeat([False, True], [len(batch), len(chunk)])
    rows = len(is_prefill)
    attention: Columns = {
        "n_embd": np.full(rows, spec.hidden_size),
        "n_q_head": np.full(rows, spec.n_q_heads),
        "n_kv_head": np.full(rows, spec.n_kv_heads),
        "num_tensor_parallel_workers": np.ones(rows, dtype=np.int64),
        "batch_size": np.concatenate([batch, none + 1]),
        "prefill_chunk_size": np.concatenate([0 * batch, chunk]),
        "kv_cache_size": np.concatenate([kv_len, none]),
        "is_prefill": is_prefill,
    }
    cache = bytes_share * 4 * spec.hidden_size * attention["batch_size"] * attention["kv_cache_size"]
    causal = 2 * spec.hidden_size * attention["prefill_chunk_size"] ** 2
    timed(attention, "attn_decode", np.where(is_prefill, np.nan, time_ms(cache, 0 * cache)), rng, noise)
    prefill_ms = np.where(is_prefill, upkeep * time_ms(0 * causal, causal), np.nan)
    timed(attention, "attn_prefill", prefill_ms, rng, noise)

    tokens = np.array([1, 8, 64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096])
    mlp: Columns = {
        "n_embd": np.full(len(tokens), spec.hidden_size),
        "n_head": np.full(len(tokens), spec.n_q_heads),
        "n_kv_head": np.full(len(tokens), spec.n_kv_heads),
        "n_expanded_embd": np.full(len(tokens), spec.intermediate_size),
        "use_gated_mlp": np.full(len(tokens), True),
        "num_tensor_parallel_workers": np.ones(len(tokens), dtype=np.int64),
        "num_tokens": tokens,
    }
    hidden, inner = spec.hidden_size, spec.intermediate_size
    weights = {
        "attn_pre_proj": 3 * hidden**2,
        "attn_post_proj": hidden**2,
        "mlp_up_proj": 2 * hidden * inner,
        "mlp_down_proj": hidden * inner,
    }
    for operator, count in weights.items():
        timed(mlp, operator, time_ms(np.full(len(tokens), 2.0 * count), 2.0 * count * tokens), rng, noise)
    return Profile(model="llama-2-7b", device=device, method=method, attention=attention, mlp=mlp)


def with_times(profile: Profile, table: str, changes: Columns) -> Profile:
    return replace(profile, **{table: getattr(profile, table) | changes})


@given(seed=seeds, noise=st.floats(0.005, 0.08))
@settings(deadline=None, derandomize=True, max_examples=25)
def test_real_profiles_raise_no_suspicion(seed: int, noise: float) -> None:
    profiles = [
        measured("a6000", "fp16", seed=seed, noise=noise),
        measured("a6000", "kivi:bits=4", seed=seed + 1, noise=noise, bytes_share=0.3),
        measured("a6000", "h2o", seed=seed + 2, noise=noise, upkeep=1.5),
        measured("a100", "fp16", seed=seed + 3, noise=noise),
    ]
    assert audit_profiles(profiles) == []


@given(seed=seeds, factor=st.floats(0.3, 3).filter(lambda factor: abs(factor - 1) > 0.01))
@settings(deadline=None, derandomize=True, max_examples=25)
def test_scaled_column_is_found_with_its_factor(seed: int, factor: float) -> None:
    honest = measured("a6000", "fp16", seed=seed)
    cooked = with_times(
        measured("a6000", "h2o", seed=seed + 1), "attention", {DECODE: factor * honest.attention[DECODE]}
    )
    findings = [finding for finding in audit_profiles([honest, cooked]) if finding.check == "scaled-copy"]
    found = [finding.evidence["factor"] for finding in findings]
    assert found in ([pytest.approx(factor, rel=1e-4)], [pytest.approx(1 / factor, rel=1e-4)])


def test_scaled_column_is_found_in_another_row_order_and_with_an_offset() -> None:
    honest = measured("a40", "fp16", seed=1)
    column = time_column("mlp_up_proj")
    cooked = with_times(measured("a6000", "fp16", seed=2), "mlp", {column: 1.4 * honest.mlp[column] + 0.001})
    backwards = replace(cooked, mlp={name: values[::-1] for name, values in cooked.mlp.items()})
    scaled = [found for found in audit_profiles([honest, backwards]) if found.check == "scaled-copy"]
    assert [(found.evidence["factor"], found.evidence["offset_ms"]) for found in scaled] == [(1.4, 0.001)]


def test_same_table_under_two_devices_is_an_error_and_under_two_methods_a_warning() -> None:
    honest = measured("a6000", "fp16", seed=1)
    by_device = replace(measured("a40", "fp16", seed=2), mlp=honest.mlp)
    by_method = replace(measured("a6000", "h2o", seed=3), mlp=honest.mlp)
    assert checks(audit_profiles([honest, by_device]), "error") == {"identical-table"}
    assert checks(audit_profiles([honest, by_method]), "warning") == {"identical-table"}


def test_copied_spread_is_found_though_the_medians_differ() -> None:
    honest = measured("a6000", "fp16", seed=1)
    std = time_column("attn_decode", "std")
    cooked = with_times(measured("a6000", "h2o", seed=2), "attention", {std: honest.attention[std]})
    assert checks(audit_profiles([honest, cooked])) == {"copied-spread"}


def test_few_rows_never_prove_a_copy() -> None:
    times = np.array([0.1, 0.7, 1.3, 5.0])
    assert relate(2 * times, times) is None
    assert relate(times, times) is None


@pytest.mark.parametrize(("table", "column"), [("attention", DECODE), ("mlp", time_column("mlp_up_proj"))])
def test_times_below_the_data_sheet_are_an_error(table: str, column: str) -> None:
    profile = measured("a6000", "fp16", seed=1)
    fast = with_times(profile, table, {column: 0.7 * getattr(profile, table)[column]})
    assert checks(audit_profiles([fast]), "error") == {"faster-than-hardware"}


def test_compressed_cache_may_be_read_faster_than_an_uncompressed_one() -> None:
    assert audit_profiles([measured("a6000", "kivi", seed=1, bytes_share=0.2)]) == []


def test_unknown_device_is_noted() -> None:
    assert checks(audit_profiles([replace(measured("a6000", "fp16", seed=1), device="abacus")])) == {
        "unknown-device"
    }


def test_time_that_halves_as_work_grows_is_found() -> None:
    profile = measured("a6000", "fp16", seed=1, bytes_share=1.5)
    times = profile.attention[DECODE].copy()
    times[np.nanargmax(times)] *= 0.2
    found = audit_profiles([with_times(profile, "attention", {DECODE: times})])
    assert "not-monotone" in checks(found, "warning")


def test_coarse_clock_missing_times_and_missing_noise_are_told() -> None:
    profile = measured("a6000", "fp16", seed=1)
    rows = len(profile.mlp["num_tokens"])
    changes = {
        time_column("add"): np.full(rows, 0.003),
        time_column("emb"): np.zeros(rows),
        time_column("mlp_up_proj", "std"): np.zeros(rows),
    }
    found = audit_profiles([with_times(profile, "mlp", changes)])
    assert checks(found, "note") == {"coarse-clock"}
    assert {one.check: one.message.split(":")[0] for one in found if one.severity == "warning"} == {
        "not-timed": "emb",
        "no-noise": "mlp_up_proj",
    }


def published(shared_data: Path, method: str) -> Profile:
    folder = shared_data / "a6000" / "profile" / "meta-llama" / f"Llama-2-7b-{method}"
    return read_profile(folder, device="a6000", model="llama-2-7b", method=method)


def test_published_profiles_are_seen_to_be_fp16_times_constants(shared_data: Path) -> None:
    findings = audit_profiles([published(shared_data, name) for name in ("kivi", "h2o", "fp16")])
    factors = {
        (found.subject.split()[1], found.message.split()[0]): found.evidence["factor"]
        for found in findings
        if found.check == "scaled-copy"
    }
    assert factors == {
        ("kivi", "attn_decode"): 0.577,
        ("kivi", "attn_prefill"): 1.1777,
        ("h2o", "attn_decode"): 1.1,
        ("h2o", "attn_prefill"): 1.523,
    }
    assert all(found.evidence["share"] == 1 for found in findings if found.check == "scaled-copy")
    same = {found.subject for found in findings if found.check == "identical-table"}
    assert same == {f"llama-2-7b {name} on a6000, mlp" for name in ("kivi", "h2o")}
    assert "copied-spread" in checks(findings, "error")


def test_published_linear_operators_are_seen_to_be_the_a40s(shared_data: Path) -> None:
    vidur = shared_data / "vidur" / "compute"
    others = [
        read_profile(vidur / name / "meta-llama/Llama-2-7b-hf", method="fp16")
        for name in ("a40", "a100", "h100")
    ]
    findings = audit_profiles([published(shared_data, "fp16"), *others])
    gemms = {
        found.message.split()[0]: (found.evidence["factor"], found.evidence["offset_ms"])
        for found in findings
        if found.check == "scaled-copy" and "on a40" in found.message
    }
    operators = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_act", "mlp_down_proj")
    assert gemms == dict.fromkeys(operators, (1.4, 0.001))


def test_vidurs_own_profiles_raise_no_error(shared_data: Path) -> None:
    vidur = shared_data / "vidur" / "compute"
    profiles = [
        read_profile(vidur / name / "meta-llama/Llama-2-7b-hf", method="fp16")
        for name in ("a40", "a100", "h100")
    ]
    assert checks(audit_profiles(profiles)) <= {"coarse-clock"}


# --- runs ---------------------------------------------------------------------------------------------------


def served(label: str, spec: ModelSpec, *, rng: np.random.Generator, noise: float = 0.04) -> list[Run]:
    """Serve a model on the A6000 at 80 % of its bandwidth and 60 % of its FLOPs, and 5 ms per step."""
    bandwidth, peak = A6000.memory_bandwidth_bytes_s, A6000.peak_flops_16bit
    assert bandwidth is not None
    assert peak is not None
    runs = []
    for bsz in (1, 2, 4, 8):
        for prompt_len in (256, 512, 1024, 2048, 4000):
            cached = bsz * prompt_len * spec.kv_bytes_per_token()
            attention = 2 * spec.n_layers * spec.n_q_heads * spec.head_dim * prompt_len
            flops = bsz * prompt_len * (spec.linear_flops_per_token() + attention)
            times = {
                "decode": 0.005 + (spec.weight_bytes() + cached) / (0.8 * bandwidth),
                "prefill": 0.005 + flops / (0.6 * peak),
            }
            for stage, time_s in times.items():
                tokens = bsz * (prompt_len if stage == "prefill" else 1)
                row = {"stage": stage, "bsz": bsz, "prompt_len": prompt_len, "method": "fp16", "label": label}
                speed = tokens / (time_s * np.exp(noise * rng.standard_normal()))
                facts = {"model": spec.name, "engine": "e", "device": "a6000", "throughput_tok_s": speed}
                runs.append(Run.model_validate(row | facts))
    return runs


@given(seed=seeds, noise=st.floats(0.0, 0.06))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_real_runs_of_four_models_raise_no_suspicion(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    runs = [run for label, spec in LABELS.items() for run in served(label, spec, rng=rng, noise=noise)]
    assert audit_runs(runs, LABELS, A6000) == []


@given(seed=seeds)
@settings(deadline=None, derandomize=True, max_examples=25)
def test_one_models_runs_under_four_names_are_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    runs = [run for label in LABELS for run in served(label, get_model("llama-2-7b"), rng=rng)]
    pooled = [run.model_copy(update={"model": "llama-2-7b"}) for run in runs]
    found = {finding.check: finding for finding in audit_runs(pooled, LABELS, A6000)}
    assert {"no-gqa-effect", "no-size-effect", "one-models-times"} <= set(found)
    assert found["one-models-times"].evidence["labels"] == 4


def test_runs_faster_than_their_bytes_are_found() -> None:
    rng = np.random.default_rng(1)
    runs = served("big", get_model("llama-2-7b"), rng=rng)
    findings = audit_runs(runs, {"big": get_model("llama-2-13b")}, A6000)
    assert checks(findings, "error") == {"faster-than-hardware", "bandwidth-exceeded"}


def test_unknown_names_and_missing_baseline_are_noted() -> None:
    runs = served("mystery", get_model("llama-2-7b"), rng=np.random.default_rng(1))
    assert checks(audit_runs(runs, {}, A6000), "note") == {"unknown-model", "nothing-to-check"}
    compressed = [run.model_copy(update={"method": "h2o"}) for run in runs]
    assert checks(audit_runs(compressed, LABELS, A6000)) == {"nothing-to-check"}


def test_a_device_without_a_data_sheet_is_noted() -> None:
    rng = np.random.default_rng(1)
    runs = [run for label, spec in LABELS.items() for run in served(label, spec, rng=rng)]
    bare = replace(A6000, name="abacus", memory_bandwidth_bytes_s=None, peak_flops_16bit=None)
    with np.errstate(all="raise"):
        (found,) = audit_runs(runs, LABELS, bare)
    assert (found.check, found.severity, found.subject) == ("unknown-device", "note", "abacus")
    assert found.message == (
        "the memory bandwidth and peak FLOP/s of abacus are not known: no time is held against them."
    )
    slow_flops = audit_runs(runs, LABELS, replace(A6000, peak_flops_16bit=None))
    assert [one.message.split(" of ")[0] for one in slow_flops] == ["the peak FLOP/s"]


def test_few_runs_prove_nothing() -> None:
    runs = served("big", get_model("llama-2-7b"), rng=np.random.default_rng(1))[:4]
    assert "bandwidth-exceeded" not in checks(audit_runs(runs, {"big": get_model("llama-2-13b")}, A6000))


def test_published_runs_carry_four_names_and_one_models_times(shared_data: Path) -> None:
    folder = shared_data / "a6000" / "throughput"
    runs = read_runs(folder, model="llama-2-7b", device="a6000", engine="lmdeploy", pool_labels=True)
    findings = audit_runs(runs, LABELS, A6000)
    found = {(finding.check, finding.subject): finding.evidence for finding in findings}
    thirteen = "meta-llama-Llama-2-13b-hf"
    assert found["bandwidth-exceeded", thirteen]["implied_bytes_s"] == pytest.approx(838e9, rel=0.01)
    assert found["no-size-effect", thirteen]["speed_ratio"] == pytest.approx(0.92, abs=0.01)
    no_effect = {subject for check, subject in found if check == "no-gqa-effect"}
    assert no_effect == {"meta-llama-Meta-Llama-3-8B", "mistralai-Mistral-7B-v0.1"}
    assert found["one-models-times", ", ".join(sorted(LABELS))]["labels"] == 4
    assert not [subject for _, subject in found if subject == "meta-llama-Llama-2-7b-hf"]

"""``kvpred simulate`` as a shell runs it."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

import kvpred
from kvpred.data.requests import read_requests
from tests.cli.conftest import Cli

FEW = ("--requests", 30, "--qps", 2, "--prompt-len", 600, "--output-len", 40)


def test_methods_stand_side_by_side(cli: Cli) -> None:
    done = cli("simulate", *FEW, "--method", "fp16,h2o", "--price-per-hour", 0.8, "--format", "json")
    assert done.code == 0, done.err
    fp16, h2o = done.objects
    assert (fp16["method"], h2o["method"]) == ("fp16", "h2o")
    for row in (fp16, h2o):
        assert row["requests"] == 30
        assert row["ttft_s"]["mean"] < row["e2e_s"]["mean"] <= row["e2e_s"]["p99"]
        assert list(row["e2e_s"]) == ["mean", "p50", "p90", "p95", "p99"]
        low, high = row["interval"]["e2e_s"]["mean"]
        assert low < row["e2e_s"]["mean"] < high
        assert row["usd_per_request"] <= row["usd_per_request_rented"] * (1 + 1e-9)
        assert row["restarts"] == 0
        assert row["basis"] == "calibrated"
    assert fp16["speedup_vs_fp16"] == {"e2e": 1.0, "ttft": 1.0, "tpot": 1.0}
    assert h2o["speedup_vs_fp16"]["e2e"] == pytest.approx(fp16["e2e_s"]["mean"] / h2o["e2e_s"]["mean"])
    assert h2o["output_shift"]["basis"] == "measured"
    assert h2o["output_tokens_mean"] == round(40 * h2o["output_shift"]["multiplier"])


def test_without_a_shift_all_answers_are_alike(cli: Cli) -> None:
    rows = cli("simulate", *FEW, "--method", "fp16,h2o", "--no-shift", "--format", "json").objects
    assert [row["output_tokens_mean"] for row in rows] == [40, 40]
    assert "usd_per_request" not in rows[0]


def test_one_request_is_what_predict_says(cli: Cli) -> None:
    (row,) = cli(
        "simulate", "--requests", 1, "--qps", 1, "--prompt-len", 2048, "--output-len", 256, "--format", "json"
    ).objects
    said = kvpred.predict(method="fp16", bsz=1, prompt_len=2048)
    assert row["e2e_s"]["mean"] == pytest.approx(said.e2e_latency_s, rel=5e-3)
    assert row["ttft_s"]["p50"] == pytest.approx(said.ttft_s, rel=5e-3)
    assert row["interval"]["e2e_s"]["mean"] == pytest.approx(said.interval["e2e_latency_s"], rel=5e-3)


@pytest.mark.parametrize("scheduler", ["vllm", "sarathi"])
def test_table_and_csv(cli: Cli, scheduler: str) -> None:
    done = cli("simulate", *FEW, "--scheduler", scheduler, "--replicas", 2)
    assert f"2 replicas of llama-2-7b on a6000, lmdeploy, {scheduler} scheduler" in done.out
    for heading in ("End to end, s", "Time to first token, s", "Time per output token, ms", "Busy %"):
        assert heading in done.out
    assert "$" not in done.out
    (row,) = cli("simulate", *FEW, "--scheduler", scheduler, "--format", "csv").rows
    assert float(row["interval.ttft_s.p99.low"]) < float(row["ttft_s.p99"])


def test_the_seed_alone_decides_what_is_drawn(cli: Cli) -> None:
    first, again, other = (
        cli("simulate", *FEW, "--seed", seed, "--format", "json").out for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_a_trace_and_every_request_saved(cli: Cli, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("id,arrived_at_s,prompt_tokens,output_tokens\na,0,100,10\nb,0.5,200,20\n")
    done = cli("simulate", "--trace", trace, "--method", "fp16,kivi", "--no-shift", "--save", tmp_path / "s")
    assert done.code == 0, done.err
    saved = read_requests(tmp_path / "s" / "requests.csv")
    assert [method.partition(":")[0] for _, method in saved] == ["fp16", "kivi"]
    for served in saved.values():
        assert served.ids == ("a", "b")
        assert served.output_tokens.tolist() == [10, 20]


def test_a_report_holds_page_figures_and_data(cli: Cli, tmp_path: Path) -> None:
    done = cli("simulate", *FEW, "--method", "fp16,h2o", "--report", tmp_path / "report")
    assert done.code == 0, done.err
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"report.html", "e2e.csv", "ttft.csv", "tpot.csv", "load.csv", "cdf.csv", "requests.csv"} <= names
    with (tmp_path / "report" / "e2e.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["fp16", "h2o"]
    assert float(rows[0]["mean_s_low"]) < float(rows[0]["mean_s"]) < float(rows[0]["mean_s_high"])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "--qps is missing"),
        (("--qps", 0), 2, "positive"),
        (("--qps", 1, "--requests", 0), 2, "--requests 0"),
        (("--qps", 1, "--price-per-hour", -1), 2, "-1"),
        (("--qps", 1, "--scheduler", "orca"), 2, "vllm or sarathi"),
        (("--qps", 1, "--replicas", 0), 2, "replicas=0"),
        (("--qps", 1, "--max-bsz", 0), 2, "max_bsz=0"),
        (("--qps", 1, "--level", 0.2), 2, "0.2"),
        (("--qps", 1, "--prompt-len", 5000), 2, "context of 4,096"),
        (("--qps", 1, "--max-batch-tokens", 512), 2, "longer than a step may be, 512"),
        (("--qps", 1, "--method", "nope"), 2, "nope"),
        (("--qps", 1, "--model", "llama-3.1-70b"), 5, "no memory for a KV cache"),
        (("--trace", "missing.csv"), 3, "missing.csv"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    cli: Cli, arguments: tuple[object, ...], code: int, said: str
) -> None:
    done = cli("simulate", *arguments)
    assert done.code == code, done.err
    assert said in done.err
    assert len(done.err.strip().splitlines()) <= 2
    assert not done.out


def test_a_request_that_never_fits_is_named(cli: Cli) -> None:
    # Weights (13.5 GB) and engine (1.1) leave 1.4 GB for the cache; the prompt's 16-bit one takes 1.8.
    done = cli("simulate", "--qps", 1, "--requests", 3, "--prompt-len", 3500, "--memory-utilization", 0.32)
    assert done.code == 5
    assert "request 1 of" in done.err
    assert "even alone it can never be served" in done.err


def test_methods_that_do_not_fit_are_shown_beside_those_that_do(cli: Cli) -> None:
    done = cli(
        "simulate", "--qps", 1, "--requests", 3, "--prompt-len", 3500, "--memory-utilization", 0.32,
        "--method", "fp16,kv-int4", "--format", "json",
    )  # fmt: skip
    assert done.code == 0, done.err
    fp16, int4 = done.objects
    assert (fp16["fits"], int4["fits"]) == (False, True)
    assert "never be served" in fp16["unfit"]
    assert int4["speedup_vs_fp16"] is None


def test_without_vidur_one_line_says_what_to_install(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vidur", None)
    done = cli("simulate", *FEW)
    assert done.code == 1
    assert done.err.strip().endswith("vidur is not installed: pip install 'kvpred[vidur]' brings it.")

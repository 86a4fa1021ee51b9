"""``kvpred capacity`` as a shell runs it."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from kvpred.data.traces import write_trace
from kvpred.workflows.workloads import WorkloadRequest, build_workload
from tests.cli.conftest import Cli

pytest.importorskip("vidur", reason="pip install 'kvpred[vidur]' brings Vidur")

SMALL = ("--requests", 100, "--output-len", 16, "--workers", 1)
LIMITS = ("--slo", "ttft-p99=1s,tpot-p99=200ms")


def test_json_says_what_binds_and_what_the_traffic_takes(cli: Cli) -> None:
    done = cli(
        "capacity", *LIMITS, "--method", "fp16,h2o", *SMALL,
        "--traffic-qps", 40, "--price-per-hour", 0.8, "--format", "json",
    )  # fmt: skip
    assert done.code == 0, done.err
    for row in done.objects:
        low, high = row["interval"]["qps_per_replica"]
        assert 0 < low < row["qps_per_replica"] < high
        assert row["binding"] in ("ttft-p99", "tpot-p99", "keeping up")
        assert row["reached_s"]["ttft-p99"] <= 1
        assert row["alone_s"]["ttft-p99"] <= row["reached_s"]["ttft-p99"]
        assert (row["replicas"] - 1) * row["qps_per_replica"] < 40 <= row["replicas"] * row["qps_per_replica"]
        assert row["usd_per_hour"] == pytest.approx(0.8 * row["replicas"])
        fewest, most = row["interval"]["replicas"]
        assert fewest <= row["replicas"] <= most
    assert [row["output_multiplier_basis"] for row in done.objects] == ["measured", "measured"]
    assert "capacity: 2 of 2 searched" in done.err
    assert "with slower and faster steps: 4 of 4 searched" in done.err


@pytest.mark.slow
def test_the_same_seed_gives_the_same_answer_whoever_works(cli: Cli) -> None:
    request = ("capacity", *LIMITS, "--method", "fp16", *SMALL[:4], "--format", "csv")
    alone, others = cli(*request, "--workers", 1), cli(*request, "--workers", 2)
    assert alone.out == others.out
    assert cli(*request, "--workers", 1, "--seed", 1).out != alone.out


def test_table_and_notes(cli: Cli) -> None:
    paid = ("--traffic-qps", 40, "--price-per-hour", 0.8)
    done = cli("capacity", *LIMITS, "--method", "fp16,h2o", *SMALL, *paid, "--no-shift")
    assert done.code == 0, done.err
    assert "serves most" in done.out and "Bound by" in done.out
    assert "Replicas" in done.out and "$/h" in done.out and "$/M tokens" in done.out
    assert "as long as fp16's" in done.out
    assert "0.05 s per second" in done.out


def test_a_trace_keeps_its_pattern_at_every_rate(cli: Cli, tmp_path: Path) -> None:
    drawn = build_workload(WorkloadRequest(n_requests=100, output_len=16, qps=7.0)).trace
    write_trace(tmp_path / "trace.csv", drawn)
    (own,) = cli("capacity", *LIMITS, "--method", "fp16", "--trace", tmp_path / "trace.csv", "--workers", 1,
                 "--format", "json").objects  # fmt: skip
    (same,) = cli("capacity", *LIMITS, "--method", "fp16", *SMALL, "--format", "json").objects
    # Drawn at another rate from the same seed: stretched, it is the same.
    assert own["qps_per_replica"] == pytest.approx(same["qps_per_replica"], rel=1e-6)


def test_limits_nobody_meets(cli: Cli) -> None:
    done = cli("capacity", "--slo", "tpot-p99=10ms", "--method", "fp16,h2o", *SMALL)
    assert done.code == 2
    assert "even for requests served alone" in done.out
    assert "no method meets the limits; nearest is h2o" in done.err
    some = cli("capacity", "--slo", "tpot-p50=34.2ms", "--method", "fp16,h2o", *SMALL, "--format", "json")
    assert some.code == 0, some.err
    few = cli("capacity", "--slo", "tpot-p99=34.8ms", "--method", "fp16", *SMALL)
    assert few.code == 2
    assert "requests per second" in few.err
    reasons = {row["method"]: row["rejected"] for row in some.objects}
    assert reasons["h2o"] is None and "over the limit of 34.2 ms" in reasons["fp16"]


def test_report(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chrome")
    folder = tmp_path / "report"
    done = cli("capacity", *LIMITS, "--method", "fp16,h2o", *SMALL, "--report", folder)
    assert done.code == 0, done.err
    assert {path.name for path in folder.iterdir()} == {
        "report.html", "summary.csv", "capacity.csv", "probes.csv",
    }  # fmt: skip
    with (folder / "probes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["steps"] for row in rows} == {"predicted", "slow", "fast"}
    assert any(row["missed"] for row in rows) and not all(row["missed"] for row in rows)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--slo", "ttft-p99=60 miliseconds"), 2, "miliseconds"),
        (("--slo", "p99=1s"), 2, "ttft"),
        ((*LIMITS, "--requests", 20), 2, "at least 100"),
        ((*LIMITS, "--traffic-qps", 0), 2, "positive"),
        ((*LIMITS, "--price-per-hour", -1), 2, "0 or more"),
        ((*LIMITS, "--price-per-hour", "nan"), 2, "0 or more"),
        ((*LIMITS, "--level", 2), 2, "level"),
        ((*LIMITS, "--prompt-len", 5000), 2, "context"),
        ((*LIMITS, "--method", "kiwi"), 2, "kiwi"),
        ((*LIMITS, "--backend", "slurm"), 2, "local, ray"),
        ((*LIMITS, "--workers", 0), 2, "at least 1"),
        ((*LIMITS, "--scheduler", "fifo"), 2, "sarathi"),
        ((*LIMITS, "--model", "llama-3.1-70b", "--method", "fp16"), 5, "no memory for a KV cache"),
        ((*LIMITS, "--trace", "nowhere.csv"), 3, "nowhere.csv"),
    ],
)
def test_bad_requests(cli: Cli, options: tuple[object, ...], code: int, said: str) -> None:
    done = cli("capacity", "--workers", 1, *options)
    assert done.code == code, done.err
    assert said in done.err
    assert "Traceback" not in done.err


def test_all_requests_at_once_are_no_rate(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "burst.csv"
    path.write_text(
        "id,arrived_at_s,prompt_tokens,output_tokens\n" + "".join(f"{i},0,9,9\n" for i in range(120))
    )
    done = cli("capacity", *LIMITS, "--trace", path, "--workers", 1)
    assert done.code == 2
    assert "come at once" in done.err


def test_without_vidur_one_line_says_what_to_install(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vidur", None)
    done = cli("capacity", *LIMITS, *SMALL)
    assert done.code == 1
    assert done.err == "kvpred: vidur is not installed: pip install 'kvpred[vidur]' brings it.\n"

"""``kvpred cost``: what it prints, where lengths come from, and what is wrong with what is given."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kvpred.methods import list_methods
from tests.cli.conftest import Cli

ASKED = ("--bsz", 8, "--price-per-hour", 0.8)
ALIKE = (*ASKED, "--prompt-len", 1024)
SPREADS = (
    "output_tokens", "ttft_s", "tpot_s", "e2e_latency_s", "usd_per_request", "usd_per_million_output_tokens",
    "usd_ratio_vs_fp16",
)  # fmt: skip


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Four requests in kvpred's own format."""
    path = tmp_path / "trace.csv"
    path.write_text(
        "id,arrived_at_s,prompt_tokens,output_tokens\na,0,100,10\nb,1,200,20\nc,2,300,30\nd,3,400,60\n"
    )
    return path


def rows(cli: Cli, *arguments: object) -> list[dict[str, Any]]:
    answer = cli("cost", *arguments, "--format", "json")
    assert answer.code == 0, answer.err
    return answer.objects


def test_every_method_names_its_shift_and_the_cost_without(cli: Cli) -> None:
    found = rows(cli, *ALIKE)
    assert [row["method"] for row in found] == [method.name for method in list_methods()]
    for row in found:
        assert row["output_shift"]["basis"] in ("measured", "published", "assumed-none")
        assert row["output_shift"]["provenance"]
        assert row["usd_per_request_without_shift"] > 0
        for name in SPREADS:
            assert set(row[name]) == {"mean", "median", "low", "high"}
            assert row[name]["low"] <= row[name]["median"] <= row[name]["high"]


def test_times_are_those_of_predict(cli: Cli) -> None:
    (row,) = rows(cli, *ALIKE, "--method", "fp16")
    (step,) = cli("predict", "--bsz", 8, "--prompt-len", 1024, "--method", "fp16", "--format", "json").objects
    assert row["e2e_latency_s"]["mean"] == pytest.approx(step["e2e_latency_s"])
    assert row["basis"] == step["basis"]


def test_csv_says_what_json_says(cli: Cli) -> None:
    (row,) = cli("cost", *ALIKE, "--method", "h2o", "--format", "csv").rows
    (item,) = rows(cli, *ALIKE, "--method", "h2o")
    assert float(row["usd_per_request.mean"]) == item["usd_per_request"]["mean"]
    assert float(row["usd_per_request_mean_interval.low"]) == item["usd_per_request_mean_interval"][0]
    assert row["output_shift.basis"] == item["output_shift"]["basis"]


def test_the_table_fits_100_columns_and_tells_shift_and_price(cli: Cli) -> None:
    answer = cli("cost", *ALIKE)
    assert (answer.code, answer.err) == (0, "")
    tables = answer.out.split("Answers under fp16")[0]
    assert max(map(len, tables.splitlines())) <= 100
    assert "0.943 measured" in tables
    assert "1 assumed-none" in tables
    assert "$0.8 per device-hour, which is all that is paid for" in tables
    assert "not measured on llama-2-7b" in " ".join(answer.out.split())


def test_a_trace_brings_prompts_and_answers(cli: Cli, trace: Path) -> None:
    answer = cli("cost", *ASKED, "--trace", trace, "--method", "fp16", "--format", "json")
    (row,) = answer.objects
    assert (row["prompt_len"], row["output_tokens"]["mean"]) == (250, 30)
    assert "4 requests of trace" in answer.err
    (row,) = rows(cli, *ALIKE, "--trace", trace, "--method", "fp16")
    assert (row["prompt_len"], row["output_tokens"]["mean"]) == (1024, 30)


def test_a_messages_answer_is_predicted(cli: Cli) -> None:
    pytest.importorskip("lightgbm")
    answer = cli(
        "cost",
        *ASKED,
        "--prompt",
        "Write a story about a lighthouse.",
        "--method",
        "fp16",
        "--format",
        "json",
    )
    (row,) = answer.objects
    (length,) = cli("predict-length", "Write a story about a lighthouse.", "--format", "json").objects
    assert row["output_tokens"]["mean"] == pytest.approx(length["mean_tokens"], rel=0.02)
    assert row["output_tokens"]["median"] == pytest.approx(length["median_tokens"], rel=0.05)
    assert "estimated from their text" in answer.err
    assert 5 <= row["prompt_len"] <= 10


def test_a_file_of_conversations_is_a_mix(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    path = tmp_path / "asked.jsonl"
    said = ["What is 2 + 2?", "Write a long essay on the history of bees. " * 20]
    path.write_text(
        "".join(
            json.dumps({"id": str(n), "messages": [{"role": "user", "content": text}]}) + "\n"
            for n, text in enumerate(said)
        )
    )
    (row,) = rows(cli, *ASKED, "--file", path, "--method", "fp16")
    assert "2 conversations" in row["output_source"]
    assert 60 < row["prompt_len"] < 200


def test_own_shifts_go_before_the_packaged_ones(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "shifts.json"
    own = {
        "method_params": "turboquant", "multiplier": 2.0, "low": 1.8, "high": 2.2, "level": 0.9,
        "basis": "calibrated", "provenance": "mine", "beyond_noise": True, "model": "llama-2-7b",
    }  # fmt: skip
    path.write_text(json.dumps([own]))
    (row,) = rows(cli, *ALIKE, "--shifts", path, "--method", "turboquant")
    assert row["output_shift"]["multiplier"] == 2.0
    assert row["output_tokens"]["mean"] == 512
    assert row["output_shift"]["provenance"] == "mine"


def test_other_parameters_are_marked_published(cli: Cli) -> None:
    answer = cli("cost", *ALIKE, "--method", "h2o:heavy=10,recent=90")
    assert "1.2 published" in answer.out
    assert "keeps 2,560 tokens where h2o:heavy=10,recent=90 keeps 100" in " ".join(answer.out.split())


def test_what_does_not_fit_is_said_and_refused_if_strict(cli: Cli) -> None:
    asked = ("--bsz", 64, "--prompt-len", 3000, "--price-per-hour", 0.8, "--method", "fp16")
    loose, strict = cli("cost", *asked), cli("cost", *asked, "--strict")
    assert (loose.code, strict.code) == (0, 5)
    assert "a batch does not always fit with fp16" in " ".join(loose.out.split())
    assert "does not fit: fp16" in strict.err


def test_what_fits_is_not_refused_for_rounding(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    lengths = [f"{n},{100 + n},{10 + n}" for n in range(49)]
    path.write_text("\n".join(["arrived_at_s,prompt_tokens,output_tokens", *lengths]) + "\n")
    done = cli("cost", *ASKED, "--trace", path, "--method", "fp16", "--strict", "--format", "json")
    assert (done.code, done.objects[0]["fits_share"]) == (0, 1.0), done.err


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ((*ASKED,), 2, "Give --prompt-len, or --prompt, --file or --trace"),
        (("--bsz", 8, "--prompt-len", 9, "--price-per-hour", -1), 2, "price_per_hour=-1.0"),
        (("--bsz", 8, "--prompt-len", 9, "--price-per-hour", "nan"), 2, "price_per_hour=nan"),
        ((*ASKED, "--prompt-len", 5000), 2, "no room for an answer in the context of 4,096"),
        ((*ALIKE, "--output-len", 0), 2, "output_len=0"),
        ((*ALIKE, "--output-len", 9, "--prompt", "Hi"), 2, "--output-len and --prompt all say"),
        ((*ASKED, "--prompt", " "), 2, "the message is empty"),
        ((*ALIKE, "--trace", "nowhere.csv"), 3, "nowhere.csv"),
        ((*ALIKE, "--shifts", "nowhere.json"), 3, "nowhere.json"),
        ((*ALIKE, "--samples", 3), 2, "samples=3"),
        ((*ALIKE, "--level", 2), 2, "level=2.0"),
        ((*ALIKE, "--device", "nothing"), 2, "nothing"),
    ],
)
def test_bad_input_is_one_paragraph(cli: Cli, given: tuple[object, ...], code: int, said: str) -> None:
    answer = cli("cost", *given)
    assert answer.code == code, answer.err
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert answer.out == ""


def test_a_traces_prompt_beyond_the_context_is_named(cli: Cli, trace: Path) -> None:
    trace.write_text(trace.read_text() + "long,4,5000,10\n")
    refused = cli("cost", *ASKED, "--trace", trace, "--method", "fp16")
    assert refused.code == 3
    assert "request long" in refused.err
    dropped = cli("cost", *ASKED, "--trace", trace, "--too-long", "drop", "--method", "fp16")
    assert dropped.code == 0
    assert "1 of 5 requests left out" in dropped.err


def test_the_core_alone_can_tell_the_cost() -> None:
    code = (
        "import sys; from kvpred.cli import run; "
        "run(['cost', '--bsz', '1', '--prompt-len', '64', '--price-per-hour', '1', '--format', 'json']); "
        "sys.exit(not sys.modules.keys().isdisjoint({'pandas', 'torch', 'sklearn', 'lightgbm', 'plotly'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, encoding="utf-8")
    assert len(json.loads(done.stdout)) == len(list_methods())

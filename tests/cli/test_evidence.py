"""``kvpred evidence`` and ``kvpred predict --explain`` as a shell runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvpred.data.evidence import PACKAGED_EVIDENCE
from tests.cli.conftest import Cli

ASKED = ("--method", "kv-fp8", "--device", "a100", "--engine", "vllm")


def test_the_nearest_come_first_with_what_differs(cli: Cli) -> None:
    found = cli("evidence", *ASKED, "--format", "json")
    assert found.code == 0, found.err
    distances = [row["distance"] for row in found.objects]
    assert distances == sorted(distances)
    assert (found.objects[0]["device"], found.objects[0]["differs"]) == ("a100-80gb", [])
    assert found.objects[1]["differs"] == ["device"]
    assert all(row["source_url"].startswith("https://") for row in found.objects)


@pytest.mark.parametrize(
    ("name", "published", "ours"),
    [
        ("engine", "llama.cpp", "llamacpp"),
        ("engine", "HF transformers", "transformers"),
        ("device", "RTX 4090 24GB", "rtx-4090"),
        ("model", "Llama-3.1-8B-Instruct", "llama-3.1-8b"),
    ],
)
def test_names_may_be_as_published(cli: Cli, name: str, published: str, ours: str) -> None:
    asked = ("evidence", "--method", "kv-int8", "--format", "json")
    one, other = (cli(*asked, f"--{name}", spelling) for spelling in (published, ours))
    assert (one.code, one.err) == (0, other.err)
    assert one.objects == other.objects


def test_what_nobody_measured_shows_the_nearest_and_says_so(cli: Cli) -> None:
    found = cli("evidence", "--method", "snapkv", "--engine", "sglang", "--limit", 2, "--format", "json")
    assert (found.code, len(found.objects)) == (0, 2)
    assert "no published row is of all that was asked; the nearest differs in method" in found.err


def test_csv_table_and_filters(cli: Cli) -> None:
    rows = cli("evidence", *ASKED, "--stage", "decode", "--limit", 4, "--format", "csv").rows
    assert [row["stage"] for row in rows] == ["decode"] * 4
    one, every = (
        cli("evidence", *ASKED, "--limit", 99, "--per-source", n, "--format", "csv").rows for n in (1, 99)
    )
    assert len(one) < len(every) == 99
    table = cli("evidence", *ASKED).out
    assert "Published measurements nearest to: kv-fp8, vllm, a100-80gb" in table
    assert "[1] https://github.com/vllm-project/vllm/pull/2279" in table


def test_the_score_is_shown_good_or_bad(cli: Cli) -> None:
    (found,) = cli("evidence", "--score", "--format", "json").objects
    assert found["finding"].startswith("The predicted direction is right in")
    whole = next(row for row in found["scores"] if row["group"] == "all")
    assert whole["n_rows"] == len(found["judged"])
    rows = cli("evidence", "--score", "--format", "csv").rows
    assert [row["group"] for row in rows] == [row["group"] for row in found["scores"]]
    assert found["finding"] in cli("evidence", "--score").out


def test_a_collection_is_curated_into_the_packaged_file(cli: Cli, shared_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "evidence.csv"
    collection = shared_data / "field" / "field_runs.csv"
    done = cli("evidence", "--curate", collection, "--output", output, "--format", "json")
    assert done.code == 0, done.err
    assert (done.objects[0]["outcome"], sum(row["n_rows"] for row in done.objects)) == ("kept", 309)
    assert output.read_bytes() == PACKAGED_EVIDENCE.read_bytes()
    assert "Without a counterpart of ours" in cli("evidence", "--curate", collection, "--output", output).out


def test_report_is_written(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chrome")
    done = cli("evidence", *ASKED, "--report", tmp_path / "report", "--format", "csv")
    assert (done.code, (tmp_path / "report" / "report.html").exists()) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "kv-fp9"), "Did you mean kv-fp8"),
        (("--device", "h1000"), "Did you mean h100"),
        (("--engine", "vlm"), "Did you mean vllm"),
        (("--model", "llama-9"), "is not known"),
        (("--prompt-len", 0), "at least 1"),
        (("--limit", 0), "--limit"),
        (("--stage", "warm-up"), "--stage"),
        (("--level", 2), "level"),
        (("--curate", "x.csv"), "--output"),
    ],
)
def test_bad_requests_are_refused(cli: Cli, arguments: tuple[object, ...], message: str) -> None:
    done = cli("evidence", *arguments)
    assert done.code == 2
    assert message in done.err


def test_a_bad_collection_is_named(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("source_url,metric\nhttps://example.com,ttft_s\n")
    done = cli("evidence", "--curate", path, "--output", tmp_path / "e.csv")
    assert (done.code, (tmp_path / "e.csv").exists()) == (3, False)
    assert "missing columns date" in done.err


def test_predict_explains_itself(cli: Cli) -> None:
    asked = ("predict", "--bsz", 8, "--prompt-len", 4096, "--method", "fp16,h2o,kv-fp8", "--explain")
    rows = {row["method"]: row for row in cli(*asked, "--format", "json").objects}
    assert (rows["fp16"]["evidence"], rows["h2o"]["evidence"]) == ([], [])
    assert rows["h2o"]["rests_on"] == "runs of this very model, device, engine and method"
    assert "ideal kernels" in rows["kv-fp8"]["rests_on"]
    assert {row["method"] for row in rows["kv-fp8"]["evidence"]} == {"kv-fp8"}
    table = cli(*asked).out
    assert "What others measured" in table
    assert "No published measurement of h2o is known" in table
    cells = [row["evidence"] for row in cli(*asked, "--format", "csv").rows]
    assert (cells[0], cells[1]) == ("", "")
    assert cells[2].count("https://") == len(rows["kv-fp8"]["evidence"])


def test_an_explained_prediction_under_another_engine_says_so(cli: Cli) -> None:
    asked = ("--bsz", 8, "--prompt-len", 4096, "--method", "h2o", "--engine", "vllm")
    (row,) = cli("predict", *asked, "--explain", "--format", "json").objects
    assert row["rests_on"].startswith("runs of the method under another engine")

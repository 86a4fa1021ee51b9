"""``kvpred recommend`` as a shell runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

import kvpred
from kvpred.data.risk import read_risk
from tests.cli.conftest import Cli

LIMITS = ("--ttft-p99", "4s", "--tpot-p99", "60ms", "--price-per-hour", "0.8")


def test_the_ranking_its_reasons_and_what_others_measured(cli: Cli) -> None:
    done = cli("recommend", *LIMITS, "--format", "json")
    assert done.code == 0, done.err
    rows = done.objects
    assert {row["method"] for row in rows} == {"fp16", "gear", "h2o", "kivi", "kv-fp8", "kv-int4", "kv-int8",
                                               "snapkv", "streamingllm", "turboquant"}  # fmt: skip
    ranked = [row for row in rows if row["rank"]]
    assert [row["rank"] for row in ranked] == list(range(1, len(ranked) + 1))
    assert rows[: len(ranked)] == ranked
    for row in ranked:
        assert row["reached_s"]["ttft-p99"] <= 4
        assert row["reached_s"]["tpot-p99"] <= 0.06
        assert row["rejected"] is None
    for row in rows[len(ranked) :]:
        assert row["rejected"].startswith("misses ")
        assert row["usd_per_request"] is None
    assert sum(row["cheapest_probability"] for row in ranked) == pytest.approx(1)
    assert ranked[0]["rests_on"]
    assert "static batches" in done.err


def test_costs_are_those_of_the_plain_prediction(cli: Cli) -> None:
    (row,) = cli("recommend", *LIMITS, "--method", "h2o", "--no-shift", "--format", "json").objects
    estimate = kvpred.predict(method="h2o", bsz=row["bsz"], prompt_len=1024, output_len=256)
    usd = 0.8 / 3600 * estimate.e2e_latency_s / row["bsz"]
    assert row["usd_per_request_predicted"] == pytest.approx(usd)
    assert row["usd_per_million_output_tokens_predicted"] == pytest.approx(1e6 * usd / 256)
    assert (row["output_multiplier"], row["usd_vs_fp16"], row["cheapest_probability"]) == (1.0, None, 1.0)
    shifted = cli("recommend", *LIMITS, "--method", "h2o", "--format", "json").objects[0]
    assert shifted["output_multiplier"] != 1
    assert shifted["output_multiplier_basis"] == "measured"


def test_quality_rejects_and_what_is_unknown_stays(cli: Cli) -> None:
    done = cli("recommend", "--price-per-hour", 1, "--max-quality-loss", "5%", "--format", "json")
    rows = {row["method"]: row for row in done.objects}
    assert (
        "loses 12.3% of fp16's score as h2o:heavy=448,recent=64, of the same size" in rows["h2o"]["rejected"]
    )
    assert rows["gear"]["rejected"] is None
    assert rows["kv-fp8"]["rank"]
    assert rows["kv-fp8"]["published_quality"]["status"] == "unknown"
    assert rows["kivi"]["published_quality"]["status"] == "published"
    assert rows["fp16"]["published_quality"]["status"] == "reference"
    assert "of unknown quality: kv-fp8" in done.err
    strict = cli("recommend", "--price-per-hour", 1, "--max-quality-loss", "3%", "--method", "gear,h2o")
    assert strict.code == 2
    assert "lose more quality than --max-quality-loss allows" in strict.err


def test_the_table_says_who_wins_and_keeps_quality_apart(cli: Cli) -> None:
    table = cli("recommend", *LIMITS).out
    assert (
        "is expected to cost least of 5 methods that keep the limits, and is the cheapest with a probability"
        in table
    )
    assert "Beside the ranking: published LongBench scores of llama-3-8b" in table
    assert "if the prediction were sure" in table
    assert max(map(len, table.splitlines())) <= 132
    alone = cli("recommend", *LIMITS, "--method", "kivi").out
    assert alone.startswith("kivi at batch 20 is expected to cost least (llama-2-7b on a6000")
    tight = cli("recommend", *LIMITS, "--method", "kivi,kv-int8").out
    assert "is expected to cost least: no other method keeps the limits" in tight
    free = cli("recommend", "--price-per-hour", 0, "--method", "fp16,kivi").out
    assert "$0 per device-hour" in free


def test_csv_has_one_row_per_method_and_columns_with_units(cli: Cli) -> None:
    rows = cli("recommend", *LIMITS, "--format", "csv").rows
    assert len(rows) == 10
    assert {
        "usd_per_request",
        "reached_s.ttft-p99",
        "published_quality.loss",
        "usd_vs_fp16_interval.low",
    } <= (rows[0].keys())


def test_limits_out_of_reach_are_named_with_the_best_value(cli: Cli) -> None:
    done = cli("recommend", "--price-per-hour", 1, "--slo", "ttft-p99=100ms,tpot-p99=1s", "--format", "json")
    assert done.code == 2
    best = min((row["reached_s"]["ttft-p99"], row["method"]) for row in done.objects)
    assert (
        f"TTFT P99 ≤ 100 ms is out of reach: {best[1]} comes nearest with {1e3 * best[0]:.3g} ms at batch 1, "
        f"{best[0] / 0.1 - 1:.0%} over" in done.err
    )
    assert "TPOT" not in done.err.splitlines()[-1]


def test_nothing_fits(cli: Cli) -> None:
    done = cli("recommend", "--price-per-hour", 1, "--model", "llama-3.1-70b")
    assert done.code == 5
    assert "no method fits llama-3.1-70b" in done.err
    assert "does not fit in memory: 1,024 tokens of prompt and 256 of answer alone" in done.out


def test_requests_of_a_trace(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    rows = [f"{n},{100 + 37 * n},{20 + n}" for n in range(40)]
    path.write_text("arrived_at_s,prompt_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    done = cli("recommend", *LIMITS, "--trace", path, "--method", "fp16,kivi", "--format", "json")
    assert done.code == 0, done.err
    assert "40 requests of trace.csv" in done.err
    assert [row["rank"] for row in done.objects] == [1, 2]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--price-per-hour", "-1"), 2, "price_per_hour=-1"),
        (("--price-per-hour", "nan"), 2, "price_per_hour=nan"),
        (("--price-per-hour", "1", "--ttft-p99", "60 miliseconds"), 2, "units are ms, s, m, min, h"),
        (("--price-per-hour", "1", "--ttft-p99", "1s", "--slo", "ttft-p99=2s"), 2, "given twice"),
        (("--price-per-hour", "1", "--max-quality-loss", "lots"), 2, "write a share such as 2%"),
        (("--price-per-hour", "1", "--max-quality-loss", "200%"), 2, "write a share such as 2%"),
        (("--price-per-hour", "1", "--bsz-max", "0"), 2, "--bsz-max 0"),
        (("--price-per-hour", "1", "--level", "2"), 2, "level"),
        (("--price-per-hour", "1", "--method", "kiwi"), 2, "Did you mean kivi?"),
        (("--price-per-hour", "1", "--task", "few-shots"), 2, "Did you mean few-shot?"),
        (("--price-per-hour", "1", "--prompt-len", "4000"), 2, "exceed the model's context of 4,096"),
        (("--price-per-hour", "1", "--trace", "nowhere.csv"), 3, "nowhere.csv: no such file"),
        ((), 2, "--price-per-hour"),
    ],
)
def test_bad_requests(cli: Cli, options: tuple[str, ...], code: int, message: str) -> None:
    done = cli("recommend", *options)
    assert done.code == code
    assert message in done.err
    assert done.out == ""


def test_a_narrower_level_leaves_the_choice_alone(cli: Cli) -> None:
    wide, narrow = (
        cli("recommend", *LIMITS, "--level", level, "--format", "json").objects for level in (0.9, 0.5)
    )
    for one, other in zip(wide, narrow, strict=True):
        assert (one["method"], one["bsz"], one["reached_s"]) == (
            other["method"],
            other["bsz"],
            other["reached_s"],
        )
    (low, high), (lower, higher) = (rows[1]["usd_vs_fp16_interval"] for rows in (narrow, wide))
    assert lower < low < high < higher


def test_limits_that_no_method_keeps_together(cli: Cli) -> None:
    ask = ("recommend", "--price-per-hour", 1, "--method", "kivi,h2o", "--prompt-len", 3500)
    done = cli(*ask, "--slo", "ttft-p99=1ms,tpot-p99=1ms", "--format", "json")
    at_one = {row["method"]: row["reached_s"] for row in done.objects}
    # KIVI is quicker to the first token, H2O from there: each limit lies between the two.
    ttft_ms = 500 * (at_one["kivi"]["ttft-p99"] + at_one["h2o"]["ttft-p99"])
    tpot_ms = 500 * (at_one["kivi"]["tpot-p99"] + at_one["h2o"]["tpot-p99"])
    both = cli(*ask, "--slo", f"ttft-p99={ttft_ms:.2f}ms,tpot-p99={tpot_ms:.2f}ms")
    assert both.code == 2
    assert "each limit can be kept, not all at once; nearest is" in both.err


def test_requests_broken_are_those_of_the_published_run(cli: Cli) -> None:
    done = cli("recommend", *LIMITS, "--format", "json")
    found = {row["method"]: row["published_quality"]["broken"] for row in done.objects}
    whole = {row.method_params: row for row in read_risk() if row.task == "all"}
    kivi = whole["kivi:bits=4,group_size=32,residual_length=128"]
    # KIVI's 4 bits break 102 of the requests that fp16 answers well.
    assert kivi.broken == 102
    assert found["kivi"] == {
        "share": kivi.share,
        "low": kivi.low,
        "high": kivi.high,
        "basis": "base rate",
        "auc": kivi.auc,
        "beats_base_rate": kivi.beats_base_rate,
    }
    assert found["h2o"]["share"] == whole["h2o:heavy=448,recent=64"].share
    assert set(found["kv-fp8"].values()) == set(found["fp16"].values()) == {None}
    assert "broken: of the published requests that fp16 answers no worse than half" in done.err
    assert "the task type did not help" not in done.err


def test_a_task_type_counts_where_it_told_more_on_held_out_datasets(cli: Cli) -> None:
    done = cli("recommend", *LIMITS, "--task", "code", "--format", "json")
    table = {(row.method_params, row.task): row for row in read_risk()}
    asked = [row["published_quality"] for row in done.objects if row["published_quality"]["method_params"]]
    assert len(asked) == 4
    for quality in asked:
        row = table[quality["method_params"], "code"]
        told = row.beats_base_rate
        assert quality["broken"]["basis"] == ("task type" if told else "base rate")
        of = row if told else table[quality["method_params"], "all"]
        assert (quality["broken"]["share"], quality["broken"]["auc"]) == (of.share, of.auc)
        name = quality["method_params"].partition(":")[0]
        assert (f"{name} (AUC {row.auc:.2f})" in done.err) is not told
    assert "on held-out datasets the task type did not help beyond the base rate" in done.err


def test_the_table_shows_requests_broken_beside_the_loss(cli: Cli) -> None:
    table = cli("recommend", *LIMITS, "--task", "few-shot").out
    header = next(line for line in table.splitlines() if "Loss %" in line)
    assert "Broken %" in header
    assert max(map(len, table.splitlines())) <= 132

"""``kvpred validate`` and ``kvpred audit``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import in_place
from tests.host_bundle import write_host_bundle, write_weights

Cli = Callable[..., Any]
RunsText = Callable[..., str]


@pytest.mark.slow
def test_the_packaged_predictor_is_judged_without_arguments(cli: Cli) -> None:
    answer = cli("validate", "--format", "json")
    (record,) = answer.objects
    assert answer.code == 0
    assert all(line.startswith("kvpred: ") for line in answer.err.splitlines())
    assert record["predictor"] == "llama-2-7b_a6000_lmdeploy"
    assert (record["n_sites"], record["n_runs"]) == (190, 663)
    asked = {split["split"]: split["mean"] for split in record["splits"]}
    assert min(asked["lengths"], asked["batches"]) >= 0.972


@pytest.mark.slow
def test_a_bundle_is_judged_on_its_own_sites_and_reported(cli: Cli, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    answer = cli("validate", "--predictor", trained, "--report", folder, "--format", "csv")
    assert answer.code == 0
    assert min(float(row["accuracy"]) for row in answer.rows) > 0.9
    assert {"report.html", "accuracy.csv", "sites.csv"} <= {path.name for path in folder.iterdir()}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_bundle_is_judged_on_runs_it_has_not_seen(
    cli: Cli, trained: Path, runs_text: RunsText, tmp_path: Path
) -> None:
    unseen = tmp_path / "unseen.csv"
    unseen.write_text(runs_text(batches=(3, 6), seed=1))
    asked = ("validate", "--predictor", trained, "--runs", unseen, "--format")
    rows = cli(*asked, "csv").rows
    assert {int(row["n_sites"]) for row in rows} == {8}
    assert min(float(row["accuracy"]) for row in rows) > 0.95
    (record,) = cli(*asked, "json").objects
    assert (record["n_sites"], record["n_runs"]) == (48, 96)
    table = cli(*asked, "table")
    assert table.code == 0
    assert table.err == "kvpred: judging bundle on 96 runs at 48 sites\n"
    assert "given runs" in table.out


def test_runs_that_a_bundle_has_not_seen_are_reported_too(
    cli: Cli, trained: Path, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chrome")
    folder = tmp_path / "report"
    assert cli("validate", "--predictor", trained, "--runs", measured, "--report", folder).code == 0
    assert {"report.html", "accuracy.csv", "sites.csv"} <= {path.name for path in folder.iterdir()}


def test_a_profile_without_runs_has_nothing_to_hold_out(cli: Cli, store: Path, tmp_path: Path) -> None:
    assert cli("train", "--profile", store, "--output", tmp_path / "bundle").code == 0
    answer = cli("validate", "--predictor", tmp_path / "bundle")
    assert (answer.code, answer.out) == (4, "")
    assert "give --runs" in answer.err


@pytest.mark.slow
def test_operators_are_judged_on_their_profile(cli: Cli, fp16_profile: Path) -> None:
    answer = cli("validate", "--profile", fp16_profile, "--format", "json")
    assert answer.code == 0
    assert {row["operator"] for row in answer.objects} >= {"attn_decode", "attn_prefill", "mlp_up_proj"}


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of two methods, timed in place."""
    return in_place.write_root(tmp_path_factory.mktemp("swept"), methods=("fp16", "h2o"))


def test_profiles_timed_in_place_are_judged_together(cli: Cli, swept: Path) -> None:
    answer = cli("validate", "--profile", swept, "--format", "json")
    assert answer.code == 0
    tables: dict[str, list[dict[str, Any]]] = {}
    for row in answer.objects:
        tables.setdefault(row["table"], []).append(row)
    assert set(tables) == {"sums", "held_out", "operators", "premise"}
    assert [row["within"] for row in tables["sums"]] == [True] * 4
    assert {row["stage"] for row in tables["operators"]} == {"prefill", "decode"}
    shared = [row for row in tables["premise"] if row["operator"] == "all shared"]
    assert [row["differs"] for row in shared] == [False, False]


def test_csv_and_table_say_the_same_of_profiles_timed_in_place(cli: Cli, swept: Path) -> None:
    rows = cli("validate", "--profile", swept, "--format", "csv").rows
    assert {row["table"] for row in rows} == {"sums", "held_out", "operators", "premise"}
    table = cli("validate", "--profile", swept)
    assert table.code == 0
    assert table.err == "kvpred: holding out sites of 2 methods of smollm2-135m on host-cpu\n"
    assert "Does only attention differ?" in table.out


def test_a_method_timed_in_place_is_not_judged_without_fp16(cli: Cli, swept: Path) -> None:
    (folder,) = (swept / "compute" / "host-cpu" / "smollm2-135m").glob("h2o*")
    answer = cli("validate", "--profile", folder)
    assert (answer.code, answer.out) == (3, "")
    assert "none of the profiles is of fp16" in answer.err


def test_several_profiles_without_steps_are_judged_one_by_one(cli: Cli, store: Path) -> None:
    answer = cli("validate", "--profile", store)
    assert (answer.code, answer.out) == (3, "")
    assert "give the folder of one" in answer.err


@pytest.mark.parametrize(
    "options", [("--level", 2), ("--level", "nan"), ("--seed", -1), ("--profile", "p", "--report", "r")]
)
def test_options_out_of_range_are_refused(cli: Cli, options: tuple[object, ...]) -> None:
    answer = cli("validate", *options)
    assert (answer.code, answer.out) == (2, "")


@pytest.mark.parametrize(
    "options",
    [(), ("--predictor", "b", "--runs", "r"), ("--predictor", "b", "--report", "r"), ("--sites", 0)],
)
def test_live_validation_takes_a_predictor_and_no_other_measurements(
    cli: Cli, options: tuple[object, ...]
) -> None:
    answer = cli("validate", "--live", *options)
    assert (answer.code, answer.out) == (2, "")


def test_a_predictor_of_another_place_is_not_judged_live(cli: Cli, trained: Path, tmp_path: Path) -> None:
    answer = cli("validate", "--live", "--predictor", trained, "--output", tmp_path / "live")
    assert (answer.code, answer.out) == (2, "")
    assert "not started by kvpred" in answer.err
    assert not (tmp_path / "live").exists()


@pytest.mark.slow
def test_live_validation_says_by_its_exit_code_that_predictions_are_worthless(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chrome")
    bundle, config = write_host_bundle(tmp_path)
    asked = [
        *("validate", "--live", "--predictor", bundle, "--model", config, "--weights", write_weights(config)),
        *("--sites", 2, "--repeats", 1, "--dtype", "float32", "--output", tmp_path / "live"),
    ]
    answer = cli(*asked, "--format", "json")
    (record,) = answer.objects
    assert (answer.code, record["verdict"]) == (1, "unreliable")
    assert {"predictions.json", "measured", "report"} == {path.name for path in (tmp_path / "live").iterdir()}
    assert {"report.html", "sites.csv"} <= {path.name for path in (tmp_path / "live" / "report").iterdir()}
    rows = cli(*asked, "--format", "csv").rows
    assert [float(row["measured_s"]) for row in rows] == [site["measured_s"] for site in record["sites"]]


def test_an_audit_of_honest_profiles_finds_no_copy(cli: Cli, store: Path) -> None:
    answer = cli("audit", store, "--format", "json")
    assert answer.code == 0
    assert [found["check"] for found in answer.objects if "cop" in found["check"]] == []


def test_an_audit_names_the_constant_of_a_doctored_profile(cli: Cli, doctored: Path) -> None:
    found = cli("audit", doctored, "--format", "json").objects
    copies = [item["message"] for item in found if item["check"] == "scaled-copy"]
    assert any("attn_decode is 1.1 times that of" in message for message in copies)
    rows = cli("audit", doctored, "--format", "csv").rows
    assert [row["message"] for row in rows] == [item["message"] for item in found]


def test_an_audit_of_honest_runs_finds_nothing(cli: Cli, measured: Path) -> None:
    answer = cli("audit", measured, "--format", "json")
    assert (answer.code, answer.objects) == (0, [])
    assert answer.err.endswith("kvpred: nothing found\n")
    assert cli("audit", measured, "--format", "csv").out == "check,severity,subject,message\n"


def test_an_audit_of_runs_without_any_slope_is_still_json(
    cli: Cli, runs_text: RunsText, tmp_path: Path
) -> None:
    header, *rows = runs_text().splitlines()
    constant = [",".join([*row.split(",")[:-2], "1e12", "0"]) for row in rows]
    path = tmp_path / "constant.csv"
    path.write_text("\n".join([header, *constant]))
    found = cli("audit", path, "--format", "json").objects
    assert "faster-than-hardware" in {item["check"] for item in found}


def test_an_audit_notes_runs_of_a_model_that_it_does_not_know(
    cli: Cli, runs_text: RunsText, tmp_path: Path
) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(runs_text().replace("llama-2-7b", "house-model"))
    answer = cli("audit", path, "--format", "json")
    assert answer.code == 0
    assert {item["check"] for item in answer.objects} == {"unknown-model", "nothing-to-check"}

"""``kvpred train``: from runs, from a profile, from both; and predicting with what it made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
RunsText = Callable[..., str]


def _tpot(cli: Cli, bundle: Path, method: str) -> dict[str, Any]:
    (row,) = cli(
        "predict", "--predictor", bundle, "--bsz", 4, "--prompt-len", 1024, "--output-len", 1,
        "--method", method, "--format", "json",
    ).objects  # fmt: skip
    return row  # type: ignore[no-any-return]


def test_a_bundle_of_runs_predicts_the_law_behind_them(cli: Cli, trained: Path) -> None:
    row = _tpot(cli, trained, "kivi")
    assert row["basis"] == "calibrated"
    assert row["in_domain"] is True
    assert row["tpot_s"] == pytest.approx(0.95 * (0.034 + 2e-4 * 4 + 8.3e-7 * 4 * 1024), rel=0.02)
    assert row["ttft_s"] == pytest.approx(0.95 * (0.05 + 1.7e-4 * 4096 + 1.3e-8 * 4096 * 1024), rel=0.02)


def test_training_twice_gives_the_same_bytes_and_progress_on_stderr_alone(
    cli: Cli, trained: Path, measured: Path, tmp_path: Path
) -> None:
    answer = cli("train", "--runs", measured, "--output", tmp_path / "again", "--format", "json")
    assert len(answer.objects) == 1
    assert answer.err == "kvpred: 192 runs at 96 sites; fitting and holding sites out\n"
    again = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert again == {path.name: path.read_bytes() for path in trained.iterdir()}


def test_one_site_teaches_a_new_method(cli: Cli, runs_text: RunsText, tmp_path: Path) -> None:
    few = tmp_path / "few.csv"
    few.write_text(runs_text(sites={"kivi": {(4, 2048)}, "h2o": {(1, 256), (8, 4096)}}))
    answer = cli("train", "--runs", few, "--output", tmp_path / "bundle", "--format", "json")
    (summary,) = answer.objects
    assert summary["sites"] == 2 * 16 + 2 + 4
    for method, factor, attended in (("kivi", 0.95, 1024), ("h2o", 1.1, 512)):
        row = _tpot(cli, tmp_path / "bundle", method)
        law = factor * (0.034 + 2e-4 * 4 + 8.3e-7 * 4 * attended)
        assert row["basis"] == "calibrated"
        assert row["tpot_s"] == pytest.approx(law, rel=0.04)


def test_a_profile_alone_makes_a_profiled_predictor(cli: Cli, store: Path, tmp_path: Path) -> None:
    answer = cli("train", "--profile", store, "--output", tmp_path / "bundle", "--format", "csv")
    (summary,) = answer.rows
    assert (summary["methods"], summary["runs"], summary["basis"]) == ("fp16; kivi", "0", "profiled")
    fp16, kivi = _tpot(cli, tmp_path / "bundle", "fp16"), _tpot(cli, tmp_path / "bundle", "kivi")
    assert (fp16["basis"], kivi["basis"]) == ("profiled", "profiled")
    # Both share every operator but attention, of which kivi's is 1.2 times as long: 32 layers, ms.
    attention_s = 32 * (0.03 + 2.7e-5 * 4 * 1024) / 1e3
    assert kivi["tpot_s"] - fp16["tpot_s"] == pytest.approx(0.2 * attention_s, rel=0.3)


def test_runs_on_top_of_a_profile_calibrate_it(cli: Cli, store: Path, measured: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    assert cli("train", "--profile", store, "--runs", measured, "--output", bundle).code == 0
    row = _tpot(cli, bundle, "kivi")
    assert row["basis"] == "calibrated"
    assert row["tpot_s"] == pytest.approx(0.95 * (0.034 + 2e-4 * 4 + 8.3e-7 * 4 * 1024), rel=0.03)


def test_a_bundle_may_be_trained_again_in_its_place(
    cli: Cli, measured: Path, store: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    assert cli("train", "--profile", store, "--output", bundle).code == 0
    assert cli("train", "--runs", measured, "--output", bundle).code == 0
    assert sorted(path.name for path in bundle.iterdir()) == ["bundle.json", "sites.csv"]
    assert list(tmp_path.iterdir()) == [bundle]


@pytest.mark.slow
def test_the_published_runs_give_the_packaged_bundles_figures(
    cli: Cli, shared_data: Path, tmp_path: Path
) -> None:
    answer = cli(
        "train", "--runs", shared_data / "a6000" / "throughput", "--pool-labels", "--model", "llama-2-7b",
        "--device", "a6000", "--engine", "lmdeploy", "--output", tmp_path / "bundle", "--format", "json",
    )  # fmt: skip
    (trained,) = answer.objects
    (packaged,) = cli("predictors", "--format", "json").objects
    for field in ("sites", "runs", "method_params", "accuracy_held_out_lengths"):
        assert trained[field] == packaged[field]


# Calibrating


@pytest.fixture
def few(runs_text: RunsText, tmp_path: Path) -> Path:
    """Eight sites of fp16, four of every other method."""
    fp16 = {(1, 256), (1, 4096), (2, 256), (2, 2048), (4, 1024), (4, 4096), (8, 256), (8, 2048)}
    others = {(1, 2048), (2, 4096), (8, 256), (8, 1024)}
    path = tmp_path / "few.csv"
    path.write_text(runs_text(sites={"fp16": fp16, "kivi": others, "h2o": others}))
    return path


def test_calibrate_says_what_it_learnt_and_writes_a_bundle(cli: Cli, few: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    answer = cli("calibrate", "--runs", few, "--output", bundle, "--format", "json")
    (found,) = answer.objects
    assert found["verdict"] in ("good", "usable")
    assert [one["method"].partition(":")[0] for one in found["methods"]] == ["fp16", "h2o", "kivi"]
    decode = found["methods"][2]["stages"][1]
    assert decode["accuracy"] > 0.93
    assert {"name", "seconds", "multiplier", "multiplier_error"} <= set(decode["terms"][0])
    assert set(found["next_run"]) == {"method", "bsz", "prompt_len", "output_len"}
    row = _tpot(cli, bundle, "kivi")
    assert row["basis"] == "calibrated"
    assert row["tpot_s"] == pytest.approx(0.95 * (0.034 + 2e-4 * 4 + 8.3e-7 * 4 * 1024), rel=0.05)


def test_calibrate_shows_terms_errors_verdicts_and_the_next_run(cli: Cli, few: Path, tmp_path: Path) -> None:
    answer = cli("calibrate", "--runs", few, "--output", tmp_path / "bundle")
    assert answer.code == 0
    for heading in ("Times fp16's", "Each site left out once", "Verdicts", "Verdict: ", "would help most"):
        assert heading in answer.out
    assert answer.err == "kvpred: 64 runs at 32 sites; fitting, and leaving each site out in turn\n"


def test_calibrate_as_csv_is_the_left_out_sites(cli: Cli, few: Path, tmp_path: Path) -> None:
    rows = cli("calibrate", "--runs", few, "--output", tmp_path / "bundle", "--format", "csv").rows
    assert [(row["stage"], row["n_sites"]) for row in rows] == 1 * [("prefill", "8"), ("decode", "8")] + 2 * [
        ("prefill", "4"),
        ("decode", "4"),
    ]


def test_calibrating_twice_gives_the_same_bytes(cli: Cli, few: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert cli("calibrate", "--runs", few, "--output", tmp_path / name).code == 0
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")
    )
    assert one == two


def test_calibrate_on_top_of_a_profile(cli: Cli, store: Path, few: Path, tmp_path: Path) -> None:
    answer = cli(
        "calibrate", "--runs", few, "--profile", store, "--output", tmp_path / "b", "--format", "json"
    )
    (found,) = answer.objects
    terms = [term["name"] for term in found["methods"][0]["stages"][1]["terms"]]
    assert terms == ["fixed", "shared operators", "attention"]


def test_calibrating_on_one_site_says_what_is_missing(cli: Cli, runs_text: RunsText, tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text(runs_text(sites={"fp16": {(4, 1024)}}, factors={"fp16": 1.0}))
    answer = cli("calibrate", "--runs", path, "--output", tmp_path / "bundle")
    assert answer.code == 3
    assert "fp16 has 1 site of prefill (4 x 1,024), and a fit needs at least 3" in answer.err
    assert not (tmp_path / "bundle").exists()

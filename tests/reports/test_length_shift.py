"""The report of length shifts: its page, its tables and its figures."""

from __future__ import annotations

import csv
import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from kvpred.evaluation.length_shift import Spread
from kvpred.evaluation.length_shift_report import ShiftStudy, study_lengths
from kvpred.reports import length_shift_figures as figures
from kvpred.reports.figures import Figure
from kvpred.reports.length_shift import shift_record, shifts_sheet, write_shift_report
from kvpred.reports.style import method_marker
from tests.made_up_lengths import make_length, make_lengths


@pytest.fixture(scope="module")
def study() -> ShiftStudy:
    factors = {"fp16": 1.0, "kivi": 1.0, "h2o": 1.5, "streamingllm": 0.6}
    runs = make_lengths(factors, cap=384) + make_lengths({"fp16": 1.1}, temperature=1.1, cap=384)
    return study_lengths(runs, name="lengths")


@pytest.fixture(scope="module")
def one_seed() -> ShiftStudy:
    runs = make_lengths({"fp16": 1.0, "H2O+slide 2048+512": 1.5, "PyramidKV+None 2048+512": 1.1}, n_seeds=1)
    return study_lengths(runs, name="scope")


def drawn(study: ShiftStudy) -> list[Figure]:
    return [
        figures.multiplier_figure(study),
        figures.shares_figure(study),
        figures.density_figure(study),
        figures.ratio_figure(study),
    ]


def test_folder_holds_every_figures_data(
    study: ShiftStudy, one_seed: ShiftStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chrome")
    written = write_shift_report([study, one_seed], tmp_path / "report")
    page = written.page.read_text(encoding="utf-8")
    for figure in (figure for one in (study, one_seed) for figure in drawn(one)):
        assert f'id="{figure.name}"' in page
        assert {f"{name}.csv" for name in figure.sheets} <= set(written.files)
    assert all(note.partition("'")[0] in page for note in study.notes)
    with (tmp_path / "report" / "shift_lengths.csv").open(encoding="utf-8") as file:
        rows = {(row["method"], row["temperature"]): row for row in csv.DictReader(file)}
    assert rows["h2o", "1.0"]["verdict"] == "longer"
    assert rows["fp16", "1.1"]["against_temperature"] == "1.0"
    assert float(rows["another seed", "1.0"]["multiplier"]) == pytest.approx(1, abs=0.2)


def test_titles_say_what_was_found(study: ShiftStudy) -> None:
    multiplier, shares, density, ratio = (figure.finding for figure in drawn(study))
    assert multiplier.startswith("1 of 3 methods give longer answers and 1 of 3 methods give shorter answers")
    assert re.match(r"\d of 4 setups give answers longer by half more often than the baseline's own", shares)
    assert "(h2o), of the baseline's own seeds +" in density
    assert ratio.startswith("The strongest compression, 4.0× (streamingllm)")


def test_axes_are_named_and_hold_every_point_and_bar(study: ShiftStudy, one_seed: ShiftStudy) -> None:
    for figure in (*drawn(study), *drawn(one_seed)):
        plot = figure.plot.to_dict()
        titles = {key[0] for key, axis in plot["layout"].items() if "axis" in key and axis.get("title")}
        assert titles >= {"x"}
        for trace, way in product(plot["data"], "xy"):
            low, high = plot["layout"][trace.get(f"{way}axis", way).replace(way, f"{way}axis")]["range"]
            bars = trace.get(f"error_{way}", {})
            above, below = (bars.get(side, [0] * len(trace[way])) for side in ("array", "arrayminus"))
            for value, up, down in zip(trace[way], above, below, strict=True):
                assert low <= value - down and value + up <= high


def test_methods_keep_their_colours_and_labels_take_their_methods(
    study: ShiftStudy, one_seed: ShiftStudy
) -> None:
    colours = [
        {trace.marker.color for trace in figures.multiplier_figure(one).plot.data}
        for one in (study, one_seed)
    ]
    assert method_marker("h2o")["color"] in colours[0] & colours[1]


def test_density_keeps_all_above_minus_100_percent_and_holds_one() -> None:
    rng = np.random.default_rng(0)
    d = np.sort(np.expm1(rng.normal(0, 0.5, 500)))
    density = figures._density(Spread(d))
    inside = np.mean((d > -0.98) & (d < 3))
    assert np.trapezoid(density, figures._SHOWN) == pytest.approx(inside, abs=0.01)


def test_record_is_json_without_gaps(one_seed: ShiftStudy) -> None:
    record = json.loads(json.dumps(shift_record(one_seed), allow_nan=False))
    assert {row["excess_over_50"] for row in record["shifts"]} == {None}
    assert record["smallest_detectable"] > 0


def test_numbers_that_are_not_finite_are_unknown() -> None:
    runs = make_lengths({"fp16": 1.0}, n_prompts=20)
    cut = [
        make_length("kivi", run.cap, prompt_id=run.prompt_id, seed=run.seed, censored=True) for run in runs
    ]
    (_, row) = shifts_sheet(study_lengths(runs + cut, name="x")).records()
    assert row["uncut_multiplier"] is None
    assert row["cut"] == 1

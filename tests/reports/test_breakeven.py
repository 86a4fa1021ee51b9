"""Break-even maps as words, tables and heat maps."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kvpred
from kvpred.predictors.breakeven import break_even
from kvpred.predictors.breakeven_map import (
    EQUAL,
    LARGEST,
    NO_ROOM,
    ONLY_THIS,
    QUANTITIES,
    UNCERTAIN,
    BreakEven,
    Grid,
)
from kvpred.reports.breakeven import breakeven_sheets, cell_records, write_breakeven_report
from kvpred.reports.breakeven_figures import breakeven_figures
from kvpred.reports.breakeven_words import border, breakeven_notes
from kvpred.reports.style import BLUE, VERMILION

METHODS = ("gear", "h2o", "kivi", "kv-int4", "kivi:bits=2")
LENGTHS = np.array([128, 256, 512, 1024, 2048, 4096])


def made(**options: object) -> BreakEven:
    grid = Grid("bsz", np.array([1, 2, 4, 8, 16, 32, 64]), LENGTHS, np.array([256]))
    given = {"methods": METHODS, "model": "llama-2-7b", "device": "a6000", "engine": "lmdeploy"}
    return break_even(kvpred._packaged(), grid, price_per_hour=0.8, **given | options)


@pytest.fixture(scope="module")
def found() -> BreakEven:
    return made()


def with_ratio(found: BreakEven, columns: list[list[float]]) -> str:
    """Return the border of a made-up decode ratio, all of which fits, at bsz 1, 8 and 64."""
    one = found.maps[0]
    ratio = np.ones(found.grid.shape)
    for bsz, values in zip((1, 8, 64), columns, strict=True):
        ratio[found.grid.bsz == bsz] = values
    fits = np.ones(found.grid.shape, dtype=bool)
    made_up = replace(one, ratios={**one.ratios, "decode": (ratio,) * 3}, fits=fits, base_fits=fits)
    return border(found.grid, made_up, "decode")


def test_borders_are_said_in_words(found: BreakEven) -> None:
    fast, slow, turning = [0.9] * 6, [1.1] * 6, [1.2, 1.1, 1.05, 1 / 1.05, 0.9, 0.8]
    assert with_ratio(found, [fast] * 3) == "faster throughout"
    assert with_ratio(found, [slow, slow, fast]) == "slower at bsz 1-8; faster at 64"
    # Half-way between 512 and 1,024 on the logarithm: 724 tokens.
    assert with_ratio(found, [slow, turning, turning]) == "slower at bsz 1; faster from 720 tokens on at 8-64"
    assert with_ratio(found, [turning] * 3) == "faster from 720 tokens on at every bsz"
    assert with_ratio(found, [turning[::-1], fast, fast]).startswith("faster up to 720 tokens at bsz 1;")
    there_and_back = [1.1, 1 / 1.1, 0.9, 0.9, 1 / 1.1, 1.1]
    assert with_ratio(found, [there_and_back, fast, fast]).startswith("faster from 180 to 2,900 tokens at")
    often = [1.1, 0.9, 1.1, 0.9, 1.1, 0.9]
    assert with_ratio(found, [often, fast, fast]).startswith("faster at 50% of lengths at bsz 1;")
    assert with_ratio(found, [[1.001] * 6] * 3) == "alike throughout"


def test_where_nothing_fits_there_is_no_border(found: BreakEven) -> None:
    nothing = np.zeros(found.grid.shape, dtype=bool)
    words = border(found.grid, replace(found.maps[0], fits=nothing), "decode")
    assert words == "one of the two does not fit throughout"


def test_tables_hold_shares_that_sum_to_one(found: BreakEven) -> None:
    sheets = breakeven_sheets(found)
    assert [table.name for table in sheets] == ["breakeven_equal", "breakeven_largest"]
    for table, n_quantities in zip(sheets, (3, 4), strict=True):
        rows = table.records()
        assert len(rows) == n_quantities * len(METHODS)
        for row in rows:
            shares = [row[k] for k in ("better", "worse", "uncertain", "does_not_fit", "only_this_fits")]
            assert sum(shares) == pytest.approx(1)
    assert {row["method"] for row in sheets[0].records()} == set(METHODS)


def test_money_goes_with_time_at_equal_batch(found: BreakEven) -> None:
    said = [{row["quantity"] for row in table.records()} for table in breakeven_sheets(found)]
    assert "end to end, $" in said[0]
    assert "$ per request" in said[1]


def test_every_cell_is_a_row_with_all_quantities(found: BreakEven) -> None:
    rows = cell_records(found)
    assert len(rows) == 2 * len(METHODS) * 7 * 6
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    for name in QUANTITIES:
        assert {f"{name}_ratio", f"{name}_ratio_low", f"{name}_ratio_high", f"{name}_verdict"} <= set(rows[0])
    (row,) = (
        row for row in rows
        if (row["method"], row["batches"], row["asked_bsz"], row["prompt_len"]) == ("h2o", "equal", 8, 2048)
    )  # fmt: skip
    assert row["usd_per_request"] == pytest.approx(row["fp16_usd_per_request"] * row["usd_ratio"])
    assert (row["bsz"], row["fp16_bsz"], row["shift_basis"]) == (8, 8, "measured")


def test_notes_name_the_shift_and_what_has_no_runs(found: BreakEven) -> None:
    notes = " ".join(breakeven_notes(found))
    assert "Without runs at this place (kv-int4, kivi:bits=2)" in notes
    assert "kv-int4 1.00 (1.00-1.00, assumed-none)" in notes
    assert "4,096 tokens" in notes
    assert "--no-shift" in " ".join(breakeven_notes(made(shifted=False)))


def test_figures_have_a_panel_per_method_centred_on_1_and_marks(found: BreakEven) -> None:
    figures = breakeven_figures(found)
    assert [figure.name for figure in figures] == [
        *(f"{name}_equal" for name in ("decode", "prefill", "e2e")),
        *(f"{name}_largest" for name in QUANTITIES),
    ]
    for figure in figures:
        plot = figure.plot.to_dict()
        scale = plot["layout"]["coloraxis"]
        assert (scale["cmin"], scale["cmax"]) == (-scale["cmax"], 1)
        assert [colour for _, colour in scale["colorscale"]] == [BLUE, "#FFFFFF", VERMILION]
        assert [note["text"] for note in plot["layout"]["annotations"]] == list(METHODS)
        maps = [trace for trace in plot["data"] if trace.get("coloraxis")]
        assert len(maps) == len(METHODS)
        titles = {
            axis["title"]["text"] for key, axis in plot["layout"].items() if "axis" in key and "title" in axis
        }
        assert {"sequences", "prompt (tokens)"} <= titles
    assert figures[0].finding.startswith("Decode, at equal batch: surely faster than fp16: h2o (")


def test_hatching_covers_what_was_not_measured_and_dots_what_is_unsure(found: BreakEven) -> None:
    number = METHODS.index("kv-int4") + 1
    plot = breakeven_figures(found)[0].plot
    traces = [trace for trace in plot.data if trace.xaxis == f"x{number}"]
    (one,) = (m for m in found.maps if m.method.startswith("kv-int4") and m.batches == EQUAL)
    verdicts = one.verdicts("decode")
    (dots,) = (trace for trace in traces if trace.type == "scatter" and trace.mode == "markers")
    assert len(dots.x) == np.count_nonzero(verdicts == UNCERTAIN)
    # It has no runs: all that is judged is hatched, a rectangle per column.
    (hatched,) = (trace for trace in traces if trace.type == "scatter" and trace.fill == "toself")
    assert sum(x is None for x in hatched.x) == np.count_nonzero((verdicts == UNCERTAIN).any(axis=1))
    flat = [trace for trace in traces if trace.type == "heatmap" and trace.coloraxis is None]
    assert [np.count_nonzero(np.isfinite(trace.z)) for trace in flat] == [
        np.count_nonzero(verdicts == word) for word in (NO_ROOM, ONLY_THIS) if (verdicts == word).any()
    ]


def test_a_map_of_one_column_is_drawn() -> None:
    grid = Grid("output_len", np.array([8]), np.array([256, 512]), np.array([64]))
    found = break_even(
        kvpred._packaged(), grid, methods=["h2o"], model="llama-2-7b", device="a6000", engine="lmdeploy"
    )
    assert len(breakeven_figures(found)) == 7


def test_report_has_a_page_and_all_cells(
    found: BreakEven, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chrome")
    written = write_breakeven_report(found, tmp_path / "report")
    names = {f"cells_{kind}.csv" for kind in (EQUAL, LARGEST)} | {"report.html"}
    assert names <= set(written.files)
    rows = list(csv.DictReader((tmp_path / "report" / "cells_equal.csv").open()))
    assert len(rows) == len(METHODS) * 42

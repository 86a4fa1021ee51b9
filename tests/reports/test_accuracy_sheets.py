from dataclasses import replace
from typing import Any

import pytest

from kvpred.reports import accuracy_sheets as sheets


def test_summary_has_a_row_per_split_in_percent(evaluated: Any) -> None:
    shown = sheets.summary_sheet(evaluated.report).shown()
    assert [row[0] for row in shown] == ["lengths", "batches", "largest batch", "random rows"]
    assert float(shown[0][1]) == pytest.approx(100 * evaluated.report.splits[0].mean, abs=0.05)


def test_fp16_shows_a_dash_where_it_cannot_be_compared(evaluated: Any) -> None:
    records = sheets.cells_sheet(evaluated.report).records()
    assert {record["method"] for record in records if record["skill"] is None} == {"fp16"}


def test_published_figures_close_the_table_of_definitions(evaluated: Any) -> None:
    sheet = sheets.published_sheet(evaluated.published)
    assert len(sheet.rows) == 5
    assert sheet.records()[-1]["fp16"] == 0.884


def test_a_label_stands_beside_the_pool(evaluated: Any) -> None:
    row = sheets.label_sheet(evaluated.report, {"7b": {"lengths mean": 0.97, "lengths worst": 0.96}}).shown()[
        0
    ]
    assert row[3:] == ["97.0", "96.0"]


def test_splits_that_a_label_lacks_show_a_dash(evaluated: Any) -> None:
    row = sheets.label_sheet(evaluated.report, {"7b": {}}).shown()[0]
    assert row[3:] == ["–", "–"]


@pytest.mark.parametrize(
    "make", [sheets.intervals_sheet, sheets.ranking_sheet, sheets.worst_sheet, sheets.sites_sheet]
)
def test_sheets_fill_every_column(evaluated: Any, make: Any) -> None:
    sheet = make(evaluated.report)
    assert sheet.rows
    assert {len(row) for row in sheet.rows} == {len(sheet.columns)}


@pytest.mark.parametrize(
    "make", [sheets.few_shot_sheet, sheets.few_shot_intervals_sheet, sheets.few_shot_cells_sheet]
)
def test_few_shot_sheets_cover_every_number_of_sites(evaluated: Any, make: Any) -> None:
    assert {row[0] for row in make(evaluated.few_shot).rows} == {0, 1, 2}


def test_a_definition_without_a_method_shows_a_dash(evaluated: Any) -> None:
    whole, *others = evaluated.published.definitions
    few = replace(others[0], by_method={"fp16": 0.9})
    sheet = sheets.published_sheet(replace(evaluated.published, definitions=(few, whole)))
    assert sheet.columns == sheets.published_sheet(evaluated.published).columns
    assert sheet.shown()[0][2:4] == ["90.0", "–"]

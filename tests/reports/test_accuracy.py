import csv
import re
from pathlib import Path
from typing import Any

import pytest

from kvpred.errors import UsageError
from kvpred.reports.accuracy import write_accuracy_report

LABELS = {"Llama-2-7b-hf": {"lengths mean": 0.974, "lengths worst": 0.9645}}
NOTE = "Four names <one> model's times."
FIGURES = {"accuracy_cells", "few_shot", "intervals", "predicted_measured", "residuals"}
TABLES = {
    *("accuracy", "intervals", "labels", "published_scoring", "ranking", "sites", "summary", "worst_sites"),
    *("few_shot", "few_shot_cells", "few_shot_intervals"),
}


@pytest.fixture
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chrome")


def write(evaluated: Any, folder: Path) -> Any:
    return write_accuracy_report(
        evaluated.report,
        folder,
        few_shot=evaluated.few_shot,
        published=evaluated.published,
        labels=LABELS,
        notes=[NOTE],
    )


@pytest.fixture
def written(evaluated: Any, no_browser: None, tmp_path: Path) -> Any:
    return write(evaluated, tmp_path / "report")


def test_without_a_browser_there_are_the_page_and_the_tables_and_one_line_says_why(written: Any) -> None:
    assert set(written.files) == {"report.html"} | {f"{name}.csv" for name in TABLES}
    assert written.remark.startswith("no PNG files: no Chrome found")
    assert "\n" not in written.remark


def test_page_loads_nothing_from_anywhere(written: Any) -> None:
    page = written.page.read_text()
    own = re.sub(r"<script>/\*\*\n\* plotly.*?</script>", "", page, count=1, flags=re.DOTALL)
    assert len(own) < len(page) / 4
    assert re.findall(r"<link|@import|url\(|src\s*=|https?://(?!www\.w3\.org|plot)", own) == []


def test_page_shows_every_figure_its_notes_and_where_its_data_lie(written: Any) -> None:
    page = written.page.read_text()
    assert all(f'id="{name}"' in page for name in FIGURES)
    assert "Four names &lt;one&gt; model&#x27;s times." in page
    sources = re.findall(r'<p class="source">Data: (.*?)</p>', page)
    assert {name.removesuffix(".csv") for source in sources for name in source.split(", ")} == TABLES


def test_tables_hold_the_raw_values(written: Any, evaluated: Any) -> None:
    with (written.page.parent / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == [split.mean for split in evaluated.report.splits]


def test_every_held_out_site_is_a_row(written: Any, evaluated: Any) -> None:
    with (written.page.parent / "sites.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(evaluated.report.sites)
    assert all(float(row["low_s"]) < float(row["predicted_s"]) < float(row["high_s"]) for row in rows)


def test_the_same_report_is_the_same_byte_for_byte_and_replaces_an_earlier_one(
    written: Any, evaluated: Any
) -> None:
    folder = written.page.parent
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write(evaluated, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_with_other_files_is_refused_and_left_alone(evaluated: Any, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="holds other files"):
        write_accuracy_report(evaluated.report, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_folder_for_a_report(evaluated: Any, tmp_path: Path) -> None:
    place = tmp_path / "report"
    place.write_text("")
    with pytest.raises(UsageError, match="is a file"):
        write_accuracy_report(evaluated.report, place)


def test_the_report_of_the_splits_alone_is_whole(evaluated: Any, no_browser: None, tmp_path: Path) -> None:
    written = write_accuracy_report(evaluated.report, tmp_path / "report")
    assert "few_shot.csv" not in written.files
    assert "accuracy.csv" in written.files


@pytest.mark.slow
def test_with_a_browser_every_figure_is_a_png(evaluated: Any, tmp_path: Path) -> None:
    written = write(evaluated, tmp_path / "report")
    if written.remark is not None:
        pytest.skip(written.remark)
    images = {name for name in written.files if name.endswith(".png")}
    assert images == {f"{name}.png" for name in FIGURES}
    for name in images:
        assert (written.page.parent / name).read_bytes().startswith(b"\x89PNG")

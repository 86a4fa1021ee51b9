"""The report of measured throughput: its page, its tables and its figures."""

from __future__ import annotations

import csv
from itertools import product
from pathlib import Path

import pytest

from kvpred.data.runs import Run
from kvpred.evaluation.throughput_views import ThroughputViews
from kvpred.reports.figures import Figure
from kvpred.reports.folder import Written
from kvpred.reports.style import method_label, method_marker
from kvpred.reports.throughput import (
    engine_table,
    summary_sheet,
    terminal_sheets,
    throughput_figures,
    throughput_record,
    totals_finding,
    write_throughput_report,
)
from kvpred.workflows.throughput import view_throughput
from tests.measured_runs import EAGER, make_run, make_runs, write_table

ENGINES = ("openvino", "transformers")
FIGURES = {"engines", "engine_speeds"} | {
    f"{name}_{number}_{engine}"
    for name in ("fixed_batch", "fixed_length", "speedup")
    for number, engine in enumerate(ENGINES, 1)
}
TABLES = {"totals", "engine_table", "engines", "summary", "throughput"}


def _views(folder: Path, runs: list[Run]) -> ThroughputViews:
    return view_throughput([write_table(folder / "runs.csv", runs)])


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> ThroughputViews:
    marked = make_run("kv-int8", 70, bsz=1, prompt_len=512, mark="busy host")
    runs = [*make_runs("transformers", laws=EAGER), *make_runs("openvino"), marked]
    return _views(tmp_path_factory.mktemp("runs"), runs)


@pytest.fixture(scope="module")
def figures(views: ThroughputViews) -> dict[str, Figure]:
    return {figure.name: figure for figure in throughput_figures(views)}


@pytest.fixture
def written(views: ThroughputViews, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chrome")
    return write_throughput_report(views, tmp_path / "report")


def _rows(written: Written, name: str) -> list[dict[str, str]]:
    with (written.page.parent / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_without_a_browser_there_are_the_page_and_the_tables_and_one_line_says_why(written: Written) -> None:
    assert set(written.files) == {"report.html"} | {f"{name}.csv" for name in TABLES}
    assert written.remark is not None and written.remark.startswith("no PNG files: no Chrome found")


def test_page_shows_every_figure_and_what_was_measured(written: Written, views: ThroughputViews) -> None:
    page = written.page.read_text(encoding="utf-8")
    assert all(f'id="{name}"' in page for name in FIGURES)
    assert all(note.partition(":")[0] in page for note in views.notes)


def test_table_holds_every_site_with_its_noise_and_its_marks(written: Written) -> None:
    rows = _rows(written, "throughput")
    assert len(rows) == 2 * 3 * 2 * 12 + 1
    compared = [row for row in rows if row["speedup"]]
    assert all(
        float(row["speedup_low"]) < float(row["speedup"]) < float(row["speedup_high"]) for row in compared
    )
    assert {row["speedup"] for row in rows if row["method"] == "fp16"} == {""}
    (marked,) = (row for row in rows if row["marked"] != "0")
    assert (marked["marks"], marked["doubtful"]) == ("busy host: 1", "True")


def test_totals_say_how_often_compression_is_slower(written: Written, views: ThroughputViews) -> None:
    rows = _rows(written, "totals")
    assert all(
        sum(int(row[name]) for name in ("faster", "slower", "within_noise")) == int(row["cases"]) == 24
        for row in rows
    )
    below = sum(int(row["below_1"]) for row in rows if row["stage"] == "decode")
    assert f"decodes slower than fp16 in {below} of 48 cases" in totals_finding(views)


def test_engine_table_shows_wins_on_one_engine_and_losses_on_the_other(views: ThroughputViews) -> None:
    table = engine_table(views)
    assert [column.heading for column in table.columns[3:]] == list(ENGINES)
    openvino, transformers = next(
        row[3:] for row in table.rows if (row[0], method_label(row[1])) == ("decode", "h2o")
    )
    assert "+0" in openvino
    assert float(openvino.partition("×")[0]) < 1 < float(transformers.partition("×")[0])


def test_every_figure_has_a_finding_a_caption_and_named_axes(figures: dict[str, Figure]) -> None:
    assert set(figures) == FIGURES
    for figure in figures.values():
        layout = figure.plot.to_dict()["layout"]
        assert layout["title"]["text"].replace("<br>", " ") == figure.finding
        assert any(character.isdigit() for character in figure.finding)
        assert "bars: ± 2 standard errors" in layout["title"]["subtitle"]["text"].replace("<br>", " ")
        named = {
            key[0] for key, axis in layout.items() if "axis" in key and axis.get("title", {}).get("text")
        }
        assert named == {"x", "y"}


def test_the_engines_title_names_the_method_that_turns(figures: dict[str, Figure]) -> None:
    finding = figures["engines"].finding
    assert finding.startswith("h2o decodes at ")
    assert ", but at 0." in finding and finding.endswith(" times on openvino")


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_axes_hold_every_point_and_bar(figures: dict[str, Figure], name: str) -> None:
    plot = figures[name].plot.to_dict()
    for trace, way in product(plot["data"], "xy"):
        axis = plot["layout"][trace[f"{way}axis"].replace(way, f"{way}axis")]
        low, high = (10**end if axis.get("type") == "log" else end for end in axis["range"])
        bars = trace.get("error_y", {}) if way == "y" else {}
        above, below = (bars.get(side, [0] * len(trace[way])) for side in ("array", "arrayminus"))
        for value, up, down in zip(trace[way], above, below, strict=True):
            assert low < value - down and value + up < high


def test_legends_name_each_method_once_in_its_own_colour(figures: dict[str, Figure]) -> None:
    for name in FIGURES - {"engines", "engine_speeds"}:
        traces = [trace for trace in figures[name].plot.data if trace.name]
        shown = [trace.name for trace in traces if trace.showlegend]
        assert sorted(shown) == sorted(set(shown)) == sorted({trace.name for trace in traces})
        assert all(trace.marker.color == method_marker(trace.name)["color"] for trace in traces)


def test_fp16_is_drawn_by_engine_each_with_a_dash_of_its_own(figures: dict[str, Figure]) -> None:
    figure = figures["engine_speeds"]
    dashes = {(trace.name, trace.line.dash) for trace in figure.plot.data}
    assert dashes == {("openvino", "solid"), ("transformers", "dash")}
    assert {trace.line.color for trace in figure.plot.data} == {method_marker("fp16")["color"]}
    assert figure.finding.startswith("At 4 × 4,096, fp16 decodes ")


def test_engines_share_scale_methods_and_sites(figures: dict[str, Figure]) -> None:
    plot = figures["engines"].plot
    strips = [trace for trace in plot.data if trace.mode == "markers" and trace.name]
    assert len(strips) == 2 * 2 * 2
    assert {len(trace.x) for trace in strips} == {12}
    assert plot.layout.yaxis2.matches == "y"


def test_marked_repeats_are_ringed(figures: dict[str, Figure]) -> None:
    rings = {
        name: [trace for trace in figure.plot.data if trace.marker.symbol == "circle-open"]
        for name, figure in figures.items()
    }
    assert {name: len(found) for name, found in rings.items() if found} == {"fixed_batch_1_openvino": 1}


def test_lengths_are_split_into_normal_and_long(figures: dict[str, Figure]) -> None:
    titles = [note.text for note in figures["fixed_batch_1_openvino"].plot.layout.annotations]
    assert titles == [
        f"{stage}, {side}"
        for stage in ("decode", "prefill")
        for side in ("normal (up to 1,024 tokens)", "long (over 1,024 tokens)")
    ]


def test_without_fp16_throughput_is_drawn_alone(tmp_path: Path) -> None:
    views = _views(tmp_path, [run for run in make_runs() if run.method != "fp16"])
    drawn = {figure.name: figure.finding for figure in throughput_figures(views)}
    assert set(drawn) == {"fixed_batch", "fixed_length"}
    assert "fastest" in drawn["fixed_batch"]
    assert [table.name for table in terminal_sheets(views)] == ["summary"]
    assert throughput_record(views)["totals"] == []


def test_single_repeats_have_no_bars_and_no_verdicts(tmp_path: Path) -> None:
    views = _views(tmp_path, make_runs(repeats=1))
    speedup = next(figure for figure in throughput_figures(views) if figure.name == "speedup")
    assert "no bars: the noise is unknown" in speedup.plot.layout.title.subtitle.text
    assert {bar for trace in speedup.plot.data for bar in trace.error_y.array} == {0.0}
    assert "beyond noise" not in speedup.finding
    records = summary_sheet(views).records()
    assert {row["slower"] for row in records} == {None}
    assert {row["noise_unknown"] for row in records} == {None, 12}


def test_one_site_is_drawn(tmp_path: Path) -> None:
    views = _views(tmp_path, make_runs(batches=(2,), prompts=(2048,)))
    assert [figure.name for figure in throughput_figures(views)] == ["fixed_batch", "speedup"]


def test_one_stage_is_drawn(tmp_path: Path) -> None:
    views = _views(tmp_path, [run for run in make_runs() if run.stage == "prefill"])
    assert all("prefill" in figure.finding for figure in throughput_figures(views))


def test_the_same_runs_are_the_same_report(written: Written, views: ThroughputViews) -> None:
    folder = written.page.parent
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_throughput_report(views, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.slow
def test_with_a_browser_every_figure_is_a_png(views: ThroughputViews, tmp_path: Path) -> None:
    written = write_throughput_report(views, tmp_path / "report")
    if written.remark is not None:
        pytest.skip(written.remark)
    assert {name for name in written.files if name.endswith(".png")} == {f"{name}.png" for name in FIGURES}

"""The report of operator profiles: its page, its tables and its figures."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from kvpred.data.store import write_profile
from kvpred.errors import UsageError
from kvpred.evaluation.profile_views import ProfileViews
from kvpred.reports.figures import Figure
from kvpred.reports.folder import Written
from kvpred.reports.profile import profile_figures, profile_record, write_profile_report
from kvpred.reports.profile_sheets import crossing_table, terminal_sheets
from kvpred.reports.style import method_label, method_marker
from kvpred.workflows.profile_views import view_profiles
from tests.in_place import make_profile

METHODS = ("fp16", "h2o", "kivi")
FIGURES = {
    *(f"{name}_{stage}" for name in ("attention", "speedup") for stage in ("decode", "prefill")),
    *("attention_share", "step_parts", "operators_explain"),
}
TABLES = {"summary", "crossing_table", "crossings", "attention_times", "step_times", "step_parts", "noise"}
ROOFLINE = {"bytes_s": 1.2e10, "flops_s": 1.5e11}


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> ProfileViews:
    root = tmp_path_factory.mktemp("profiles")
    for method in METHODS:
        profile = make_profile(method, noise=0.02)
        assert profile.manifest is not None
        more = {"roofline": ROOFLINE, "host": "<Xeon>", "noise": {"step": 0.02, "attn_decode": 0.03}}
        write_profile(root, replace(profile, manifest=profile.manifest.model_copy(update=more)))
    return view_profiles(root)


@pytest.fixture
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chrome")


@pytest.fixture
def written(views: ProfileViews, no_browser: None, tmp_path: Path) -> Written:
    return write_profile_report(views, tmp_path / "report")


@pytest.fixture(scope="module")
def figures(views: ProfileViews) -> dict[str, Figure]:
    return {figure.name: figure for figure in profile_figures(views)}


def _rows(written: Written, name: str) -> list[dict[str, str]]:
    with (written.page.parent / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_without_a_browser_there_are_the_page_and_the_tables_and_one_line_says_why(written: Written) -> None:
    assert set(written.files) == {"report.html"} | {f"{name}.csv" for name in TABLES}
    assert written.remark is not None
    assert written.remark.startswith("no PNG files: no Chrome found")


def test_page_shows_every_figure_and_says_what_was_measured_where(written: Written) -> None:
    page = written.page.read_text(encoding="utf-8")
    assert all(f'id="{name}"' in page for name in FIGURES)
    assert "host-cpu (&lt;Xeon&gt;); medians of 4 repeats" in page
    sources = re.findall(r'<p class="source">Data: (.*?)</p>', page)
    assert {name.removesuffix(".csv") for source in sources for name in source.split(", ")} == TABLES


def test_tables_do_not_pass_for_a_profile(written: Written) -> None:
    assert not {"attention.csv", "mlp.csv", "steps.csv"} & set(written.files)


def test_tables_hold_every_site(written: Written, views: ProfileViews) -> None:
    rows = _rows(written, "step_times")
    assert len(rows) == len(views.steps) == len(METHODS) * 32
    assert all(
        float(row["speedup_low"]) < float(row["speedup"]) < float(row["speedup_high"])
        for row in rows
        if row["speedup"]
    )
    assert {row["speedup"] for row in rows if row["method"] == "fp16"} == {""}
    shares: dict[tuple[str, ...], float] = {}
    for row in _rows(written, "step_parts"):
        site = (row["method"], row["stage"], row["bsz"], row["length"])
        shares[site] = shares.get(site, 0.0) + float(row["share"])
    assert list(shares.values()) == pytest.approx([1.0] * len(shares))


def test_the_same_profiles_are_the_same_report(written: Written, views: ProfileViews) -> None:
    folder = written.page.parent
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_profile_report(views, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_of_profiles_is_not_replaced(views: ProfileViews, tmp_path: Path) -> None:
    write_profile(tmp_path, make_profile())
    with pytest.raises(UsageError, match="holds other files"):
        write_profile_report(views, tmp_path)


def test_record_holds_what_the_tables_hold(views: ProfileViews) -> None:
    record = profile_record(views)
    assert set(record) == {"title", "caption", "notes"} | TABLES - {"crossing_table"}
    assert len(record["crossings"]) == len(views.crossings)


def test_terminal_names_the_crossings(views: ProfileViews) -> None:
    rows = {(row[0], method_label(row[1])): row[2:] for row in crossing_table(views).rows}
    assert all(re.fullmatch(r"[\d,]+ ↑\??|faster at \d of 5", cell) for cell in rows["decode", "h2o"][2:])
    assert all("slower" in cell for cell in rows["decode", "kivi"])
    assert [table.name for table in terminal_sheets(views)] == ["summary", "crossing_table"]


def test_every_figure_is_drawn_with_a_finding_and_a_caption(figures: dict[str, Figure]) -> None:
    assert set(figures) == FIGURES
    for figure in figures.values():
        title = figure.plot.layout.title
        assert title.text == figure.finding
        assert any(character.isdigit() for character in figure.finding)
        assert "medians of 4 repeats" in title.subtitle.text


def test_every_figure_names_its_axes(figures: dict[str, Figure]) -> None:
    for figure in figures.values():
        layout = figure.plot.to_dict()["layout"]
        named = {
            key[0] for key, axis in layout.items() if "axis" in key and axis.get("title", {}).get("text")
        }
        # Bars stand above the methods' names.
        assert named == ({"y"} if figure.name == "step_parts" else {"x", "y"})


@pytest.mark.parametrize("name", sorted(FIGURES - {"step_parts"}))
def test_axes_hold_every_point(figures: dict[str, Figure], name: str) -> None:
    plot = figures[name].plot.to_dict()
    for trace, way in product(plot["data"], "xy"):
        axis = plot["layout"][trace[f"{way}axis"].replace(way, f"{way}axis")]
        low, high = (10**end if axis.get("type") == "log" else end for end in axis["range"])
        assert all(low < value < high for value in trace[way] if value is not None)


def test_legends_name_each_thing_once(figures: dict[str, Figure]) -> None:
    for figure in figures.values():
        shown = [trace.name for trace in figure.plot.data if trace.showlegend is not False]
        assert len(shown) == len(set(shown)) > 0


def test_a_method_has_its_own_colour_in_every_figure(figures: dict[str, Figure]) -> None:
    colours = {name: method_marker(name)["color"] for name in METHODS}
    for name in FIGURES - {"step_parts"}:
        drawn = {trace.name: trace.marker.color for trace in figures[name].plot.data if trace.name in colours}
        assert drawn.items() <= colours.items()
        assert len(drawn) >= 2


def test_rooflines_are_one_per_method_for_decode_and_one_in_all_for_prefill(
    figures: dict[str, Figure],
) -> None:
    def dotted(name: str) -> set[tuple[Any, ...]]:
        traces = [t for t in figures[name].plot.data if t.line.dash == "dot" and t.y[0] is not None]
        return {(trace.line.color, trace.xaxis) for trace in traces}

    assert len(dotted("attention_decode")) == len(METHODS) * 4
    assert len(dotted("attention_prefill")) == 3


def test_speedups_that_may_be_noise_are_faint(figures: dict[str, Figure], views: ProfileViews) -> None:
    opacities = [
        opacity
        for trace in figures["speedup_decode"].plot.data
        if trace.marker.opacity is not None
        for opacity in trace.marker.opacity
    ]
    told = [s.told_apart for s in views.steps if s.speedup is not None and s.site.stage == "decode"]
    assert opacities.count(1.0) == sum(sign != 0 for sign in told)
    assert len(opacities) == len(told)


def test_one_method_alone_has_no_speedups(tmp_path: Path, no_browser: None) -> None:
    write_profile(tmp_path / "profiles", make_profile())
    views = view_profiles(tmp_path / "profiles")
    assert {f.name for f in profile_figures(views)} == {name for name in FIGURES if "speedup" not in name}
    assert "crossings.csv" not in write_profile_report(views, tmp_path / "report").files


def test_operators_alone_have_attention_and_shares(tmp_path: Path) -> None:
    for method in METHODS:
        write_profile(tmp_path, replace(make_profile(method), steps={}))
    drawn = {figure.name: figure for figure in profile_figures(view_profiles(tmp_path))}
    assert set(drawn) == {"attention_decode", "attention_prefill", "attention_share", "step_parts"}
    assert "operators' sum" in drawn["attention_share"].plot.layout.yaxis.title.text


def test_methods_without_a_common_site_are_drawn_all_the_same(tmp_path: Path) -> None:
    write_profile(tmp_path, make_profile(prefill=[(1, 64)], decode=[(1, 64)]))
    write_profile(tmp_path, make_profile("h2o", prefill=[(1, 96)], decode=[(1, 96)]))
    drawn = {figure.name for figure in profile_figures(view_profiles(tmp_path))}
    assert drawn == {"attention_decode", "attention_prefill", "attention_share", "operators_explain"}


@pytest.mark.slow
def test_with_a_browser_every_figure_is_a_png(views: ProfileViews, tmp_path: Path) -> None:
    written = write_profile_report(views, tmp_path / "report")
    if written.remark is not None:
        pytest.skip(written.remark)
    images = {name for name in written.files if name.endswith(".png")}
    assert images == {f"{name}.png" for name in FIGURES}
    for name in images:
        assert (written.page.parent / name).read_bytes().startswith(b"\x89PNG")

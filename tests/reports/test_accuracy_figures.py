from typing import Any

import pytest

from kvpred.reports import accuracy_figures as figures
from kvpred.reports.style import method_label, method_marker


@pytest.fixture(params=["predicted", "cells", "residuals", "intervals", "few_shot"])
def figure(request: pytest.FixtureRequest, evaluated: Any) -> Any:
    values = evaluated.few_shot if request.param == "few_shot" else evaluated.report
    return getattr(figures, f"{request.param}_figure")(values)


def test_title_states_a_finding_with_its_figures(figure: Any) -> None:
    assert "%" in figure.finding
    assert figure.plot.layout.title.text == figure.finding


def test_every_outer_axis_is_named(figure: Any) -> None:
    layout = figure.plot.to_dict()["layout"]
    named = [key for key, axis in layout.items() if "axis" in key and axis.get("title", {}).get("text")]
    assert any(key.startswith("yaxis") for key in named)
    assert figure.name == "accuracy_cells" or any(key.startswith("xaxis") for key in named)


def test_legend_names_each_thing_once(figure: Any) -> None:
    shown = [trace.name for trace in figure.plot.data if trace.showlegend is not False]
    assert len(shown) == len(set(shown)) > 0


def test_a_method_has_its_own_colour_in_every_figure(evaluated: Any) -> None:
    methods = {p.method for p in evaluated.report.sites}
    for draw in (figures.predicted_figure, figures.residuals_figure):
        drawn = {trace.name: trace.marker.color for trace in draw(evaluated.report).plot.data if trace.name}
        assert drawn == {method_label(method): method_marker(method)["color"] for method in methods}


def test_points_of_the_first_figure_are_the_held_out_lengths(evaluated: Any) -> None:
    plot = figures.predicted_figure(evaluated.report).plot
    points = sum(len(trace.x) for trace in plot.data if trace.mode == "markers")
    assert points == sum(p.split == "lengths" for p in evaluated.report.sites)


def test_intervals_title_counts_the_kept_promises(evaluated: Any) -> None:
    judged = [i for split in evaluated.report.splits for i in split.intervals]
    kept = sum(interval.kept for interval in judged)
    assert f"in {kept} of {len(judged)}" in figures.intervals_figure(evaluated.report).finding

"""Negative samples of small made-up runs: tables, records, figures and the report's folder.

Benign, by hand: baseline score at least the median and above 0. qasper: a, b, c (median 0.5); trec: 0, 1
(median 0.5); qmsum: 0 (median 0.3), which h2o lacks. Negative at 10 %:

========== ======== ===== ===== =====
run        qasper   trec  qmsum sum
========== ======== ===== ===== =====
kivi 4bits b        1     -     2 of 6
kivi 2bits a, b     1     0     4 of 6
h2o c256   a, b, c  -     n/a   3 of 5
all three  b        -     n/a   1 of 5
========== ======== ===== ===== =====
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from kvpred.data.scores import ScoreRun, read_score_runs, write_scores
from kvpred.errors import UsageError
from kvpred.evaluation.negatives import Definition, NegativeStudy, study_negatives
from kvpred.reports import negatives_figures as figures
from kvpred.reports.negatives import (
    all_sheet,
    counts_sheet,
    negatives_records,
    negatives_sheets,
    tasks_sheet,
    write_negatives_report,
)
from kvpred.reports.negatives_figures import looks
from kvpred.reports.negatives_overlap import overlap_figure, overlap_sheet, overlaps
from kvpred.reports.negatives_words import short_names
from kvpred.reports.style import GREEN, ORANGE, method_marker

SCORES = {
    "fp16_tiny_b1": {
        "qasper": {"a": 1.0, "b": 0.8, "c": 0.5, "d": 0.2, "e": 0.0},
        "trec": {"0": 1.0, "1": 1.0, "2": 0.0, "3": 0.0},
        "qmsum": {"0": 0.4, "1": 0.2},
    },
    "kivi_tiny_b1_4bits_group32": {
        "qasper": {"a": 1.0, "b": 0.4, "c": 0.5, "d": 0.2, "e": 0.0},
        "trec": {"0": 1.0, "1": 0.0, "2": 0.0, "3": 0.0},
        "qmsum": {"0": 0.4, "1": 0.2},
    },
    "kivi_tiny_b1_2bits_group32": {
        "qasper": {"a": 0.5, "b": 0.4, "c": 0.5, "d": 0.0, "e": 0.0},
        "trec": {"0": 1.0, "1": 0.0, "2": 1.0, "3": 0.0},
        "qmsum": {"0": 0.3, "1": 0.2},
    },
    "h2o_tiny_b1_c256_w64": {
        "qasper": {"a": 0.0, "b": 0.1, "c": 0.0, "d": 0.2, "e": 0.0},
        "trec": {"0": 1.0, "1": 1.0, "2": 0.0, "3": 0.0},
    },
}
BASELINE, *METHODS = SCORES
LABELS = ["kivi 4bits", "kivi 2bits", "h2o c256", "all three"]


def make_study(folder: Path, **options: object) -> NegativeStudy:
    for run, datasets in SCORES.items():
        for dataset, scores in datasets.items():
            write_scores(folder, run, dataset, scores)
    runs = read_score_runs(folder)
    groups = {name: [name] for name in METHODS} | {"all three": METHODS}
    chosen = {"groups": groups, "thresholds": [0.1, 0.32], **options}
    return study_negatives(runs[BASELINE], {name: runs[name] for name in METHODS}, **chosen)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> NegativeStudy:
    return make_study(tmp_path_factory.mktemp("scores"))


def test_counts_are_those_by_hand(study: NegativeStudy) -> None:
    rows = counts_sheet(study, 0.1).records()
    assert [row["label"] for row in rows] == LABELS
    assert [(row["samples"], row["benign"], row["negative"]) for row in rows] == [
        (11, 6, 2),
        (11, 6, 4),
        (9, 5, 3),
        (9, 5, 1),
    ]
    assert rows[1]["share_of_benign"] == pytest.approx(4 / 6)
    assert all(row["negative_low"] <= row["negative"] <= row["negative_high"] for row in rows)


def test_losses_are_of_datasets_that_both_have(study: NegativeStudy) -> None:
    four, _, h2o, together = [
        (row["mean_score"], row["baseline_score"], row["loss"]) for row in counts_sheet(study, 0.1).records()
    ]
    # Means of datasets: (0.42 + 0.25 + 0.3) / 3 and (0.5 + 0.5 + 0.3) / 3; h2o (0.06 + 0.5) / 2 and 0.5.
    assert four == pytest.approx((0.97 / 3, 1.3 / 3, 1 - 0.97 / 1.3))
    assert h2o == pytest.approx((0.28, 0.5, 0.44))
    assert together == (None, None, None)


def test_title_tells_the_smallest_loss_and_what_it_hides(study: NegativeStudy) -> None:
    # kivi 2bits: (0.28 + 0.5 + 0.25) / 1.3 = 0.792 of the baseline's.
    assert counts_sheet(study, 0.1).title == (
        "kivi 2bits loses 20.8 % of the mean score and breaks 4 of 6 good answers "
        "(by 10 % of their score or more)"
    )


def test_tables_by_threshold_task_and_dataset_agree_with_the_count_by_hand(study: NegativeStudy) -> None:
    _, thresholds, tasks, datasets, _ = (sheet.records() for sheet in negatives_sheets(study))
    # At 32 %, qmsum's 0.3 of 0.4 is no longer negative for kivi 2bits.
    assert [tuple(row.values()) for row in thresholds] == [
        ("kivi 4bits", 2, 2),
        ("kivi 2bits", 4, 3),
        ("h2o c256", 3, 3),
        ("all three", 1, 1),
    ]
    assert tasks[1] == {"label": "kivi 2bits", "single-doc-qa": 2, "summarization": 1, "few-shot": 1}
    assert tasks[2] == {"label": "h2o c256", "single-doc-qa": 3, "summarization": None, "few-shot": 0}
    assert [tuple(row.values()) for row in datasets] == [
        ("qasper", 5, 3, 1, 2, 3, 1),
        ("qmsum", 2, 1, 0, 1, None, None),
        ("trec", 4, 2, 1, 1, 0, 0),
    ]


def test_scores_on_what_all_break_are_of_those_samples(study: NegativeStudy) -> None:
    scores = negatives_sheets(study)[-1]
    row = {
        "samples": 1,
        "score_fp16": 0.8,
        "score_kivi 4bits": 0.4,
        "score_kivi 2bits": 0.4,
        "score_h2o c256": 0.1,
    }
    assert scores.records() == [{"task": "single-doc-qa", **row}, {"task": "all", **row}]
    assert scores.title == (
        "On the 1 sample that all 3 runs break, the baseline scores 0.80 and the best run, kivi 4bits, 0.40"
    )


def test_each_broken_sample_is_in_one_combination(study: NegativeStudy) -> None:
    four, two, h2o = METHODS
    # b by all; a by the last two; c by h2o; trec's 1 by both of kivi; qmsum is not h2o's to break.
    assert overlaps(study, 0.1) == {(two, h2o): 1, (four, two, h2o): 1, (h2o,): 1, (four, two): 1}
    union = {
        (part.dataset, key)
        for name in METHODS
        for part in study.cells[name, 0.1].datasets
        if part.dataset != "qmsum"
        for key in part.negative
    }
    assert sum(row["negative"] for row in overlap_sheet(study, 0.1).records()) == len(union) == 4


def test_the_sum_as_listed_stands_beside_the_count(tmp_path: Path) -> None:
    for run, score in zip(SCORES, (1.0, 0.5, 0.5, 1.0), strict=True):
        write_scores(tmp_path, run, "passage_count", {"0": score})
    study = make_study(tmp_path, definition=Definition.artifact)
    record = negatives_records(study)[0]
    assert (
        record["negative_as_listed"] == record["negative"] + record["by_dataset"]["passage_count"]["negative"]
    )


def test_records_hold_everything_and_are_json(study: NegativeStudy) -> None:
    records = json.loads(json.dumps(negatives_records(study), allow_nan=False))
    assert len(records) == 4 * 2
    together = next(one for one in records if one["label"] == "all three" and one["threshold"] == 0.1)
    assert together["methods"] == METHODS
    assert (together["samples"], together["benign"], together["negative"]) == (9, 5, 1)
    assert together["by_dataset"]["qasper"] == {"samples": 5, "benign": 3, "negative": 1}
    assert together["by_task"]["few-shot"] == {"samples": 4, "benign": 2, "negative": 0}
    assert together["missing_datasets"] == ["qmsum"]
    assert together["baseline_score"] == pytest.approx(0.5)
    assert together["scores"][METHODS[2]] == pytest.approx(0.28)
    assert (together["center"], together["definition"], together["interval_level"]) == (
        "median",
        "algorithm",
        0.9,
    )


def test_figures_draw_what_their_tables_hold(study: NegativeStudy) -> None:
    table = all_sheet(study).records()
    for trace in figures.threshold_figure(study, 0.1).plot.data:
        assert list(trace.y) == [row["negative"] for row in table if row["label"] == trace.name]

    shares = {
        (row["label"], row["task"]): row["share_of_negative"] for row in tasks_sheet(study, 0.1).records()
    }
    for trace in figures.tasks_figure(study, 0.1).plot.data:
        drawn = [share / 100 for share in reversed(trace.x[:-1])]
        assert drawn == pytest.approx([shares.get((label, trace.name), 0) for label in LABELS])
        # The last bar is of the benign samples: 3 of qasper, 2 of trec, 1 of qmsum.
        assert trace.customdata[-1] == {"single-doc-qa": 3, "few-shot": 2, "summarization": 1}[trace.name]

    counts = [row for row in counts_sheet(study, 0.1).records() if row["loss"] is not None]
    points = [(trace.x[0], trace.y[0]) for trace in figures.loss_figure(study, 0.1).plot.data]
    assert points == [(pytest.approx(100 * row["loss"]), row["negative"]) for row in counts]

    scores = negatives_sheets(study)[-1].records()
    bars = figures.scores_figure(study, 0.1)
    assert bars is not None
    for trace in bars.plot.data:
        assert list(trace.y) == [row[f"score_{trace.name}"] for row in scores]

    upset = overlap_figure(study, 0.1)
    assert upset is not None
    assert list(upset.plot.data[0].y) == [row["negative"] for row in overlap_sheet(study, 0.1).records()]


def test_names_stand_beside_their_points_inside_and_apart() -> None:
    points = {"left of two": (5.0, 5.0), "right of two": (5.5, 5.0), "at the edge": (10.0, 9.0)}
    sides = figures._text_sides(points, (0.0, 10.5), (0.0, 10.0))
    assert sides == {"left of two": "left", "right of two": "right", "at the edge": "left"}


def test_axes_hold_every_point_and_interval(study: NegativeStudy) -> None:
    for figure in (figures.threshold_figure(study, 0.1), figures.loss_figure(study, 0.1)):
        low, high = figure.plot.layout.yaxis.range
        for trace in figure.plot.data:
            for value, up, down in zip(trace.y, trace.error_y.array, trace.error_y.arrayminus, strict=True):
                assert low <= value - down and value + up <= high


def test_methods_keep_their_colours_and_budgets_differ(study: NegativeStudy) -> None:
    four, two, h2o, together = figures.threshold_figure(study, 0.1).plot.data
    assert (four.line.color, two.line.color, h2o.line.color) == (ORANGE, ORANGE, GREEN)
    assert four.line.dash != two.line.dash and four.marker.symbol != two.marker.symbol
    assert together.line.color not in {ORANGE, GREEN}
    bars = figures.scores_figure(study, 0.1)
    assert bars is not None
    assert bars.plot.data[0].marker.color == method_marker("fp16")["color"]


def test_unknown_methods_are_told_apart() -> None:
    found = looks({"mine_a": "mine", "mine_b": "mine", "yours_a": "yours"})
    assert found["mine_a"].colour == found["mine_b"].colour != found["yours_a"].colour


@pytest.mark.parametrize(
    ("names", "short"),
    [
        pytest.param(["hf_m_b1", "kivi_m_b1_4bits_g32"], ["hf", "kivi 4bits"], id="one run of a method"),
        pytest.param(
            ["fp16", "kivi_bits=4_residual=64", "kivi_bits=4_residual=128"],
            ["fp16", "kivi bits=4 residual=64", "kivi bits=4 residual=128"],
            id="runs that differ late",
        ),
        pytest.param(["a_x_y_z", "a_x_z_y"], ["a_x_y_z", "a_x_z_y"], id="not told apart by parts"),
        pytest.param(["kivi_m"], ["kivi m"], id="nothing to compare with"),
    ],
)
def test_names_are_short_and_distinct(names: list[str], short: list[str]) -> None:
    assert list(short_names(names).values()) == short


def test_report_holds_every_figures_data(
    study: NegativeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent/chrome")
    written = write_negatives_report(study, tmp_path / "report")
    page = written.page.read_text(encoding="utf-8")
    for name in ("loss", "threshold", "tasks", "scores", "overlap"):
        assert f'id="{name}"' in page
    tables = ("", "_counts", "_thresholds", "_by_task", "_tasks", "_datasets", "_scores", "_overlap")
    assert {f"negatives{table}.csv" for table in tables} <= set(written.files)
    with (tmp_path / "report" / "negatives.csv").open(encoding="utf-8") as file:
        rows = {(row["runs"], row["threshold"]): row for row in csv.DictReader(file)}
    assert rows[METHODS[1], "0.1"]["negative"] == "4"
    assert rows[METHODS[2], "0.1"]["missing_datasets"] == "qmsum"


def test_nothing_broken_by_all_leaves_out_that_figure(study: NegativeStudy) -> None:
    same = study_negatives(
        study.baseline,
        {"same_tiny": ScoreRun("same_tiny", study.baseline.scores)},
        groups={"same_tiny": ["same_tiny"]},
        thresholds=[0.1],
    )
    assert figures.scores_figure(same, 0.1) is None
    assert overlap_figure(same, 0.1) is None
    counts, *_, scores = negatives_sheets(same)
    assert counts.title.startswith("same keeps the mean score and breaks 0 of 6 good answers")
    assert scores.rows == ()


def test_threshold_that_was_not_studied_is_refused(study: NegativeStudy) -> None:
    with pytest.raises(UsageError, match="threshold of 5 %, only at 10 %, 32 %"):
        negatives_sheets(study, 0.05)

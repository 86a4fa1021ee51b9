"""Write the accuracy report: one page, every table and figure as CSV, and the figures as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kvpred.evaluation.accuracy_report import AccuracyReport
from kvpred.evaluation.few_shot import FewShotReport
from kvpred.evaluation.published import PublishedScoring
from kvpred.reports import accuracy_figures as figures
from kvpred.reports import accuracy_sheets as sheets
from kvpred.reports.figures import Figure
from kvpred.reports.folder import Written, check_report_folder, write_report
from kvpred.reports.sheets import Sheet

TITLE = "Accuracy on held-out sites"


def write_accuracy_report(
    report: AccuracyReport,
    folder: Path | str,
    *,
    few_shot: FewShotReport | None = None,
    published: PublishedScoring | None = None,
    labels: Mapping[str, Mapping[str, float]] | None = None,
    notes: Sequence[str] = (),
) -> Written:
    """Write the report into a folder, in one step.

    Parameters
    ----------
    report : AccuracyReport
    folder : path
        Made if missing; an earlier report in it is replaced.
    few_shot : FewShotReport, optional
    published : PublishedScoring, optional
    labels : mapping of str to mapping, optional
        By label, what `kvpred.evaluation.labels.evaluate_label` found.
    notes : sequence of str
        What a reader must know about the measurements, a sentence each; shown first.

    Raises
    ------
    UsageError
        If the folder holds anything but an earlier report, or cannot be written to.
    MissingExtraError
        If Plotly is not installed.
    """
    folder = Path(folder)
    check_report_folder(folder)
    return write_report(
        folder,
        title=TITLE,
        notes=[*notes, *_own_notes(report)],
        parts=_parts(report, few_shot, published, labels),
        data=_data_sheets(report, few_shot),
    )


def _parts(
    report: AccuracyReport,
    few_shot: FewShotReport | None,
    published: PublishedScoring | None,
    labels: Mapping[str, Mapping[str, float]] | None,
) -> list[Sheet | Figure]:
    """Return the page's tables and figures in the order of reading."""
    held_out = {"lengths", "batches"} & {split.split for split in report.splits}
    parts: list[Sheet | Figure] = [
        sheets.summary_sheet(report),
        figures.cells_figure(report),
        figures.predicted_figure(report),
        *([figures.residuals_figure(report)] if held_out else []),
        sheets.worst_sheet(report),
        figures.intervals_figure(report),
        sheets.intervals_sheet(report),
        sheets.ranking_sheet(report),
    ]
    if few_shot is not None:
        parts += [
            figures.few_shot_figure(few_shot),
            sheets.few_shot_sheet(few_shot),
            sheets.few_shot_intervals_sheet(few_shot),
        ]
    if labels:
        parts.append(sheets.label_sheet(report, labels))
    if published is not None:
        parts.append(sheets.published_sheet(published))
    return [*parts, sheets.cells_sheet(report)]


def _data_sheets(report: AccuracyReport, few_shot: FewShotReport | None) -> list[Sheet]:
    """Return the sheets that are too long for the page."""
    return [sheets.sites_sheet(report)] + (
        [sheets.few_shot_cells_sheet(few_shot)] if few_shot is not None else []
    )


def _own_notes(report: AccuracyReport) -> list[str]:
    """Return what every such report has to say about its figures."""
    moved = f" The prompt lengths of {report.n_moved} decode runs were aligned." if report.n_moved else ""
    return [
        f"{report.n_sites} sites are medians of {report.n_runs} runs.{moved}",
        "Accuracy is the mean of 1 - |predicted - measured| / measured. Whole lengths or whole batch "
        "sizes are held out; the form is chosen and every coefficient fitted without them. Random rows "
        "leave neighbours of every site in the training set and stand here for comparison only.",
        "The noise ceiling is the accuracy expected of a predictor that knows every true time, given "
        "how the repeats of a site scatter. Where they carry labels, what these differ by counts as "
        "noise, so the ceiling can be passed.",
        "The copy takes fp16's own fit for every method, with the tokens that the method attends to. "
        "Skill is 1 - error / error of the copy over all methods but fp16: 0 % is no better than "
        "copying, 100 % perfect.",
        "Two methods are told apart at a site where their medians differ by more than two standard "
        "errors; only such pairs count for the order and for the sign of speed-ups.",
        *(f"Not held out: {split} ({reason})." for split, reason in report.left_out.items()),
    ]

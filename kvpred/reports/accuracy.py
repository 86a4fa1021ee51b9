"""Write the accuracy report: one page, every table and figure as CSV, and the figures as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvpred.data.files import replaced_folder, write_text
from kvpred.errors import UsageError
from kvpred.evaluation.accuracy_report import AccuracyReport
from kvpred.evaluation.few_shot import FewShotReport
from kvpred.evaluation.published import PublishedScoring
from kvpred.reports import accuracy_figures as figures
from kvpred.reports import accuracy_sheets as sheets
from kvpred.reports.figures import Figure, require_plotly
from kvpred.reports.images import write_images
from kvpred.reports.page import html_page
from kvpred.reports.sheets import Sheet

PAGE = "report.html"
TITLE = "Accuracy on held-out sites"
_OURS = (".html", ".csv", ".png")


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Parameters
    ----------
    page : Path
        The HTML page; CSV and PNG files lie beside it.
    files : tuple of str
        Names of all files.
    remark : str or None
        Why there are no PNG files, in one line; None if there are.
    """

    page: Path
    files: tuple[str, ...]
    remark: str | None


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
    require_plotly()
    folder = Path(folder)
    _check_free(folder)
    parts = _parts(report, few_shot, published, labels)
    drawn = [part for part in parts if isinstance(part, Figure)]
    data = {part.name: part for part in parts if isinstance(part, Sheet)} | {
        sheet.name: sheet for sheet in _data_sheets(report, few_shot)
    }
    page = html_page(TITLE, notes=[*notes, *_own_notes(report)], parts=parts)
    with replaced_folder(folder) as draft:
        write_text(draft / PAGE, page)
        for sheet in data.values():
            write_text(draft / f"{sheet.name}.csv", sheet.csv())
        remark = write_images(drawn, draft)
        files = tuple(sorted(path.name for path in draft.iterdir()))
    return Written(folder / PAGE, files, remark)


def _check_free(folder: Path) -> None:
    """Refuse a folder that writing the report would take other files from."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder for the report")
    names = {path.name for path in folder.iterdir()}
    if names and (PAGE not in names or any(not name.endswith(_OURS) for name in names)):
        raise UsageError(
            f"{folder} holds other files; name a new or empty folder, or one with an earlier report"
        )


def _parts(
    report: AccuracyReport,
    few_shot: FewShotReport | None,
    published: PublishedScoring | None,
    labels: Mapping[str, Mapping[str, float]] | None,
) -> list[Sheet | Figure]:
    """Return the page's tables and figures in the order of reading."""
    parts: list[Sheet | Figure] = [
        sheets.summary_sheet(report),
        figures.cells_figure(report),
        figures.predicted_figure(report),
        figures.residuals_figure(report),
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

"""A report's folder: one HTML page, all tables as CSV and all figures as PNG, written in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kvpred.data.files import replaced_folder, write_text
from kvpred.errors import UsageError
from kvpred.reports.figures import Figure, require_plotly
from kvpred.reports.images import write_images
from kvpred.reports.page import html_page
from kvpred.reports.sheets import Sheet

PAGE = "report.html"
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


def check_report_folder(folder: Path) -> None:
    """Refuse a folder that writing a report would take other files from.

    Raises
    ------
    UsageError
        If it is a file, or holds anything but an earlier report.
    MissingExtraError
        If Plotly is not installed.
    """
    require_plotly()
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder for the report")
    names = {path.name for path in folder.iterdir()}
    if names and (PAGE not in names or any(not name.endswith(_OURS) for name in names)):
        raise UsageError(
            f"{folder} holds other files; name a new or empty folder, or one with an earlier report"
        )


def write_report(
    folder: Path,
    *,
    title: str,
    notes: Sequence[str],
    parts: Sequence[Sheet | Figure],
    data: Sequence[Sheet] = (),
) -> Written:
    """Write a report into a folder, in one step.

    Parameters
    ----------
    folder : Path
        Made if missing; an earlier report in it is replaced.
    title : str
    notes : sequence of str
        What a reader must know first, a sentence each.
    parts : sequence of Sheet or Figure
        The page, in the order of reading.
    data : sequence of Sheet
        Tables that are too long for the page.

    Raises
    ------
    UsageError, MissingExtraError
        See `check_report_folder`; or if the folder cannot be written to.
    """
    check_report_folder(folder)
    figures = [part for part in parts if isinstance(part, Figure)]
    sheets = {part.name: part for part in (*parts, *data) if isinstance(part, Sheet)}
    page = html_page(title, notes=notes, parts=parts)
    with replaced_folder(folder) as draft:
        write_text(draft / PAGE, page)
        for sheet in sheets.values():
            write_text(draft / f"{sheet.name}.csv", sheet.csv())
        remark = write_images(figures, draft)
        files = tuple(sorted(path.name for path in draft.iterdir()))
    return Written(folder / PAGE, files, remark)

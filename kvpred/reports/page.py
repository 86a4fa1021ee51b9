"""One self-contained HTML page of notes, tables and figures; it loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from kvpred.reports.figures import Figure
from kvpred.reports.sheets import Sheet
from kvpred.reports.style import FONT, WIDTH

_CSS = f"""
body {{ font: 15px/1.5 {FONT}; color: #222; max-width: {WIDTH}px; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.15rem; margin-top: 2.5rem; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 3px 10px; text-align: left; vertical-align: top; }}
th {{ border-bottom: 1.5px solid #222; vertical-align: bottom; }}
td {{ border-bottom: 1px solid #ddd; }}
.number {{ text-align: right; }}
.source {{ color: #666; font-size: 12px; }}
"""


def html_page(title: str, *, notes: Sequence[str], parts: Sequence[Sheet | Figure]) -> str:
    """Return a page.

    Parameters
    ----------
    title : str
    notes : sequence of str
        What a reader must know first, a sentence each.
    parts : sequence of Sheet or Figure
        In the order of reading.
    """
    from plotly.offline import get_plotlyjs

    body = "\n".join(_table(part) if isinstance(part, Sheet) else _figure(part) for part in parts)
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{_CSS}</style>\n<script>{get_plotlyjs()}</script>\n</head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n<ul>{listed}</ul>\n{body}\n</body>\n</html>\n"
    )


def _table(sheet: Sheet) -> str:
    kinds = [' class="number"' if column.numeric else "" for column in sheet.columns]
    head = "".join(
        f"<th{kind}>{escape(column.heading)}</th>" for kind, column in zip(kinds, sheet.columns, strict=True)
    )
    rows = "\n".join(
        "<tr>"
        + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in sheet.shown()
    )
    return (
        f'<h2>{escape(sheet.title)}</h2>\n<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>\n{_source([sheet.name])}"
    )


def _figure(figure: Figure) -> str:
    drawn = figure.plot.to_html(
        full_html=False, include_plotlyjs=False, div_id=figure.name, config={"displaylogo": False}
    )
    return f'<div class="scroll">{drawn}</div>\n{_source(figure.sheets)}'


def _source(names: Sequence[str]) -> str:
    files = ", ".join(f"{name}.csv" for name in names)
    return f'<p class="source">Data: {escape(files)}</p>'

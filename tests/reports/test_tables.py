from rich.console import Console, RenderableType

from kvpred.reports.sheets import Column, percent, sheet
from kvpred.reports.tables import rich_table, rich_tables

SHEET = sheet(
    "t", "Accuracy", (Column("m", "Method"), Column("a", "Accuracy %", percent)), [("[red]", 0.975)]
)


def drawn(renderable: RenderableType) -> str:
    console = Console(width=60)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_numbers_stand_to_the_right() -> None:
    assert [column.justify for column in rich_table(SHEET).columns] == ["left", "right"]


def test_titles_values_and_notes_are_shown_as_they_are() -> None:
    text = drawn(rich_tables([SHEET], notes=["Medians of 3 runs."]))
    assert all(part in text for part in ("Accuracy", "[red]", "97.5", "Medians of 3 runs."))
